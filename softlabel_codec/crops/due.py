"""Which crops of some images are due: those that a turn of each draws, from as many stored crops as are to be used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray
from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.arrays import as_array
from softlabel_codec.crops.choice import choose_crops
from softlabel_codec.errors import ArgumentError

_ALL_CROPS, _FAR = 2**32, 0x9E3779B1
_MAX_TURN = 2**40
"""So that the positions in an image's sequence of crops fit into 64 bits."""


def due_crops(
    images: NDArray[np.int64],
    num_crops: NDArray[np.int64],
    crops_per_image: int,
    seed: int,
    turns: Any,
    stored_crops: int | None,
    path: object,
    *,
    any_crop: bool = False,
) -> IntArray:
    """Return the numbers of the crops that are due of some images, int64 (B, N).

    Parameters
    ----------
    images, num_crops : int64 (B,)
        Number of each image in its file, and how many crops are stored of it.
    crops_per_image : int
        N.
    seed : int
        At least 0.
    turns : int, or int (B,)
        Number of earlier draws of each image.
    stored_crops : int or None
        Draw from the first so many crops of each image only.
    path : path
        The file, for messages.
    any_crop : bool
        There are crops of all numbers below 2^32: none is used again, unless `stored_crops` says so.

    Raises
    ------
    ArgumentError
        If an image has too few crops, or an argument is not as described.
    """
    check_counts(num_crops, crops_per_image, stored_crops, path, any_crop=any_crop)
    if any_crop and stored_crops is None:
        return next_crops(len(images), crops_per_image, seed, turns)
    counts = num_crops if stored_crops is None else np.minimum(num_crops, stored_crops)
    return choose_crops(check_whole("seed", seed, 0), _check_turns(turns, len(images)), images, counts, crops_per_image)


def next_crops(num_images: int, crops_per_image: int, seed: int, turns: Any) -> IntArray:
    """Return the crops that are due (B, N) where there are crops of all numbers below 2^32: none is used again.

    They begin at 0 for seed 0, and far from there for other seeds. Arguments and errors are those of `due_crops`.
    """
    each = check_whole("crops_per_image", crops_per_image, 1)
    first = check_whole("seed", seed, 0) * _FAR % _ALL_CROPS + np.broadcast_to(_check_turns(turns, num_images), num_images) * each
    crops: IntArray = (first[:, None] + np.arange(each)) % _ALL_CROPS
    return crops


def check_counts(
    num_crops: NDArray[np.int64], crops_per_image: int, stored_crops: int | None, path: object, *, any_crop: bool = False
) -> None:
    """Raise ArgumentError if an image has fewer crops than are to be used, or drawn at once; `any_crop` as for `due_crops`."""
    fewest = int(num_crops.min(initial=2**63 - 1)) if not any_crop or stored_crops is not None else _ALL_CROPS
    for name, wanted in (("stored_crops", stored_crops), ("crops_per_image", crops_per_image)):
        if wanted is None:
            continue
        if check_whole(name, wanted, 1) > fewest:
            raise ArgumentError(f"{name}: expected at most {fewest}, the crops stored of an image in {path}, got {wanted}")
        fewest = wanted


def _check_turns(turns: Any, num_images: int) -> IntArray:
    array = as_array("epoch", turns)
    if array.dtype.kind not in "iu" or array.shape not in ((), (num_images,)):
        got = f"{array.dtype} of shape {array.shape}"
        raise ArgumentError(f"epoch: expected an integer, or integers of shape ({num_images},), got {got if array.ndim else repr(turns)}")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= _MAX_TURN:
        wrong = int(array.min()) if array.min() < 0 else int(array.max())
        raise ArgumentError(f"epoch: expected integers from 0 to 2^40, got {wrong}")
    return array.astype(np.int64)
