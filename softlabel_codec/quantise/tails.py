"""An image's tail: the distribution of what its crops left out, in coarse logarithmic levels (spec/sparse-v1.md, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError
from softlabel_codec.labels import Tails
from softlabel_codec.quantise.selection import Selection

TAIL_STEP = 0.5
NO_WEIGHT = 255
_POWERS = np.exp(np.arange(NO_WEIGHT + 1) * -TAIL_STEP)
_POWERS[NO_WEIGHT] = 0.0


class TailCodes(NamedTuple):
    """The tails of I images as integers.

    Attributes
    ----------
    classes : int64 (I, N)
        Listed classes, ascending in each row, padded with -1 at the end.
    levels : int64 (I, N)
        Level of each listed class, 0 to 254; arbitrary where padded.
    floor : int64 (I,)
        Level of every other class, 255 for no weight.
    """

    classes: NDArray[np.int64]
    levels: NDArray[np.int64]
    floor: NDArray[np.int64]


def left_out_of(probs: NDArray[np.float32], selection: Selection) -> NDArray[np.float64]:
    """Return for each class the sum of its probabilities (R, C) over the crops that do not keep it, float64 (C,)."""
    kept = selection.indices >= 0
    kept_sums = np.bincount(selection.indices[kept], weights=selection.values[kept], minlength=probs.shape[1])
    left_out: NDArray[np.float64] = np.maximum(probs.sum(axis=0, dtype=np.float64) - kept_sums, 0.0)
    return left_out


def quantise_tail(left_out: NDArray[np.float64], selection: Selection, tail: int) -> TailCodes:
    """Return the codes of one image's tail: its `tail` classes of largest weight, ties in order of class, and a uniform rest.

    Parameters
    ----------
    left_out : float64 (C,)
        For each class the sum of its probabilities over the crops that do not keep it.
    selection : Selection
        What the crops keep.
    tail : int
        Largest number of classes to list.
    """
    weights = weights_of_left_out(left_out, selection)
    return codes_of_weights(weights, np.argsort(-weights, kind="stable")[:tail])


def codes_of_weights(weights: NDArray[np.float64], candidates: NDArray[np.int64]) -> TailCodes:
    """Return the codes of one image's tail with these weights (C,), which lists some candidates: all whose level can be stored."""
    weights = weights.copy()
    largest = float(weights.max())
    if largest <= 0:
        return TailCodes(np.full((1, 1), -1), np.zeros((1, 1), np.int64), np.array([NO_WEIGHT]))
    with np.errstate(divide="ignore"):
        levels = np.rint(np.log(largest / weights[candidates]) / TAIL_STEP)
    listed = levels < NO_WEIGHT
    classes, levels = candidates[listed], levels[listed].astype(np.int64)
    num_others = len(weights) - len(classes)
    weights[classes] = 0.0
    rest = float(weights.sum())
    floor = min(NO_WEIGHT, int(np.rint(np.log(largest * num_others / rest) / TAIL_STEP))) if rest > 0 and num_others else NO_WEIGHT
    order = np.argsort(classes)
    return TailCodes(classes[order][None], levels[order][None], np.array([floor]))


def weights_of_left_out(left_out: NDArray[np.float64], selection: Selection) -> NDArray[np.float64]:
    """Return each class's share of the remainders of the crops that do not keep it, float64 (C,)."""
    kept = selection.indices >= 0
    remainders = np.broadcast_to(selection.remainder[:, None], kept.shape)[kept]
    of_keepers = np.bincount(selection.indices[kept], weights=remainders, minlength=len(left_out))
    of_others = selection.remainder.sum() - of_keepers
    possible = of_others > 1e-9 * len(kept)  # less is rounding error
    weights: NDArray[np.float64] = np.zeros(len(left_out))
    np.divide(left_out, of_others, out=weights, where=possible)
    return weights


def dequantise_tails(codes: TailCodes, num_classes: int) -> Tails:
    """Return the tails that codes represent; CorruptError if they are invalid."""
    listed = codes.classes >= 0
    if (codes.levels[listed] >= NO_WEIGHT).any():
        raise CorruptError("a class of a tail has no weight")
    if (codes.classes[:, 1:] <= codes.classes[:, :-1])[listed[:, 1:]].any():
        raise CorruptError("a class appears twice in a tail")
    weights = np.where(listed, _POWERS[np.where(listed, codes.levels, NO_WEIGHT)], 0.0)
    floor = _POWERS[codes.floor]
    total = weights.sum(axis=1) + (num_classes - listed.sum(axis=1)) * floor
    total[total == 0] = 1.0  # nothing was left out: a tail without any weight
    return Tails(codes.classes.astype(np.int32), (weights / total[:, None]).astype(np.float32), (floor / total).astype(np.float32))


def concatenate_tails(parts: Sequence[TailCodes]) -> TailCodes:
    """Return the tails of several parts, one after another."""
    width = max(part.classes.shape[1] for part in parts)

    def widened(array: NDArray[np.int64], fill: int) -> NDArray[np.int64]:
        return array if array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

    return TailCodes(
        np.concatenate([widened(part.classes, -1) for part in parts]),
        np.concatenate([widened(part.levels, 0) for part in parts]),
        np.concatenate([part.floor for part in parts]),
    )


def tail_of_image(codes: TailCodes, image: int) -> TailCodes:
    """Return the tail of one of several images."""
    listed = max(1, int((codes.classes[image] >= 0).sum()))
    place = slice(image, image + 1)
    return TailCodes(codes.classes[place, :listed], codes.levels[place, :listed], codes.floor[place])
