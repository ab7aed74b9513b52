"""Random-resized crops as a function of (seed, key, crop number): spec/crop-sampler-v1.md."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError

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

    Examples
    --------
    >>> crops, flips = CropSampler(seed=7).sample("n01440764/tench.JPEG", (375, 500), [0, 1])
    >>> crops.tolist(), flips.tolist()
    ([[5, 103, 369, 387], [50, 75, 286, 274]], [False, True])
    """

    seed: int = 0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ArgumentError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ArgumentError(f"scale: expected two fractions of the image's area, 0 < smallest <= largest <= 1, got {self.scale}")
        if not 1 / MAX_RATIO <= self.ratio[0] <= self.ratio[1] <= MAX_RATIO:
            raise ArgumentError(f"ratio: expected 1/{MAX_RATIO:g} <= smallest <= largest <= {MAX_RATIO:g}, got {self.ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise ArgumentError(f"flip_probability: expected 0 to 1, got {self.flip_probability}")

    @property
    def log_ratio(self) -> tuple[float, float]:
        """Natural logarithms of `ratio`."""
        return math.log(self.ratio[0]), math.log(self.ratio[1])

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
        stream = crop_stream(key)
        first = self._words(0, number, stream)
        flips = (first[3] & np.uint64(0xFFFF)) < np.uint64(round(self.flip_probability * 65536))
        crops = np.tile(self._central_crop(*image_size), (len(number), 1))
        missing = np.arange(len(number))
        for attempt in range(MAX_ATTEMPTS):
            words = first if attempt == 0 else self._words(attempt, number[missing], stream)
            attempted, accepted = self._attempt(words, *image_size)
            crops[missing[accepted]] = attempted[accepted]
            missing = missing[~accepted]
            if not len(missing):
                break
        return crops, flips

    def _words(self, attempt: int, number: Words, stream: int) -> tuple[Words, Words, Words, Words]:
        counter = np.full_like(number, attempt), number, np.full_like(number, stream), np.zeros_like(number)
        return philox4x32(counter, (self.seed & 0xFFFFFFFF, self.seed >> 32))

    def _attempt(self, words: tuple[Words, ...], height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        low, high = self.log_ratio
        area = float(height * width) * (self.scale[0] + (self.scale[1] - self.scale[0]) * (words[0] * 2.0**-32))
        ratio = portable_exp(np.asarray(low + (high - low) * (words[1] * 2.0**-32), np.float64))
        crop_width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        crop_height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        accepted = (crop_width >= 1) & (crop_width <= width) & (crop_height >= 1) & (crop_height <= height)
        top = _below(words[2], np.where(accepted, height - crop_height + 1, 1))
        left = _below(words[3], np.where(accepted, width - crop_width + 1, 1))
        return np.stack([top, left, crop_height, crop_width], axis=1), accepted

    def _central_crop(self, height: int, width: int) -> NDArray[np.int64]:
        crop_height, crop_width = height, width
        if width / height < self.ratio[0]:
            crop_height = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            crop_width = max(1, round(height * self.ratio[1]))
        return np.array([(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width])


def crop_stream(key: str) -> int:
    """Return the number that makes the crops of one image differ from those of another."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Return the four words of Philox4x32-10 (Salmon et al., SC 2011) for each counter, as uint64 arrays of 32-bit numbers."""
    c0, c1, c2, c3 = counter
    for step in range(10):
        k0, k1 = (np.uint64((part + step * key_step) & 0xFFFFFFFF) for part, key_step in zip(key, _KEY_STEPS, strict=True))
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> _SHIFT) ^ c1 ^ k0, product1 & _MASK, (product0 >> _SHIFT) ^ c3 ^ k1, product0 & _MASK
    return c0, c1, c2, c3


def portable_exp(exponent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(x), |x| <= 8, to about 1e-10: the same bits wherever binary64 arithmetic is correctly rounded."""
    small = exponent / 8.0
    power = np.full_like(small, _FACTORIALS[13])
    for n in range(12, -1, -1):
        power = power * small + _FACTORIALS[n]
    for _ in range(3):
        power = power * power
    return power


def _below(word: Words, bound: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((word * bound.astype(np.uint64)) >> _SHIFT, np.int64)
