"""Value encodings: probabilities to integer codes and back (spec/sparse-v1.md, section 5).

Every encoding gives codes that ascend within a crop, because probabilities descend.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError
from softlabel_codec.quantise.selection import Selection, implied_remainder

FLOAT_TYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}
MAX_SUM = 1 + 2.0**-8
"""Largest sum of float values, which are rounded. Dense ones also add up to at least 1 - (MAX_SUM - 1)."""
VALUE_WIDTH = {"none": 0, "log8": 1, "f16": 2, "f32": 4}
"""Bytes of a stored value."""
LOG8_ZERO = 255
LOG8_MAX_RATIO = 23.0
"""Largest ln(remainder / top probability): no top class of 2^31 is below exp(-21.5) of the rest."""

_LOG8_RANGE = "log8 code out of range"
Floats = NDArray[np.float32]
Codes = NDArray[np.int64]


class ValueEncoding(Protocol):
    """One value encoding, with everything precomputed that does not depend on the labels."""

    def quantise(self, selection: Selection) -> tuple[Codes | None, Codes | None]:
        """Return value codes (R, K), ascending in each row, and remainder codes (R,); None for what is implied."""

    def dequantise(self, indices: Codes, values: Codes | None, remainders: Codes | None) -> tuple[Floats, Floats]:
        """Return values (R, K), 0 where `indices` is -1, and remainders (R,); CorruptError if they are not valid labels."""


def value_encoding(codec: Codec, num_classes: int) -> ValueEncoding:
    """Return the value encoding of a sparse codec."""
    if codec.values == "none":
        return NoValues()
    return (
        Log8(codec.step, num_classes, same_count=codec.kept_classes is not None)
        if codec.values == "log8"
        else FloatValues(FLOAT_TYPES[codec.values], num_classes)
    )


class NoValues:
    """`hard`: the only kept class has probability 1."""

    def quantise(self, selection: Selection) -> tuple[None, None]:
        return None, None

    def dequantise(self, indices: Codes, values: Codes | None, remainders: Codes | None) -> tuple[Floats, Floats]:
        return np.ones(indices.shape, np.float32), np.zeros(len(indices), np.float32)


class FloatValues:
    """`f32` and `f16`: the bits of the probability, subtracted from those of 1.0."""

    def __init__(self, float_type: np.dtype[Any], num_classes: int) -> None:
        self._float_type = float_type
        self._bits_type = np.dtype(f"<u{float_type.itemsize}")
        self._one = int(np.ones((), float_type).view(self._bits_type))
        self._num_classes = num_classes

    def quantise(self, selection: Selection) -> tuple[Codes, None]:
        rounded = selection.values.astype(self._float_type)
        if not (rounded[:, 0] > 0).all():
            row = int(np.argmin(rounded[:, 0] > 0))
            top = selection.values[row, 0]
            raise ArgumentError(f"values: row {row}: the largest probability, {top:g}, becomes 0 in {self._float_type}: use values=f32")
        return self._one - rounded.view(self._bits_type).astype(np.int64), None

    def dequantise(self, indices: Codes, values: Codes | None, remainders: Codes | None) -> tuple[Floats, Floats]:
        bits = (self._one - np.asarray(values)).astype(self._bits_type)  # modulo their width
        probs = np.where(indices >= 0, bits.view(self._float_type), 0).astype(np.float32)
        descending = (probs[:, 1:] <= probs[:, :-1]).all() and not np.signbit(probs).any()
        if not (descending and (probs[:, 0] > 0).all() and np.isfinite(probs[:, 0]).all()):
            raise CorruptError("the values of a crop are not finite, positive and descending")
        if len(probs) and float(probs.sum(axis=1, dtype=np.float64).max()) > MAX_SUM:
            raise CorruptError(f"the values of a crop add up to more than {MAX_SUM:g}")
        return probs, implied_remainder(probs, indices, self._num_classes).astype(np.float32)


class Log8:
    """`log8`: logarithms of ratios to the top class, in steps.

    Attributes
    ----------
    lowest : int
        Smallest remainder code.
    powers : float64 (256,)
        Ratio to the top class for each value code of another class. (No ratio is above 1, so code 0 represents half a step.)
    rest_powers : float64
        Ratio to the top class for each remainder code, from `lowest` on.
    """

    def __init__(self, step: float, num_classes: int, *, same_count: bool) -> None:
        self._step = step
        self._num_classes = num_classes
        self._same_count = same_count  # every crop keeps the same number of classes, so nothing is padded
        self.lowest = -int(LOG8_MAX_RATIO / step)
        self.rest_powers = np.exp(np.arange(self.lowest, LOG8_ZERO + 1) * -step)
        self.rest_powers[-1] = 0.0
        self.powers = self.rest_powers[-self.lowest :].copy()
        self.powers[0] = np.exp(-step / 4)

    def quantise(self, selection: Selection) -> tuple[Codes, Codes]:
        with np.errstate(divide="ignore", invalid="ignore"):  # a largest probability of 0 is refused below
            log_values = np.log(selection.values.astype(np.float64))
            log_top = log_values[:, :1]
            codes = np.rint((log_top - log_values) / self._step)
            remainders = np.rint((log_top[:, 0] - np.log(selection.remainder)) / self._step)
        impossible = (remainders < self.lowest) | ~np.isfinite(log_top[:, 0])
        if impossible.any():
            row = int(np.argmax(impossible))
            raise ArgumentError(f"values: row {row}: a largest probability of {selection.values[row, 0]:g} is too small for 2^31 classes")
        return np.minimum(codes, LOG8_ZERO).astype(np.int64), np.minimum(remainders, LOG8_ZERO).astype(np.int64)

    def dequantise(self, indices: Codes, values: Codes | None, remainders: Codes | None) -> tuple[Floats, Floats]:
        assert values is not None
        assert remainders is not None
        places = remainders - self.lowest
        try:
            powers = self.powers[values if self._same_count else np.where(indices >= 0, values, LOG8_ZERO)]
            powers[:, 0] = 1.0
            rest = self.rest_powers[places]
        except IndexError:
            raise CorruptError(_LOG8_RANGE) from None
        if len(places) and places.min() < 0:
            raise CorruptError(_LOG8_RANGE)
        if indices.shape[1] >= self._num_classes and rest[(indices >= 0).sum(axis=1) == self._num_classes].any():
            raise CorruptError("a crop that keeps all classes has a remainder")
        total = np.add.reduce(powers, axis=1) + rest
        return (powers / total[:, None]).astype(np.float32), (rest / total).astype(np.float32)
