"""An image's tail over all classes: one byte for each class, and how it changes from crop to crop (spec/sparse-v1.md, section 6.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels import Tails
from softlabel_codec.quantise.selection import Selection
from softlabel_codec.quantise.tails import TAIL_STEP, weights_of_left_out

SLOPE_STEP = 1.5
REFERENCE = 0.5
"""Value of the main class at which a class has its level."""
MAX_LEVEL = 31
MIN_SLOPE, MAX_SLOPE = -4, 3
_ROUND_UP_FROM = 0.6  # slopes nearer to 0 cost less: most of what a small one gains is noise
_RIDGE = 0.01  # variance of values of the main class below which slopes are not trusted
_MIN_SHARE = 1e-9
_LEVELS, _SLOPES = np.divmod(np.arange(256), 8)
_SLOPES += MIN_SLOPE
_WEIGHTS_OF = np.exp(-TAIL_STEP * _LEVELS - SLOPE_STEP * REFERENCE * _SLOPES)
_SLOPES_OF = (SLOPE_STEP * _SLOPES).astype(np.float32)


class FullTailCodes(NamedTuple):
    """The tails of I images over all classes as integers.

    Attributes
    ----------
    codes : uint8 (I, C)
        8 * level + slope + 4 of each class: level 0 to 31, slope -4 to 3.
    main_class : int64 (I,)
        The class by whose value in a crop the weights change.
    """

    codes: NDArray[np.uint8]
    main_class: NDArray[np.int64]


def quantise_full_tail(probs: NDArray[np.float32], selection: Selection) -> FullTailCodes:
    """Return the codes of one image's tail that fits the logarithms of what its crops left out.

    For each class a line through (value of the main class in a crop, ln of the class's share of the remainder), by least squares over the
    crops that left the class out. Their weight is the fourth root of that share: so the tail is best at a temperature of about 4.

    Parameters
    ----------
    probs : float32 (R, C)
        The teacher's probabilities.
    selection : Selection
        What the crops keep.
    """
    rows, places = np.nonzero(selection.indices >= 0)
    left_out = np.ones(probs.shape, np.bool_)
    left_out[rows, selection.indices[rows, places]] = False
    others = np.where(left_out, probs, 0)
    rests = others.sum(axis=1, dtype=np.float64)
    something = rests > 0
    shares = np.maximum(others[something] / rests[something, None].astype(np.float32), np.float32(_MIN_SHARE))
    logs = np.log(shares)
    weights = np.exp(logs / 4) * left_out[something]
    main_class = _main_class(selection)
    x = np.where(selection.indices == main_class, selection.values, 0).sum(axis=1, dtype=np.float64)[something] - REFERENCE
    total, total_x, total_xx = np.stack([np.ones(len(x)), x, x * x]) @ weights
    total_y, total_xy = np.stack([np.ones(len(x)), x]) @ (weights * logs)
    known = total > 0
    count = np.where(known, total, 1)
    mean_x, mean_y = total_x / count, total_y / count
    slopes = (total_xy / count - mean_x * mean_y) / (np.maximum(total_xx / count - mean_x**2, 0) + _RIDGE)
    steps = np.trunc(slopes / SLOPE_STEP + np.copysign(1 - _ROUND_UP_FROM, slopes)).clip(MIN_SLOPE, MAX_SLOPE)
    return _codes(np.where(known, mean_y - SLOPE_STEP * steps * mean_x, -np.inf), steps, main_class)


def full_tail_of_left_out(left_out: NDArray[np.float64], selection: Selection) -> FullTailCodes:
    """Return the codes of one image's tail that has the arithmetic means of what its crops left out; it is the same for all crops.

    Parameters
    ----------
    left_out : float64 (C,)
        For each class the sum of its probabilities over the crops that do not keep it.
    selection : Selection
        What the crops keep.
    """
    with np.errstate(divide="ignore"):
        return _codes(np.log(weights_of_left_out(left_out, selection)), np.zeros(len(left_out)), _main_class(selection))


def _main_class(selection: Selection) -> int:
    """Return the class that most crops put first."""
    return int(np.bincount(selection.indices[:, 0]).argmax())


def _codes(logs: NDArray[np.float64], steps: NDArray[np.float64], main_class: int) -> FullTailCodes:
    """Return the codes of logarithms of weights (C,), -inf for no weight, and of slopes in steps."""
    largest = logs.max()
    levels = np.rint((largest - logs) / TAIL_STEP).clip(0, MAX_LEVEL) if np.isfinite(largest) else np.zeros(len(logs))
    return FullTailCodes((8 * levels + steps - MIN_SLOPE).astype(np.uint8)[None], np.array([main_class]))


def dequantise_full_tails(tails: FullTailCodes) -> Tails:
    """Return the tails that codes represent: every code has a meaning."""
    weights = _WEIGHTS_OF[tails.codes]
    weights /= weights.sum(axis=1, keepdims=True)
    num_images, num_classes = tails.codes.shape
    classes = np.broadcast_to(np.arange(num_classes, dtype=np.int32), tails.codes.shape)
    floor, main_class = np.zeros(num_images, np.float32), tails.main_class.astype(np.int32)
    return Tails(classes, weights.astype(np.float32), floor, _SLOPES_OF[tails.codes], main_class)
