"""Label fields: the labels of an image's crops as a function of their edges (spec/field-v1.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError
from softlabel_codec.labels import SparseLabels
from softlabel_codec.quantise.field_fit import FieldNumbers, FieldTask, FitFields, fit_one_by_one
from softlabel_codec.quantise.places import Places
from softlabel_codec.quantise.selection import check_probs, wrong_labels

NUM_FEATURES = 7
"""F: features without the constant one."""
HELD_OUT = 10
"""Each so-many-th crop is left out to measure how a field does on crops that it was not made from."""
NOT_MEASURED = 0
NONE_OR_ALL = "a field lists no class, or all"
_FEATURE_UNITS = 2.0**20
"""Features are multiples of one divided by this."""
_KL_CODE_OF_1 = 160
"""Code of a KL of 1 nat: codes reach from 1e-6 to 3700 nats."""


class FieldCodes(NamedTuple):
    """The fields of I images as integers, and R crops of these images.

    Attributes
    ----------
    classes : int64 (I, N)
        Listed classes, ascending in each row, padded with -1 at the end.
    levels : int64 (I, N)
        Level of each; 0 where padded.
    slopes : int64 (I, F, N)
        Slopes of each along the features; 0 where padded.
    fitted, unseen : int64 (I,)
        Codes of the KL on crops that the field was made from, and on others.
    edges : float64 (R, 4)
        top, left, bottom and right edge of each crop as fractions of the image with its padding.
    field_of : int64 (R,)
        Which image each crop belongs to.
    """

    classes: NDArray[np.int64]
    levels: NDArray[np.int64]
    slopes: NDArray[np.int64]
    fitted: NDArray[np.int64]
    unseen: NDArray[np.int64]
    edges: NDArray[np.float64]
    field_of: NDArray[np.int64]

    def at(self, edges: NDArray[np.float64], field_of: NDArray[np.int64]) -> FieldCodes:
        """Return the same fields, and other crops."""
        return self._replace(edges=edges, field_of=field_of)


class FieldQuantiser:
    """Quantiser of fields."""

    def __init__(self, codec: Codec, num_classes: int) -> None:
        self._codec, self._num_classes = codec, num_classes

    def quantise(self, labels: Mapping[str, Any], num_crops: int, places: Places | None = None) -> FieldCodes:
        if set(labels) != {"probs"}:
            raise wrong_labels(self._codec, "probs", labels)
        assert places is not None
        probs = np.asarray(check_probs(labels["probs"], num_crops, self._num_classes), np.float32)
        return self.fit([(probs, places)], fit_one_by_one)[0]

    def fit(self, images: Sequence[tuple[Any, Places]], fit: FitFields) -> list[FieldCodes]:
        """Return the codes of images, from their probabilities (M, C), which are valid and as `fit` takes them."""
        measured = [places.measured and len(probs) >= HELD_OUT for probs, places in images]
        tasks: list[FieldTask] = []
        for (probs, places), also_unseen in zip(images, measured, strict=True):
            features, left_out = features_of(places.edges), np.arange(len(probs)) % HELD_OUT == HELD_OUT - 1
            tasks += [FieldTask(probs, features), FieldTask(probs, features, left_out)][: 1 + also_unseen]
        found, codes = iter(fit(tasks, self._codec.step, self._codec.cost)), []
        for (_, places), also_unseen in zip(images, measured, strict=True):
            numbers, fitted_kl = next(found)
            unseen = kl_code(next(found)[1]) if also_unseen else NOT_MEASURED
            codes.append(_codes_of(numbers, kl_code(fitted_kl), unseen, places.edges))
        return codes

    def dequantise(self, codes: FieldCodes, policy: str) -> SparseLabels:
        listed = codes.classes >= 0
        numbers = np.concatenate([codes.levels[:, None], codes.slopes], axis=1)
        logits = self._codec.step * _sums(features_of(codes.edges), numbers.astype(np.float64), codes.field_of)
        kept = listed[codes.field_of]
        logits[~kept] = -np.inf
        top = np.maximum(logits.max(axis=1, initial=0), 0)
        powers = np.exp(logits - top[:, None])
        rest = (self._num_classes - listed.sum(axis=1))[codes.field_of] * np.exp(-top)
        total = powers.sum(axis=1) + rest
        indices = codes.classes[codes.field_of].astype(np.int32)
        values = (powers / total[:, None]).astype(np.float32)
        rows, first = np.arange(len(indices)), logits.argmax(axis=1)
        for array in (indices, values):  # the most probable class changes places with the first
            array[rows, 0], array[rows, first] = array[rows, first], array[:, 0].copy()
        return SparseLabels(indices, values, (rest / total).astype(np.float32), self._num_classes, policy)

    def concatenate(self, parts: Sequence[FieldCodes]) -> FieldCodes:
        if len(parts) == 1:
            return parts[0]
        width = max(part.classes.shape[1] for part in parts)
        first = np.cumsum([0, *(len(part.classes) for part in parts[:-1])])
        return FieldCodes(
            np.concatenate([_widen(part.classes, width, -1) for part in parts]),
            np.concatenate([_widen(part.levels, width, 0) for part in parts]),
            np.concatenate([_widen(part.slopes, width, 0) for part in parts]),
            np.concatenate([part.fitted for part in parts]),
            np.concatenate([part.unseen for part in parts]),
            np.concatenate([part.edges for part in parts]),
            np.concatenate([start + part.field_of for start, part in zip(first, parts, strict=True)]),
        )

    def rows(self, codes: FieldCodes, rows: slice, image: int) -> FieldCodes:
        one = slice(image, image + 1)
        num_listed = int((codes.classes[image] >= 0).sum())
        edges = codes.edges[rows]
        return FieldCodes(
            codes.classes[one, :num_listed],
            codes.levels[one, :num_listed],
            codes.slopes[one, :, :num_listed],
            codes.fitted[one],
            codes.unseen[one],
            edges,
            np.zeros(len(edges), np.int64),
        )

    def policy(self, asked: str | None) -> str:
        if asked not in (None, self._codec.policy):
            raise ArgumentError(
                f"policy: labels of {str(self._codec)!r} say what every class has, so only {self._codec.policy!r} fits, got {asked!r}"
            )
        return self._codec.policy

    def num_entries(self, codes: FieldCodes) -> tuple[int, int, int]:
        num_listed = codes.classes.shape[1]
        return 0, num_listed, (NUM_FEATURES + 1) * num_listed

    def expected_bytes(self, codes: FieldCodes) -> int:
        return 4 * codes.classes.size  # many numbers are 0, and images read together share tables: so a block holds about 25 of them

    def most_bytes(self, codes: FieldCodes) -> int:
        return 16 * codes.classes.size


def _codes_of(numbers: FieldNumbers, fitted: int, unseen: int, edges: NDArray[np.float64]) -> FieldCodes:
    """Return the codes of one image."""
    of_field = numbers.classes[None], numbers.levels[None], numbers.slopes[None]
    return FieldCodes(*of_field, np.array([fitted]), np.array([unseen]), edges, np.zeros(len(edges), np.int64))


def features_of(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the features of crops, float64 (R, F + 1), from their edges (R, 4): spec/field-v1.md, section 3.

    They are rounded so that sums of their products with integers are exact: logits do not depend on what else is read with a crop.
    """
    top, left, bottom, right = np.clip(edges, 0, 1).T
    height, width = bottom - top, right - left
    size = (width + height - 1.25) / 0.35
    across, down, shape = (left + right - 1) / 0.25, (top + bottom - 1) / 0.25, (width - height) / 0.2
    squares = (0.75 * (size * size - 1), 0.75 * (across * across - 1), 0.75 * (down * down - 1))
    return np.rint(np.stack([np.ones(len(edges)), size, across, down, shape, *squares], axis=1) * _FEATURE_UNITS) / _FEATURE_UNITS


