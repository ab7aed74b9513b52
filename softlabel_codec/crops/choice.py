"""Which crops of an image are drawn at its first, second, ... turn: a function of (seed, image, turn) only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray

_ROUNDS = 4
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def choose_crops(seed: int, turns: Any, images: Any, num_crops: Any, crops_per_image: int) -> IntArray:
    """Return the crop numbers to use for some images, int64 (B, N).

    Turn *t* of an image takes places t * N to t * N + N - 1 of its endless sequence of crops; see `crops_at`.

    Parameters
    ----------
    seed : int
        At least 0.
    turns : int, or int (B,)
        Number of earlier draws of each image; equal to the epoch if each image is drawn once per epoch.
    images : int (B,)
        Image numbers.
    num_crops : int (B,)
        Number of crops of each image, M.
    crops_per_image : int
        N.
    """
    places = np.asarray(turns, np.int64).reshape(-1, 1) * crops_per_image + np.arange(crops_per_image, dtype=np.int64)
    return crops_at(seed, places, images, num_crops, crops_per_image)


def crops_at(seed: int, places: Any, images: Any, num_crops: Any, crops_per_image: int) -> IntArray:
    """Return the crops at some positions of the endless sequences of some images, int64 (B, n).

    A sequence consists of rounds. Each round holds all M crops of the image in an order that depends on seed, image and round, so all
    crops are used before any is used again. If N <= M, N consecutive positions never hold a crop twice: the first half of each round
    comes from one half of the crops and the second half from the other, so the end of a round and the beginning of the next have no crop
    in common if together they are no longer than half a round. For larger N all rounds have the same order.

    Parameters
    ----------
    seed : int
        At least 0.
    places : int (n,) or (B, n)
        At least 0.
    images, num_crops : int (B,)
        As for `choose_crops`.
    crops_per_image : int
        N: largest number of consecutive positions that are used together. Sequences for small and large N differ.
    """
    count = np.asarray(num_crops, np.int64)[:, None]
    number, step = np.divmod(np.broadcast_to(places, (len(count), np.shape(places)[-1])), count)
    half = count // 2
    one_order = crops_per_image - 1 > half
    second = (step >= half) & ~one_order
    first_crop = np.where(second, half, 0)
    length = np.where(one_order, count, np.where(second, count - half, half))
    with np.errstate(over="ignore"):
        of_image = _mix(np.asarray(images, np.uint64)[:, None] + _ODD * np.uint64(seed % 2**64))
        of_order = np.where(one_order, 0, 2 * number + second).astype(np.uint64)
        crop = first_crop + _permute(step - first_crop, length, _mix(of_image + of_order))
    offset = (of_image % count.astype(np.uint64)).astype(np.int64)  # which crops make up a half differs from image to image
    return np.asarray((crop + offset) % count)


def _permute(place: IntArray, count: IntArray, key: NDArray[np.uint64]) -> IntArray:
    """Return a pseudo-random permutation of 0 .. count - 1 at each position; all (B, n).

    A Feistel network over the smallest number of bits that holds `count`, applied until the result is below `count`.
    """
    bits = np.frexp(np.maximum(count - 1, 1).astype(np.float64))[1].astype(np.uint64)
    limit = count.astype(np.uint64)
    value = _feistel(place.astype(np.uint64), bits, key)
    outside = np.nonzero(value >= limit)
    while len(outside[0]):
        value[outside] = _feistel(value[outside], bits[outside], key[outside])
        still = value[outside] >= limit[outside]
        outside = outside[0][still], outside[1][still]
    return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], bits: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute numbers of `bits` bits each, at least 1. The halves may differ by one bit; they swap sides in each round."""
    right_bits = bits >> np.uint64(1)
    left_bits = bits - right_bits
    left, right = value >> right_bits, value & _ones(right_bits)
    masks = _ones(left_bits), _ones(right_bits)
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(key + _ODD * np.uint64(number) + right) & masks[number % 2])
    return np.asarray(left << right_bits | right)


def _ones(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.asarray((np.uint64(1) << bits) - np.uint64(1))


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a well mixed 64-bit hash (the finaliser of SplitMix64)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    return np.asarray(value ^ (value >> np.uint64(31)))
