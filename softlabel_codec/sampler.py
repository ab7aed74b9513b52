"""Random-resized crops as a function of (seed, key, crop number): spec/crop-sampler-v1.md."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, CorruptError, UnknownFeatureError

NAME = "random_resized_crop/1"
MAX_ATTEMPTS = 10
MAX_RATIO = 2048.0

Words = NDArray[np.uint64]
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_FACTORIALS = [1.0 / math.factorial(n) for n in range(14)]


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
        How likely a crop is mirrored.
    log_ratio : (float, float), optional
        Natural logarithms of `ratio`, as another computer rounded them. Computed by default.

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
        if not 0 <= self.seed < 2**64:
            raise ArgumentError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
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
        """Return the sampler that `describe` gave a description of; UnknownFeatureError if it is another, CorruptError if it is none."""
        if not isinstance(description, dict) or not isinstance(description.get("name"), str):
            raise CorruptError("crop_sampler: expected a map with a name")
        if description["name"] != NAME:
            raise UnknownFeatureError(f"crop_sampler: expected {NAME!r}, got {description['name']!r}")
        try:
            pairs = [tuple(map(float, description[name])) for name in ("scale", "ratio", "log_ratio")]
            seed, flip_probability = description["seed"], float(description["flip_probability"])
            if not isinstance(seed, int) or {len(pair) for pair in pairs} != {2} or math.isnan(pairs[2][0]):
                raise TypeError
            return cls(seed, pairs[0], pairs[1], flip_probability, pairs[2])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, ArgumentError) as error:
            raise CorruptError(f"crop_sampler: not the parameters of {NAME!r}: {error}") from None

    def describe(self) -> dict[str, Any]:
        """Return name and parameters as they stand in a file's metadata."""
        return {
            "name": NAME,
            "seed": self.seed,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "log_ratio": list(self.log_ratio),
            "flip_probability": self.flip_probability,
        }

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
        for attempt in range(1, MAX_ATTEMPTS):
            if not len(missing):
                return crops, flips
            words = self._words(attempt, number[missing], stream[missing])
            crops[missing], accepted = self._attempt(words, heights[missing], widths[missing])
            missing = missing[~accepted]
        for row in missing.tolist():
            crops[row] = self._central_crop(int(heights[row]), int(widths[row]))
        return crops, flips

    def sample_one(self, stream: int, number: int, height: int, width: int) -> tuple[tuple[int, int, int, int], bool]:
        """Return one crop and its flip in plain Python: the twin of `sample_rows` for a handful of crops."""
        (scale, scale_span), (low, ratio_span) = self._spans
        flip = False
        for attempt in range(MAX_ATTEMPTS):
            words = philox4x32_one((attempt, number, stream, 0), self._key)
            if attempt == 0:
                flip = (words[3] & 0xFFFF) < self._flip_threshold
            area = float(height * width) * (scale + scale_span * (words[0] * 2.0**-32))
            ratio = portable_exp_one(low + ratio_span * (words[1] * 2.0**-32))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 1 <= crop_width <= width and 1 <= crop_height <= height:
                top, left = words[2] * (height - crop_height + 1) >> 32, words[3] * (width - crop_width + 1) >> 32
                return (top, left, crop_height, crop_width), flip
        return self._central_crop(height, width), flip

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

    def _words(self, attempt: int, number: Words, stream: Words) -> tuple[Words, Words, Words, Words]:
        counter = np.full_like(number, attempt), number, stream, np.zeros_like(number)
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


def philox4x32_one(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the four words of Philox4x32-10 for one counter."""
    c0, c1, c2, c3 = counter
    for k0, k1 in round_keys(key):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & 0xFFFFFFFF, (product0 >> 32) ^ c3 ^ k1, product0 & 0xFFFFFFFF
    return c0, c1, c2, c3


@lru_cache(maxsize=16)
def round_keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the keys of the ten rounds of Philox4x32."""
    return [tuple((part + step * key_step) & 0xFFFFFFFF for part, key_step in zip(key, _KEY_STEPS, strict=True)) for step in range(10)]  # type: ignore[misc]


def portable_exp(exponent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(x), |x| <= 8, to about 1e-10: the same bits wherever binary64 arithmetic is correctly rounded."""
    small = exponent / 8.0
    power = np.full_like(small, _FACTORIALS[13])
    for n in range(12, -1, -1):
        power = power * small + _FACTORIALS[n]
    for _ in range(3):
        power = power * power
    return power


def portable_exp_one(exponent: float) -> float:
    """Return `portable_exp` of one number."""
    small = exponent / 8.0
    power = _FACTORIALS[13]
    for factor in _FACTORIALS[12::-1]:
        power = power * small + factor
    power = power * power
    power = power * power
    return power * power


def _below(word: Words, bound: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((word * bound.astype(np.uint64)) >> _SHIFT, np.int64)
