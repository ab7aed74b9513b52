"""Dense labels as quantised logarithms: each crop's differences to a prediction of its image (spec/dense-v1.md, section 4).

The crops of one image have much in common. Their mean, the *profile*, is stored once; so are a few *components*, directions in which
they vary most, and for each crop its coefficients. What is left of the logarithms is rounded to whole steps, most of which are 0.
The largest logarithms of each crop matter most and are corrected by eighths of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError

UNIT_BITS = 8
"""Predictions are whole numbers of 2^-8 steps."""
MOST_REFINED = 4
"""So many classes of each crop, those with the largest logarithms, are refined."""
REFINEMENT_BITS = 3
"""They are corrected by whole numbers of 2^-3 steps."""
ESCAPE = 3
CLASSES_PER_BYTE = 4
FLOOR_NATS = 24.0
"""How far below the most probable class of a crop another one is at most taken to be."""
DEAD_ZONE = 2 / 3
"""Differences up to this part of a step become 0, and larger ones are rounded alike: the frequent 0 costs few bits."""
MAX_SPAN_STEPS = 4000
MAX_COMPONENTS = 16
_LARGEST = 127
_CROPS_TO_LEARN_FROM = 256
_NUMBERS_AT_ONCE = 2**18
_GAIN_PER_VARIANCE = 7.0
_BITS_OF_A_COEFFICIENT = 8.0
_LOW_BITS = 3
_DIFFERENCES = np.array([[(0, 1, -1, ESCAPE)[byte >> 2 * place & 3] for place in range(CLASSES_PER_BYTE)] for byte in range(256)], np.int8)
"""The four differences that each byte of digits represents; an escape where it is larger."""


class ImageLogs(NamedTuple):
    """The labels of M crops of one image, or of some of them.

    Attributes
    ----------
    profile : int16 (C,)
        What the crops have in common, in units of 2^-`shift` steps.
    shift : int
        0 to 8.
    components : int8 (K, C)
        Directions in which the crops vary.
    coefficients : int8 (M, K)
        How much of each of these is in each crop; products with the components are in units of 2^-8 steps.
    digits : uint8 (M, ceil(C / 4))
        Two bits for each class: its difference from the prediction in steps, 0, 1 or -1 as 0, 1 or 2; 3 for an exception.
    counts : int64 (M,)
        Number of exceptions of each crop.
    exceptions : int64 (E,)
        Larger differences, crop after crop: 2, -2, 3, -3 and so on as 0, 1, 2, 3.
    refinements : int8 (M, min(C, 4))
        What is added to the largest logarithms of each crop, the largest first, in units of 2^-3 steps.
    """

    profile: NDArray[np.int16]
    shift: int
    components: NDArray[np.int8]
    coefficients: NDArray[np.int8]
    digits: NDArray[np.uint8]
    counts: NDArray[np.int64]
    exceptions: NDArray[np.int64]
    refinements: NDArray[np.int8]


LogCodes = tuple[ImageLogs, ...]
"""The labels of the crops of several images, one image after another."""


class LogVectors:
    """`values=log8` of dense labels."""

    def __init__(self, codec: Codec, num_classes: int) -> None:
        self._step, self._content, self._num_classes = codec.step, codec.content, num_classes

    def quantise(self, vectors: NDArray[np.floating[Any]]) -> LogCodes:
        logs = logs_of_probs(vectors) if self._content == "probs" else vectors.astype(np.float64)
        if not np.isfinite(logs).all():
            row = int(np.argmin(np.isfinite(logs).all(axis=1)))
            raise ArgumentError(f"vectors: row {row}: expected finite numbers. Of masked classes, pass probabilities of 0 (content=probs)")
        levels = (logs - logs.mean(axis=1, keepdims=True)) / self._step
        spans = np.ptp(levels, axis=1)
        if (spans > MAX_SPAN_STEPS).any():
            row = int(np.argmax(spans > MAX_SPAN_STEPS))
            most, got = MAX_SPAN_STEPS * self._step, spans[row] * self._step
            raise ArgumentError(f"vectors: row {row}: expected numbers within {most:g} of each other, got {got:g}. Use values=f32")
        return (_of_levels(levels),)

    def dequantise(self, codes: LogCodes) -> NDArray[np.float32]:
        vectors = np.empty((sum(len(image.digits) for image in codes), self._num_classes), np.float32)
        first = 0
        for image in codes:
            for part in _parts(image, max(1, _NUMBERS_AT_ONCE // self._num_classes)):
                logs = _units(part, self._num_classes) * (self._step / 2**UNIT_BITS)
                vectors[first : first + len(logs)] = logs if self._content == "logits" else _softmax(logs)
                first += len(logs)
        return vectors

    def concatenate(self, parts: Sequence[LogCodes]) -> LogCodes:
        return tuple(image for part in parts for image in part)

    def rows(self, codes: LogCodes, rows: slice, image: int) -> LogCodes:
        first = rows.start - sum(len(other.digits) for other in codes[:image])
        return (_rows_of(codes[image], slice(first, first + rows.stop - rows.start)),)

    def num_bytes(self, codes: LogCodes) -> int:
        return sum(array.size for image in codes for array in image if isinstance(array, np.ndarray))

    def most_bytes(self, codes: LogCodes) -> int:
        return sum(2 * image.profile.size + image.components.size + 4 * image.digits.size * CLASSES_PER_BYTE for image in codes)


def logs_of_probs(probs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the logarithms of probabilities (R, C), none more than `FLOOR_NATS` below the largest of its row."""
    with np.errstate(divide="ignore"):
        logs = np.log(probs.astype(np.float64))
    floored: NDArray[np.float64] = np.maximum(logs, logs.max(axis=1, keepdims=True) - FLOOR_NATS)
    return floored


