"""Dense labels: a vector of C numbers for each crop, as the bits of its floats or as quantised logarithms (spec/dense-v1.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError
from softlabel_codec.labels import DenseLabels
from softlabel_codec.quantise.log_vectors import LogCodes, LogVectors
from softlabel_codec.quantise.places import Places
from softlabel_codec.quantise.selection import check_floats, check_probs, wrong_labels
from softlabel_codec.quantise.values import FLOAT_TYPES, MAX_SUM, Floats

FloatCodes = NDArray[np.unsignedinteger[Any]]
"""The bits of the vectors of R crops, (R, C)."""
DenseCodes = FloatCodes | LogCodes
"""The vectors of R crops as integers."""
Codes = TypeVar("Codes")


class DenseQuantiser:
    """Quantiser of `dense`."""

    def __init__(self, codec: Codec, num_classes: int) -> None:
        self._codec, self._num_classes = codec, num_classes
        self._encoding: VectorEncoding[Any] = (
            LogVectors(codec, num_classes) if codec.values == "log8" else FloatVectors(codec.values, codec.content)
        )

    def quantise(self, labels: Mapping[str, Any], num_crops: int, places: Places | None = None) -> DenseCodes:
        wanted = "probs" if self._codec.content == "probs" else "vectors"
        if set(labels) != {wanted}:
            raise wrong_labels(self._codec, wanted, labels)
        vectors: NDArray[Any]
        if wanted == "probs":
            vectors = check_probs(labels[wanted], num_crops, self._num_classes)
        else:
            vectors = check_floats(wanted, labels[wanted], (num_crops, self._num_classes))
        codes: DenseCodes = self._encoding.quantise(vectors)
        return codes

    def dequantise(self, codes: DenseCodes, policy: str) -> DenseLabels:
        return DenseLabels(self._encoding.dequantise(codes), self._codec.content)

    def concatenate(self, parts: Sequence[DenseCodes]) -> DenseCodes:
        codes: DenseCodes = self._encoding.concatenate(parts)
        return codes

    def rows(self, codes: DenseCodes, rows: slice, image: int) -> DenseCodes:
        chosen: DenseCodes = self._encoding.rows(codes, rows, image)
        return chosen

    def policy(self, asked: str | None) -> str:
        if asked is not None:
            raise ArgumentError(f"policy: labels of {str(self._codec)!r} have no remainder, so none is expected, got {asked!r}")
        return self._codec.policy

    def num_entries(self, codes: DenseCodes) -> tuple[int, int, int]:
        return 0, 0, 0

    def expected_bytes(self, codes: DenseCodes) -> int:
        return self._encoding.num_bytes(codes)

    def most_bytes(self, codes: DenseCodes) -> int:
        return self._encoding.most_bytes(codes)


class VectorEncoding(Protocol[Codes]):
    """One value encoding of vectors. Its methods are those of `Quantiser` that depend on it."""

    def quantise(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Return the codes of an image's vectors (M, C), already checked."""

    def dequantise(self, codes: Codes) -> Floats:
        """Return the vectors (R, C) that codes represent; CorruptError if they are not valid."""

    def concatenate(self, parts: Sequence[Codes]) -> Codes:
        """Return the codes of several images as one."""

    def rows(self, codes: Codes, rows: slice, image: int) -> Codes:
        """Return the codes of some rows, all of the image with this place."""

    def num_bytes(self, codes: Codes) -> int:
        """Return about how many bytes codes take in columns before compression."""

    def most_bytes(self, codes: Codes) -> int:
        """Return an upper bound of this number."""


class FloatVectors:
    """`f32` and `f16`: the bits of the numbers."""

    def __init__(self, values: str, content: str) -> None:
        self._values, self._content = values, content

    def quantise(self, vectors: NDArray[np.floating[Any]]) -> FloatCodes:
        return vectors_to_bits(vectors, self._values)

    def dequantise(self, codes: FloatCodes) -> Floats:
        return bits_to_vectors(codes, self._values, self._content)

    def concatenate(self, parts: Sequence[FloatCodes]) -> FloatCodes:
        return np.concatenate(parts)

    def rows(self, codes: FloatCodes, rows: slice, image: int) -> FloatCodes:
        return codes[rows]

    def num_bytes(self, codes: FloatCodes) -> int:
        return self.most_bytes(codes)

    def most_bytes(self, codes: FloatCodes) -> int:
        return int(codes.size * FLOAT_TYPES[self._values].itemsize)


def vectors_to_bits(vectors: NDArray[np.floating[Any]], values: str) -> NDArray[Any]:
    """Return the bits of dense vectors (R, C) as u32 (`f32`) or u16 (`f16`), a copy; ArgumentError if they do not fit."""
    float_type = FLOAT_TYPES[values]
    with np.errstate(over="ignore"):
        rounded: NDArray[Any] = np.array(vectors, dtype=float_type, order="C")
    finite = np.isfinite(rounded).all(axis=1)
    if not finite.all():
        raise ArgumentError(f"vectors: row {int(np.argmin(finite))}: expected finite numbers within the range of {values}")
    bits: NDArray[Any] = rounded.view(f"<u{float_type.itemsize}")
    return bits


def bits_to_vectors(bits: NDArray[Any], values: str, content: str) -> Floats:
    """Return dense vectors (R, C) from their bits; CorruptError if they are not valid as `content`."""
    vectors: Floats = np.ascontiguousarray(bits).view(FLOAT_TYPES[values]).astype(np.float32)
    if not np.isfinite(vectors).all() or (content == "probs" and (vectors < 0).any()):
        raise CorruptError(f"{content} of a crop are not finite" + (" and positive" if content == "probs" else ""))
    if content == "probs" and (np.abs(vectors.sum(axis=1, dtype=np.float64) - 1) > MAX_SUM - 1 + vectors.shape[1] * 2.0**-25).any():
        raise CorruptError("the probabilities of a crop do not add up to 1")
    return vectors
