"""Labels as files of other projects hold them: what kind they are, which codec keeps them exactly, and how the writer takes them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import MIN_THRESHOLD, Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.quantise.selection import SUM_TOLERANCE

PROBS, LOGITS, FEATURES, INDICES, VALUES = "probs", "logits", "features", "indices", "values"
KINDS = (PROBS, LOGITS, FEATURES, INDICES)
EXACT_INDICES = {2: 2049, 4: 2**24 + 1}
"""Number of classes whose indices a float of that many bytes holds exactly."""
NEARLY_ONE = 0.01
"""Rows whose probabilities sum to 1 within this, but not within the writer's tolerance, are divided by their sum."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """What labels a source has. All its images have the same.

    Attributes
    ----------
    name : str
        `probs`, `logits` or `features` (M, C), or `indices` (M, K), with values or without.
    num_classes : int
        C.
    k : int or None
        K, the number of kept classes (of the first image, where a threshold decides); None if all are there.
    float_bytes : int or None
        2 or 4: the precision of the numbers that is kept; None if there are only class indices.
    stored_as : Codec or None
        The codec from which one of our label files was exported.
    """

    name: str
    num_classes: int
    k: int | None
    float_bytes: int | None
    stored_as: Codec | None = None

    def __str__(self) -> str:
        floats = f", float{8 * self.float_bytes}" if self.float_bytes else ""
        of_all = f"{counted(self.num_classes, 'class', 'classes')}{floats}"
        if self.name != INDICES:
            return f"{'probabilities' if self.name == PROBS else self.name} of {of_all}"
        what = f"the {self.k} most probable" if self.k != 1 else "the most probable one"
        return f"{what} of {of_all}" if self.float_bytes else f"{what} of {of_all}, without its probability"

    @property
    def numbers_of_crop(self) -> int:
        """How many numbers the labels of a crop have, about."""
        return 2 * (self.k or 1) if self.name == INDICES else self.num_classes

    @property
    def codec(self) -> Codec:
        """The codec that keeps these labels as they are."""
        values = None if self.float_bytes is None else f"f{8 * self.float_bytes}"
        if self.name != INDICES:
            return Codec("dense", values=values, content=self.name)
        if values is None:
            return Codec("hard")
        if self.stored_as is not None and self.stored_as.family == "sparse" and self.stored_as.name != "hard":
            name = self.stored_as.name
            return Codec(name, values=values) if name == "smoothing" else Codec(name, k=self.stored_as.k, t=self.threshold, values=values)
        return Codec("marginal_smoothing", k=self.k, values=values)

    @property
    def threshold(self) -> float | None:
        """A probability that no kept class is below; None if K are kept. In steps (`log8`), values may come out below that of the codec."""
        if self.stored_as is None or self.stored_as.t is None:
            return None
        rounding = math.exp(-self.stored_as.step) * (1 - 1e-6) if self.stored_as.values == "log8" else 1.0
        return max(MIN_THRESHOLD, self.stored_as.t * rounding)

    def check_codec(self, codec: Codec) -> None:
        """Raise ArgumentError if the labels do not have what a codec stores."""
        if self.name == FEATURES and codec.content != FEATURES:
            raise ArgumentError(
                f"codec {str(codec)!r}: the source has features, which are not probabilities: expected dense:content=features"
            )
        if self.name != FEATURES and codec.content == FEATURES:
            raise ArgumentError(f"codec {str(codec)!r}: expected features in the source, got {self}")
        if self.name == PROBS and codec.content == LOGITS:
            raise ArgumentError(f"codec {str(codec)!r}: the source has probabilities, of which no logits can be made")
        if self.name != INDICES:
            return
        if codec.family != "sparse" or codec.tail:
            raise ArgumentError(
                f"codec {str(codec)!r}: the source has only {self}: expected a codec that keeps some classes, without a tail"
            )
        if (codec.kept_classes or 1) > (self.k or 1):
            raise ArgumentError(f"codec {str(codec)!r}: the label files keep only {counted(self.k or 1, 'class', 'classes')} of a crop")
        if self.float_bytes is None and codec.name != "hard":
            raise ArgumentError(f"codec {str(codec)!r}: the source has {self}: expected the codec hard")

    def for_writer(self, labels: Arrays, codec: Codec, notes: Notes) -> dict[str, NDArray[Any]]:
        """Return arguments of `SoftLabelWriter.add` with this codec, made of arrays that `checked` returned."""
        if self.name == INDICES:
            return self._classes_for_writer(labels, codec, notes)
        vectors = labels[self.name]
        if codec.content == self.name and self.name != PROBS:
            return {"vectors": vectors}
        probs = (
            softmax(vectors) if self.name == LOGITS else notes.with_sum_of_one(vectors, vectors.sum(axis=1, dtype=np.float64), self.name)
        )
        return {"probs": probs}

    def _classes_for_writer(self, labels: Arrays, codec: Codec, notes: Notes) -> dict[str, NDArray[Any]]:
        indices = labels[INDICES]
        if self.float_bytes is None:
            return {INDICES: indices, VALUES: np.ones(indices.shape, np.float32)}
        values = labels[VALUES]
        sums = values.sum(axis=1, dtype=np.float64)
        values = notes.with_sum_of_one(values, np.maximum(sums, 1.0), VALUES)
        complete = codec.t is not None and self.threshold is not None and codec.t >= self.threshold
        if complete and indices.shape[1] < self.num_classes:  # the writer sees by a class below the threshold that none is missing
            indices, values = (np.pad(part, ((0, 0), (0, 1)), constant_values=fill) for part, fill in ((indices, -1), (values, 0)))
        return {INDICES: _without_padding(indices, self.num_classes), VALUES: values}


@dataclass
class Notes:
    """What an import had to repair, counted."""

    rescaled_rows: int = 0
    others: dict[str, int] = field(default_factory=dict)

    def with_sum_of_one(self, values: NDArray[Any], sums: NDArray[np.float64], name: str) -> NDArray[Any]:
        """Return rows (M, K) that sum to 1 within the writer's tolerance, if they nearly did.

        Raises
        ------
        MismatchError
            If they did not: then they are something else than probabilities.
        """
        off = np.abs(sums - 1)
        if not off.max(initial=0) <= SUM_TOLERANCE:
            bad = ~(off <= NEARLY_ONE)
            if bad.any():
                row = int(bad.argmax())
                what = "that sum to 1" if name == PROBS else "that sum to at most 1"
                raise MismatchError(f"{name}: crop {row}: expected probabilities {what}, got a sum of {sums[row]:.6g}. {_ADVICE[name]}")
            wrong = off > SUM_TOLERANCE
            self.rescaled_rows += int(wrong.sum())
            values = np.where(wrong[:, None], values / sums[:, None], values).astype(np.float32)
        return values

    def add(self, other: Notes) -> None:
        """Add what was repaired elsewhere."""
        self.rescaled_rows += other.rescaled_rows
        self.count(other.others)

    def count(self, repaired: Mapping[str, int]) -> None:
        """Add what a source repaired: how often, by what in words."""
        for what, number in repaired.items():
            self.others[what] = self.others.get(what, 0) + number

    def lines(self) -> list[str]:
        """Return them in words."""
        found = []
        if self.rescaled_rows:
            crops = counted(self.rescaled_rows, "crop")
            found.append(f"{crops}: probabilities summed to 1 only within {NEARLY_ONE:g}; they were divided by their sum")
        return found + [f"{number} {what}" for what, number in self.others.items() if number]


_ADVICE = {
    PROBS: "If these are logits, name the array 'logits'",
    VALUES: "Logits of some classes are no labels: what the other classes have is not known. Store softmax(logits)",
}


def checked(arrays: Arrays, kind: Kind) -> dict[str, NDArray[Any]]:
    """Return the label arrays of an image, of types that the writer takes, after a comparison with what was found at first.

    Parameters
    ----------
    arrays : mapping of str to array
        `probs`, `logits` or `features` (M, C); or `indices` (M, K) and `values` (M, K). Rows that keep fewer than K classes are padded with
        index -1 at the end.
    kind : Kind
        What is expected.

    Raises
    ------
    MismatchError
        If there is something else: other arrays, another K, classes that are no integers, NaN.
    """
    name = kind_name(arrays)
    if name != kind.name or (name == INDICES and (VALUES in arrays) != (kind.float_bytes is not None)):
        raise MismatchError(f"expected {kind}, as in the first image, got {', '.join(sorted(set(arrays) & {*KINDS, VALUES}))}")
    if name != INDICES:
        return {name: _floats(name, arrays[name], kind.num_classes, kind)}
    indices = whole_classes(arrays[INDICES], kind.num_classes)
    if indices.ndim == 1:
        indices = indices[:, None]
    padded = kind.threshold is not None
    if indices.ndim != 2 or (indices.shape[1] != kind.k and not padded):
        got = f"{indices.shape[1]}" if indices.ndim == 2 else f"an array of shape {indices.shape}"
        raise MismatchError(f"indices: expected {kind.k} classes of each crop, as in the first image, got {got}")
    if (indices < 0).any() and not padded:
        advice = "Crops that keep different numbers of classes are known to be complete only if a threshold is known"
        raise MismatchError(f"indices: expected {kind.k} classes of each crop, got fewer (-1). {advice}")
    if kind.float_bytes is None:
        return {INDICES: indices}
    values = np.asarray(arrays[VALUES])
    if values.ndim == 1:
        values = values[:, None]
    values = _floats(VALUES, values, indices.shape[1], kind)
    if len(values) != len(indices):
        raise MismatchError(f"values: expected {len(indices)} rows, as indices have, got {len(values)}")
    if (values < 0).any():
        raise MismatchError(f"values: crop {int((values < 0).any(axis=1).argmax())}: a probability is negative. {_ADVICE[VALUES]}")
    return {INDICES: indices, VALUES: values}


def kind_name(names: Collection[str]) -> str:
    """Return which kind of labels arrays of these names are; MismatchError unless it is exactly one."""
    found = [name for name in KINDS if name in names]
    if len(found) == 1:
        return found[0]
    got = " and ".join(found) if found else f"only {', '.join(sorted(names)) or 'nothing'}"
    raise MismatchError(f"expected labels as one of {', '.join(KINDS)} (indices with values), got {got}")


def whole_classes(indices: NDArray[Any], num_classes: int, lowest: int = -1) -> NDArray[np.int64]:
    """Return class indices as integers; -1, which pads, is allowed unless the lowest is 0.

    Raises
    ------
    MismatchError
        If they are no whole numbers, outside of 0..C-1, or floats of a type that does not hold all classes exactly.
    """
    if indices.dtype.kind not in "iuf" or not indices.size:
        raise MismatchError(f"expected class indices as integers, got {indices.dtype} of shape {indices.shape}")
    if indices.dtype.kind == "f" and num_classes > EXACT_INDICES.get(indices.dtype.itemsize, 2**53):
        raise MismatchError(f"class indices above {EXACT_INDICES[indices.dtype.itemsize] - 1} are not exact in {indices.dtype}")
    with np.errstate(invalid="ignore"):
        whole = indices.astype(np.int64)
    if (whole != indices).any() or (whole < lowest).any() or (whole >= num_classes).any():
        raise MismatchError(f"expected class indices from 0 to {num_classes - 1}, got {indices.min()} to {indices.max()}")
    return np.asarray(whole)


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Return softmax(logits) of rows, float32 (M, C)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def kept_float_bytes(dtype: np.dtype[Any], name: str) -> int:
    """Return the precision that is kept of floats of a type; MismatchError if they are no floats."""
    if dtype.kind != "f":
        raise MismatchError(f"{name}: expected floats, got {dtype}")
    return 2 if dtype.itemsize == 2 else 4


def _floats(name: str, array: NDArray[Any], width: int, kind: Kind) -> NDArray[Any]:
    if kept_float_bytes(array.dtype, name) != kind.float_bytes:
        raise MismatchError(f"{name}: expected float{8 * (kind.float_bytes or 4)}, as in the first image, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != width:
        raise MismatchError(f"{name}: expected (M, {width}), as in the first image, got shape {array.shape}")
    if array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise MismatchError(f"{name}: crop {int(finite.argmin())}: holds NaN or infinity")
    if name == PROBS and (array < 0).any():
        raise MismatchError(f"{name}: crop {int((array < 0).any(axis=1).argmax())}: a probability is negative. {_ADVICE[PROBS]}")
    return array


def _without_padding(indices: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return rows (M, K) in which -1 is replaced by classes that the row does not have, so that all are different."""
    padding = indices < 0
    if not padding.any():
        return indices
    width = min(2 * indices.shape[1], num_classes)
    free = np.ones((len(indices), width), np.bool_)
    rows, places = np.nonzero((indices >= 0) & (indices < width))
    free[rows, indices[rows, places]] = False
    lowest = np.argsort(~free, axis=1, kind="stable")
    filled = indices.copy()
    rows, places = np.nonzero(padding)
    filled[rows, places] = lowest[rows, (padding.cumsum(axis=1) - 1)[rows, places]]
    return np.asarray(filled, np.int64)
