"""Random-resized crops as a function of (seed, key, crop number): spec/crop-sampler-v1.md."""

from __future__ import annotations

import hashlib
import math
import operator
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, CorruptError, UnknownFeatureError

NAME = "random_resized_crop/1"
MAX_ATTEMPTS = 10
MAX_RATIO = 2048.0
FEW = 16
"""Up to this many crops of one image are faster in plain Python than with numpy."""

Words = NDArray[np.uint64]
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_FACTORIALS = [1.0 / math.factorial(n) for n in range(14)]
_F0, _F1, _F2, _F3, _F4, _F5, _F6, _F7, _F8, _F9, _F10, _F11, _F12, _F13 = _FACTORIALS


@dataclass(frozen=True)
class CropSampler:
    """Samples random-resized crops and flips.

    Parameters
    ----------
    seed : int
        0 to 2^64 - 1.
    scale : (float, float)
        Smallest and largest area of a crop as a fraction of the image's.
    ratio : (float, float)
        Smallest and largest width / height of a crop.
    flip_probability : float
        Probability that a crop is mirrored.
    log_ratio : (float, float), optional
        Natural logarithms of `ratio` as rounded on the computer that wrote the file. Computed by default.

    Examples
    --------
    >>> crops, flips = CropSampler(seed=7).sample("n01440764/tench.JPEG", (375, 500), [0, 1])
    >>> crops.tolist(), flips.tolist()
    ([[88, 100, 268, 283], [5, 196, 364, 279]], [True, False])
    """

    seed: int = 0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    log_ratio: tuple[float, float] = (nan, nan)

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "log_ratio"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        object.__setattr__(self, "flip_probability", _number("flip_probability", self.flip_probability))
        if isinstance(self.seed, bool) or not hasattr(self.seed, "__index__") or not 0 <= self.seed < 2**64:
            raise ArgumentError(f"seed: expected an integer from 0 to 2^64 - 1, got {self.seed!r}")
        object.__setattr__(self, "seed", operator.index(self.seed))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ArgumentError(f"scale: expected two fractions of the image's area, 0 < smallest <= largest <= 1, got {self.scale}")
        if not 1 / MAX_RATIO <= self.ratio[0] <= self.ratio[1] <= MAX_RATIO:
            raise ArgumentError(f"ratio: expected 1/{MAX_RATIO:g} <= smallest <= largest <= {MAX_RATIO:g}, got {self.ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise ArgumentError(f"flip_probability: expected 0 to 1, got {self.flip_probability}")
        computed = math.log(self.ratio[0]), math.log(self.ratio[1])
        if math.isnan(self.log_ratio[0]):
            object.__setattr__(self, "log_ratio", computed)
        elif not np.allclose(self.log_ratio, computed, rtol=0, atol=1e-12):
            raise ArgumentError(f"log_ratio: expected the logarithms of {self.ratio}, got {self.log_ratio}")

    @classmethod
    def from_description(cls, description: object) -> CropSampler:
        """Return the sampler for a result of `describe`; UnknownFeatureError for an unknown name, CorruptError if it is invalid."""
        if not isinstance(description, dict) or not isinstance(description.get("name"), str):
            raise CorruptError("crop_sampler: expected a map with a name")
        if description["name"] != NAME:
            raise UnknownFeatureError(f"crop_sampler: expected {NAME!r}, got {description['name']!r}")
        try:
            parameters = {name: description[name] for name in ("seed", "scale", "ratio", "flip_probability", "log_ratio")}
            _check_stored(parameters)
            return cls(**parameters)
        except KeyError as error:
            raise CorruptError(f"crop_sampler: {error} is missing") from None
        except ArgumentError as error:
            raise CorruptError(f"crop_sampler: {error}") from None

    def describe(self) -> dict[str, Any]:
        """Return name and parameters as stored in a file's metadata."""
        return {
            "name": NAME,
            "seed": self.seed,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "log_ratio": list(self.log_ratio),
            "flip_probability": self.flip_probability,
        }

    def num_crops(self, height: int, width: int) -> None:
        """Return None: there is a crop for every number."""

    def sample(self, key: str, image_size: tuple[int, int], numbers: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops and flips of an image.

        Parameters
        ----------
        key : str
            The image's key.
        image_size : (int, int)
            Its height and width in pixels.
        numbers : int (M,)
            Crop numbers, 0 to 2^32 - 1.

        Returns
        -------
        crops : int64 (M, 4)
            top, left, height, width in pixels.
        flips : bool (M,)
            Whether each crop is mirrored.
        """
        number = np.asarray(numbers, np.uint64)
        if len(number) <= FEW:
            few, mirrored = self.sample_few(crop_stream(key), number.tolist(), int(image_size[0]), int(image_size[1]))
            return np.array(few, np.int64).reshape(-1, 4), np.array(mirrored, np.bool_)
        same = np.ones(len(number), np.int64)
        return self.sample_rows(same * crop_stream(key), number, same * image_size[0], same * image_size[1])

    def sample_rows(
        self, streams: NDArray[np.int64], numbers: NDArray[Any], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops (R, 4) and flips (R,) of any images: one row for each stream (see `crop_stream`), crop number and image size."""
        number, stream = numbers.astype(np.uint64), streams.astype(np.uint64)
        first = self._words(0, number, stream)
        flips = (first[3] & np.uint64(0xFFFF)) < np.uint64(self._flip_threshold)
        crops, accepted = self._attempt(first, heights, widths)
        missing = np.flatnonzero(~accepted)
        if len(missing):
            crops[missing] = self._later_attempts(number[missing], stream[missing], heights[missing], widths[missing])
        return crops, flips

    def _later_attempts(self, number: Words, stream: Words, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the crops of rows whose first attempt was rejected. Computing all other attempts at once is faster than one by one."""
        attempts, rows = MAX_ATTEMPTS - 1, len(number)
        attempt = np.repeat(np.arange(1, MAX_ATTEMPTS, dtype=np.uint64), rows)
        words = self._words(attempt, np.tile(number, attempts), np.tile(stream, attempts))
        crops, accepted = self._attempt(words, np.tile(heights, attempts), np.tile(widths, attempts))
        first = accepted.reshape(attempts, rows).argmax(axis=0)
        chosen = first * rows + np.arange(rows)
        result: NDArray[np.int64] = crops[chosen]
        for row in np.flatnonzero(~accepted[chosen]).tolist():
            result[row] = self._central_crop(int(heights[row]), int(widths[row]))
        return result

    def sample_few(
        self, stream: int, numbers: Sequence[int], height: int, width: int
    ) -> tuple[list[tuple[int, int, int, int]], list[bool]]:
        """Return a few crops of one image and their flips: the same as `sample_rows`, in plain Python to avoid numpy's overhead."""
        (scale, scale_span), (low, ratio_span) = self._spans
        pixels = float(height * width)
        crops = [self._central_crop(height, width)] * len(numbers)
        flips: list[bool] = []
        waiting: Sequence[int] = range(len(numbers))
        for attempt in range(MAX_ATTEMPTS):
            words = philox4x32_side_by_side(attempt, [numbers[place] for place in waiting], stream, self._key)
            flips = flips or [(word & 0xFFFF) < self._flip_threshold for word in words[3]]
            missing = []
            for place, x0, x1, x2, x3 in zip(waiting, *words, strict=True):
                area = pixels * (scale + scale_span * (x0 * 2.0**-32))
                ratio = portable_exp_one(low + ratio_span * (x1 * 2.0**-32))
                crop_width, crop_height = round(sqrt(area * ratio)), round(sqrt(area / ratio))
                if 1 <= crop_width <= width and 1 <= crop_height <= height:
                    crops[place] = x2 * (height - crop_height + 1) >> 32, x3 * (width - crop_width + 1) >> 32, crop_height, crop_width
                else:
                    missing.append(place)
            if not missing:
                break
            waiting = missing
        return crops, flips

    @cached_property
    def _spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        low, high = self.log_ratio
        return (self.scale[0], self.scale[1] - self.scale[0]), (low, high - low)

    @cached_property
    def _key(self) -> tuple[int, int]:
        return self.seed & 0xFFFFFFFF, self.seed >> 32

    @cached_property
    def _flip_threshold(self) -> int:
        return round(self.flip_probability * 65536)

    def _words(self, attempt: int | Words, number: Words, stream: Words) -> tuple[Words, Words, Words, Words]:
        counter = np.broadcast_to(np.asarray(attempt, np.uint64), number.shape), number, stream, np.zeros_like(number)
        return philox4x32(counter, self._key)

    def _attempt(
        self, words: tuple[Words, ...], height: NDArray[np.int64], width: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        (scale, scale_span), (low, ratio_span) = self._spans
        area = (height * width).astype(np.float64) * (scale + scale_span * (words[0] * 2.0**-32))
        ratio = portable_exp(np.asarray(low + ratio_span * (words[1] * 2.0**-32), np.float64))
        crop_width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        crop_height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        accepted = (crop_width >= 1) & (crop_width <= width) & (crop_height >= 1) & (crop_height <= height)
        top = _below(words[2], np.where(accepted, height - crop_height + 1, 1))
        left = _below(words[3], np.where(accepted, width - crop_width + 1, 1))
        return np.stack([top, left, crop_height, crop_width], axis=1), accepted

    def _central_crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        crop_height, crop_width = height, width
        if width / height < self.ratio[0]:
            crop_height = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            crop_width = max(1, round(height * self.ratio[1]))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise ArgumentError(f"{name}: expected a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{name}: expected a number, got {value!r}") from None


def _pair(name: str, values: Any) -> tuple[float, float]:
    try:
        low, high = values
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected two numbers, got {values!r}") from None
    return _number(name, low), _number(name, high)


def _check_stored(parameters: dict[str, Any]) -> None:
    """Raise ArgumentError unless parameters in a file have the types in the specification, where a float may be an integer."""
    for name in ("scale", "ratio", "log_ratio"):
        pair = parameters[name]
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_float(value) for value in pair):
            raise ArgumentError(f"{name}: expected two floats, got {pair!r}")
    if not _is_float(parameters["flip_probability"]):
        raise ArgumentError(f"flip_probability: expected a float, got {parameters['flip_probability']!r}")
    if not isinstance(parameters["seed"], int):
        raise ArgumentError(f"seed: expected an integer, got {parameters['seed']!r}")


def _is_float(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def crop_stream(key: str) -> int:
    """Return the number that makes the crops of one image differ from those of another."""
    return stream_of_bytes(key.encode())


def stream_of_bytes(key: bytes) -> int:
    """Return `crop_stream` of a key in UTF-8."""
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "little")


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Return the four words of Philox4x32-10 (Salmon et al., SC 2011) for each counter, as uint64 arrays of 32-bit numbers."""
    c0, c1, c2, c3 = counter
    for k0, k1 in ((np.uint64(part), np.uint64(other)) for part, other in round_keys(key)):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> _SHIFT) ^ c1 ^ k0, product1 & _MASK, (product0 >> _SHIFT) ^ c3 ^ k1, product0 & _MASK
    return c0, c1, c2, c3


def philox4x32_side_by_side(first: int, seconds: Sequence[int], third: int, key: tuple[int, int]) -> list[Sequence[int]]:
    """Return the four words of Philox4x32-10 for each counter (first, second, third, 0).

    The 32-bit numbers of all counters are stored 64 bits apart in one long integer, so that Python computes them all at once:
    no product overflows into the bits of the next number.
    """
    lanes = len(seconds)
    ones, mask, keys = _packed_keys(lanes, key)
    c0, c1, c2, c3 = first * ones, int.from_bytes(struct.pack(f"<{lanes}Q", *seconds), "little"), third * ones, 0
    for k0, k1 in keys:
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32 & mask) ^ c1 ^ k0, product1 & mask, (product0 >> 32 & mask) ^ c3 ^ k1, product0 & mask
    return [struct.unpack(f"<{lanes}Q", word.to_bytes(8 * lanes, "little")) for word in (c0, c1, c2, c3)]


@lru_cache(maxsize=64)
def _packed_keys(lanes: int, key: tuple[int, int]) -> tuple[int, int, list[tuple[int, int]]]:
    """Return 1, 2^32 - 1 and the round keys, each repeated for every lane of 64 bits."""
    ones = sum(1 << 64 * lane for lane in range(lanes))
    return ones, 0xFFFFFFFF * ones, [(k0 * ones, k1 * ones) for k0, k1 in round_keys(key)]


@lru_cache(maxsize=16)
def round_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the keys of the ten rounds of Philox4x32."""
    return [tuple((part + step * key_step) & 0xFFFFFFFF for part, key_step in zip(key, _KEY_STEPS, strict=True)) for step in range(10)]  # type: ignore[misc]


def portable_exp(exponent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(x), |x| <= 8, to about 1e-10. The bits are the same wherever binary64 arithmetic is correctly rounded."""
    small = exponent / 8.0
    power = np.full_like(small, _FACTORIALS[13])
    for n in range(12, -1, -1):
        power = power * small + _FACTORIALS[n]
    for _ in range(3):
        power = power * power
    return power


def portable_exp_one(exponent: float) -> float:
    """Return `portable_exp` of one number."""
    y = exponent / 8.0
    p = (((((_F13 * y + _F12) * y + _F11) * y + _F10) * y + _F9) * y + _F8) * y + _F7
    p = ((((((p * y + _F6) * y + _F5) * y + _F4) * y + _F3) * y + _F2) * y + _F1) * y + _F0
    p = p * p
    p = p * p
    return p * p


def _below(word: Words, bound: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((word * bound.astype(np.uint64)) >> _SHIFT, np.int64)
