"""The palettes that follow from the tails of images: the class of each rank, and back (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray, exclusive_cumsum
from softlabel_codec.quantise.tails import TailCodes

_CLASS_BITS, _LEVEL_BITS = 32, 8
_CLASS_MASK = (1 << _CLASS_BITS) - 1


class TailPalettes:
    """The palettes of images with these tails: the listed classes by level, equal levels by class, then all others by class.

    Parameters
    ----------
    tails : TailCodes
        Of I images.
    """

    def __init__(self, tails: TailCodes) -> None:
        self._image, place = np.nonzero(tails.classes >= 0)
        self._classes, self._levels = tails.classes[self._image, place], tails.levels[self._image, place]
        self._counts = np.bincount(self._image, minlength=len(tails.floor))
        self._first = exclusive_cumsum(self._counts)

    def classes(self, image: IntArray, rank: IntArray) -> IntArray:
        """Return the classes of these ranks in the palettes of these images. Those that are not below C stand for no class."""
        by_level = np.append(np.sort(self._level_keys()) & _CLASS_MASK, 0)
        listed = rank < self._counts[image]
        found: IntArray = by_level[np.where(listed, self._first[image] + rank, 0)]
        image, other = image[~listed], (rank - self._counts[image])[~listed]
        unlisted_before = self._keys(self._image, self._classes - (np.arange(len(self._image)) - self._first[self._image]))
        found[~listed] = other + np.searchsorted(unlisted_before, self._keys(image, other), side="right") - self._first[image]
        return found

    def ranks(self, image: IntArray, classes: IntArray) -> IntArray:
        """Return the ranks of these classes in the palettes of these images."""
        rank_of = np.empty(len(self._image) + 1, np.int64)
        rank_of[np.argsort(self._level_keys(), kind="stable")] = np.arange(len(self._image)) - self._first[self._image]
        by_class = np.append(self._keys(self._image, self._classes), -1)
        wanted = self._keys(image, classes)
        place = np.searchsorted(by_class[:-1], wanted)
        others = self._counts[image] + classes - (place - self._first[image])
        ranks: IntArray = np.where(by_class[place] == wanted, rank_of[place], others)
        return ranks

    def _level_keys(self) -> IntArray:
        """Return for each listed class a number, in whose order are the images, the levels of each, and the classes of each level."""
        return self._keys(self._image << _LEVEL_BITS | self._levels, self._classes)

    @staticmethod
    def _keys(before: IntArray, classes: IntArray) -> NDArray[np.int64]:
        return before << _CLASS_BITS | classes


def one_palette(classes: list[int], levels: bytes, longest: int) -> list[int]:
    """Return at most `longest` classes from the beginning of the palette of an image whose tail lists these ascending classes."""
    by_level = [listed for _, listed in sorted(zip(levels, classes, strict=True))]
    if len(by_level) >= longest:
        return by_level[:longest]
    known = set(classes)
    return by_level + list(islice((other for other in count() if other not in known), longest - len(by_level)))