def kl_code(kl: float) -> int:
    """Return the code of a mean KL in nats (spec/field-v1.md, section 5)."""
    return int(np.clip(np.rint(8 * np.log2(max(kl, 2.0**-20)) + _KL_CODE_OF_1), 1, 255))


def kl_of_codes(codes: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the KL that codes stand for, float64, NaN where it was not measured."""
    return np.where(codes == NOT_MEASURED, np.nan, 2.0 ** ((codes - float(_KL_CODE_OF_1)) / 8))


def check_listed(classes: NDArray[np.int64], num_classes: int) -> None:
    """Raise CorruptError unless classes (I, N), padded with -1, ascend below `num_classes` and leave a class out."""
    listed = classes >= 0
    if (classes >= num_classes).any() or ((classes[:, 1:] <= classes[:, :-1]) & listed[:, 1:]).any():
        raise CorruptError("the classes of a field do not ascend below the number of classes")
    counts = listed.sum(axis=1)
    if (counts < 1).any() or (counts >= num_classes).any():
        raise CorruptError(NONE_OR_ALL)


def _sums(features: NDArray[np.float64], weights: NDArray[np.float64], field_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits of crops in steps (R, N), from their features (R, F + 1) and the numbers (I, F + 1, N) of their images' fields.

    Crops are in the order of their images.
    """
    counts = np.bincount(field_of, minlength=len(weights))
    if (counts == counts[0]).all():
        together: NDArray[np.float64] = np.matmul(features.reshape(len(weights), counts[0], -1), weights)
        return together.reshape(len(features), -1)
    parts = np.split(features, np.cumsum(counts)[:-1])
    return np.concatenate([part @ of_image for part, of_image in zip(parts, weights, strict=True)])


def _widen(array: NDArray[np.int64], width: int, fill: int) -> NDArray[np.int64]:
    missing = width - array.shape[-1]
    return np.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, missing),), constant_values=fill) if missing else array
