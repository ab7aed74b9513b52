"""Which of an image's crops are drawn in which epoch: a function of (seed, epoch, image) only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.pack.columns import IntArray

_ROUNDS = 4
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def choose_crops(seed: int, epoch: int, images: Any, num_crops: Any, crops_per_image: int) -> IntArray:
    """Return the crop numbers to use of some images in an epoch, int64 (B, N).

    An image's crops are drawn in rounds: all of them, in an order that depends on seed, image and round, before
    any is drawn again. Epoch *e* takes places e * N to e * N + N - 1 of that endless sequence.

    Parameters
    ----------
    seed, epoch : int
        At least 0.
    images : int (B,)
        Image numbers.
    num_crops : int (B,)
        Number of crops of each image.
    crops_per_image : int
        N.
    """
    return crops_at(seed, epoch * crops_per_image + np.arange(crops_per_image, dtype=np.int64), images, num_crops)


def crops_at(seed: int, places: Any, images: Any, num_crops: Any) -> IntArray:
    """Return the crops that stand at some places of the endless sequences of some images, int64 (B, N).

    Parameters
    ----------
    seed : int
        At least 0.
    places : int (N,) or (B, N)
        At least 0.
    images, num_crops : int (B,)
        As for `choose_crops`.
    """
    count = np.asarray(num_crops, np.int64)[:, None]
    turn, step = np.divmod(np.broadcast_to(places, (len(count), np.shape(places)[-1])), count)
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.asarray(images, np.uint64)[:, None] + _ODD * np.uint64(seed % 2**64)) + turn.astype(np.uint64))
        return _permute(step, count, key)


def _permute(place: IntArray, count: IntArray, key: NDArray[np.uint64]) -> IntArray:
    """Return where a pseudo-random permutation of 0 .. count - 1 sends each place.

    A Feistel network over the smallest even number of bits that holds `count`, walked until it lands below `count`.
    """
    half_bits = (np.frexp(np.maximum(count - 1, 1).astype(np.float64))[1] + 1) // 2
    half_bits = np.broadcast_to(half_bits, place.shape).astype(np.uint64)
    value = place.astype(np.uint64)
    outside = np.ones(place.shape, bool)
    while outside.any():
        value[outside] = _feistel(value[outside], half_bits[outside], np.broadcast_to(key, place.shape)[outside])
        outside &= value >= np.broadcast_to(count, place.shape).astype(np.uint64)
    return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], half_bits: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(key + _ODD * np.uint64(number) + right) & mask)
    return np.asarray(left << half_bits | right)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a well mixed 64-bit hash (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    return np.asarray(value ^ (value >> np.uint64(31)))