def _of_levels(levels: NDArray[np.float64]) -> ImageLogs:
    """Return the codes of one image from its centred logarithms (M, C) in steps."""
    shift = _shift(len(levels))
    profile = np.rint(levels.mean(axis=0) * 2**shift)
    rest = levels - profile / 2**shift
    components, coefficients = _components(rest)
    if len(components):
        rest -= (coefficients.astype(np.float32) @ components.astype(np.float32)) / 2**UNIT_BITS
    steps = np.copysign(np.floor(np.abs(rest) + (1 - DEAD_ZONE)), rest).astype(np.int64)
    folded = np.where(steps > 0, 2 * steps - 1, -2 * steps)
    large = folded >= ESCAPE
    digits = np.zeros((len(levels), -(-levels.shape[1] // CLASSES_PER_BYTE) * CLASSES_PER_BYTE), np.uint8)
    digits[:, : levels.shape[1]] = np.minimum(folded, ESCAPE)
    packed = np.bitwise_or.reduce(digits.reshape(len(levels), -1, CLASSES_PER_BYTE) << np.array([0, 2, 4, 6], np.uint8), axis=2)
    none = np.zeros((len(levels), num_refined(levels.shape[1])), np.int8)
    counts, exceptions = large.sum(axis=1), folded[large] - ESCAPE
    image = ImageLogs(profile.astype(np.int16), shift, components, coefficients, packed, counts, exceptions, none)
    return _refined(image, rest - steps, levels.argmax(axis=1))


def num_refined(num_classes: int) -> int:
    """Return how many classes of each crop are refined."""
    return min(num_classes, MOST_REFINED)


def _refined(image: ImageLogs, left: NDArray[np.float64], top: NDArray[np.int64]) -> ImageLogs:
    """Return codes with refinements, from what is left of the logarithms (M, C) in steps and the class that is the largest of each crop."""
    units = _unrefined(image, left.shape[1])
    largest = _largest_of(units, image.refinements.shape[1])
    refinements = np.rint(np.take_along_axis(left, largest, axis=1) * 2**REFINEMENT_BITS).astype(np.int8)
    _refine(units, largest, refinements)
    of_top = units[np.arange(len(units)), top]
    reached = np.count_nonzero(units >= of_top[:, None], axis=1) > 1  # of classes that are nearly equal, the largest stays so
    return image._replace(refinements=refinements + (reached[:, None] & (largest == top[:, None])))


def _shift(num_crops: int) -> int:
    """Return how finely a profile of that many crops is stored: it pays only if it is shared by many."""
    return 0 if num_crops < 8 else 1 if num_crops < 32 else 2


def _components(rest: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Return those principal components of rows (M, C) that save more bytes than they take, int8 (K, C), and coefficients, int8 (M, K)."""
    shape = rest.shape
    exact = rest.astype(np.float32)
    some = exact[:: -(-shape[0] // _CROPS_TO_LEARN_FROM)]
    energies, vectors = np.linalg.eigh(some @ some.T)
    energies, vectors = np.maximum(energies[::-1][:MAX_COMPONENTS], 0), vectors[:, ::-1][:, :MAX_COMPONENTS]
    number = _worth(energies * (shape[0] / len(some)), float(np.einsum("rc,rc->", exact, exact)), shape)
    directions = (vectors[:, :number].T @ some) / np.sqrt(energies[:number, None])  # of length 1
    amounts = exact @ directions.T
    scale = np.abs(amounts).max(axis=0, initial=np.finfo(np.float32).tiny) / _LARGEST
    components = np.clip(np.rint(directions * (scale[:, None] * 2**UNIT_BITS)), -_LARGEST, _LARGEST)
    return components.astype(np.int8), np.rint(amounts / scale).astype(np.int8)


def _worth(energies: NDArray[np.float32], total: float, shape: tuple[int, int]) -> int:
    """Return how many principal components to store.

    Each takes its coefficients and its numbers, and saves bits of every crop and class: about log2(1 + 7 v) / 2 are needed for a
    variance of v steps^2.
    """
    num_crops, num_classes = shape
    size = num_crops * num_classes
    left = np.maximum(total - np.cumsum(energies, dtype=np.float64), 0) / size
    bits = np.log2(1 + _GAIN_PER_VARIANCE * np.concatenate([[total / size], left])) / 2
    spread = energies / num_crops * (2.0**UNIT_BITS / _LARGEST * _LOW_BITS) ** 2 / num_classes
    cost = num_crops * _BITS_OF_A_COEFFICIENT + num_classes * np.log2(1 + 17 * spread) / 2
    saved = np.concatenate([[0], np.cumsum(size * (bits[:-1] - bits[1:]) - cost)])
    return int(saved.argmax())


def _parts(image: ImageLogs, num_crops: int) -> list[ImageLogs]:
    """Return the codes of an image in parts of at most that many crops."""
    total = len(image.digits)
    if total <= num_crops:
        return [image]
    return [_rows_of(image, slice(first, min(first + num_crops, total))) for first in range(0, total, num_crops)]


def _rows_of(image: ImageLogs, rows: slice) -> ImageLogs:
    """Return the codes of some crops of an image."""
    before, within = int(image.counts[: rows.start].sum()), int(image.counts[rows].sum())
    return image._replace(
        coefficients=image.coefficients[rows],
        digits=image.digits[rows],
        counts=image.counts[rows],
        exceptions=image.exceptions[before : before + within],
        refinements=image.refinements[rows],
    )


def _units(image: ImageLogs, num_classes: int) -> NDArray[np.int32]:
    """Return the logarithms of an image's crops, int32 (M, C), in units of 2^-8 steps; CorruptError if there are not all exceptions."""
    units = _unrefined(image, num_classes)
    _refine(units, _largest_of(units, num_refined(num_classes)), image.refinements)
    return units


def _refine(units: NDArray[np.int32], largest: NDArray[np.int64], refinements: NDArray[np.int8]) -> None:
    units[np.arange(len(units))[:, None], largest] += refinements.astype(np.int32) << (UNIT_BITS - REFINEMENT_BITS)


def _largest_of(units: NDArray[np.int32], number: int) -> NDArray[np.int64]:
    """Return the classes with the largest logarithms, the largest first, equal ones in order of class, int64 (M, number)."""
    left, rows = units.copy(), np.arange(len(units))
    largest = np.empty((len(units), number), np.int64)
    for place in range(number):
        largest[:, place] = left.argmax(axis=1)
        left[rows, largest[:, place]] = np.iinfo(np.int32).min
    return largest


def _unrefined(image: ImageLogs, num_classes: int) -> NDArray[np.int32]:
    """Return the same before the largest are refined."""
    digits = _DIFFERENCES[image.digits].reshape(len(image.digits), -1)[:, :num_classes]
    units = digits.astype(np.int32) << UNIT_BITS
    large = digits == ESCAPE
    if not np.array_equal(np.count_nonzero(large, axis=1), image.counts):
        raise CorruptError("a crop has more or fewer exceptions than its digits say")
    folded = image.exceptions + ESCAPE
    units[large] = np.where(folded & 1, folded + 1, -folded) << (UNIT_BITS - 1)
    units += image.profile.astype(np.int32) << (UNIT_BITS - image.shift)
    if len(image.components):  # whole numbers below 2^24, which float32 adds without rounding
        units += (image.coefficients.astype(np.float32) @ image.components.astype(np.float32)).astype(np.int32)
    return units


def _softmax(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    logs -= logs.max(axis=1, keepdims=True)
    powers = np.exp(logs, out=logs)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
