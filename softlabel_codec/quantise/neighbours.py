"""The reading policy `neighbours`: remainders spread by what overlapping crops of the image say (spec/sparse-v1.md, section 7)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels import SparseLabels, concatenate_labels

NEIGHBOURS = "neighbours"
_NUMBERS_AT_A_TIME = 2**21
"""Overlaps and probabilities that are computed at a time: all views of an image are tens of thousands of crops."""


def spread_along_neighbours(labels: SparseLabels, crops: NDArray[Any], rows: NDArray[np.int64] | None = None) -> SparseLabels:
    """Return the labels of crops of one image with remainders spread by what overlapping crops say of the classes that a crop did not keep.

    A class that crop r does not keep, but another crop j of the image does, gets its mean probability over all crops, with the weights
    IoU(r, j)^3, scaled so that all classes that are not kept share the remainder of r, but less than the least that r keeps. In crops that
    do not keep it, themselves included, it counts as one of those that share their remainders evenly. What is left of the remainder of r
    is for the classes that no crop keeps.

    Parameters
    ----------
    labels : SparseLabels
        Labels of all M stored crops, without tails.
    crops : int or float (M, 4)
        top, left, height, width of each, in any unit.
    rows : int64 (n,), optional
        Crops whose labels are returned. Default: all.

    Returns
    -------
    SparseLabels
        Their labels, read with the policy `uniform`. They keep all classes that any crop of the image keeps.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    stated = _Stated.of(labels)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // (len(labels) + len(stated.classes)))
    parts = [_spread(labels, stated, crops, rows[start : start + at_a_time]) for start in range(0, max(len(rows), 1), at_a_time)]
    joined = concatenate_labels(parts)
    assert isinstance(joined, SparseLabels)
    return joined


class _Stated(NamedTuple):
    """What M crops say of the U classes that any of them keeps.

    Attributes
    ----------
    classes : int32 (U,)
        These classes.
    probs : float64 (M, U)
        Probabilities of those that a crop keeps, else 0.
    rank : int64 (M, U)
        Their places in the labels of a crop; of those that it does not keep, the number of places.
    even : float64 (M,)
        Share of the remainder of each class that a crop does not keep.
    counted : float64 (M, U)
        What the mean is of: `probs`, or `even` for classes that a crop does not keep.
    """

    classes: NDArray[np.int32]
    probs: NDArray[np.float64]
    rank: NDArray[np.int64]
    even: NDArray[np.float64]
    counted: NDArray[np.float64]

    @classmethod
    def of(cls, labels: SparseLabels) -> _Stated:
        kept = labels.indices >= 0
        classes, place = np.unique(labels.indices[kept], return_inverse=True)
        probs = np.zeros((len(labels), len(classes)))
        rank = np.full(probs.shape, labels.indices.shape[1])
        owner, column = np.nonzero(kept)
        probs[owner, place] = labels.values[kept]
        rank[owner, place] = column
        num_others = labels.num_classes - labels.counts
        even = np.divide(labels.remainder, num_others, out=np.zeros(len(labels)), where=num_others > 0)
        return cls(classes, probs, rank, even, np.where(rank < labels.indices.shape[1], probs, even[:, None]))


def _spread(labels: SparseLabels, stated: _Stated, crops: NDArray[Any], rows: NDArray[np.int64]) -> SparseLabels:
    """Return what `spread_along_neighbours` does, of some crops."""
    classes, probs, rank, own = stated.classes, stated.probs[rows], stated.rank[rows], labels[rows]
    is_kept = rank < labels.indices.shape[1]
    weights = _overlap(crops, rows)
    weights *= weights * weights
    mean = np.where(is_kept, 0.0, weights @ stated.counted)
    of_others = (labels.num_classes - len(classes)) * (weights @ stated.even)
    total, remainder = mean.sum(axis=1) + of_others, own.remainder.astype(np.float64)
    scale = np.divide(remainder, total, out=np.zeros(len(rows)), where=total > 0)
    least = np.where(own.indices >= 0, own.values, np.inf).min(axis=1)
    most = np.nextafter(least.astype(np.float32), np.float32(0)) if len(classes) < labels.num_classes else np.full(len(rows), np.inf)
    listed = np.minimum(mean * scale[:, None], most[:, None]).astype(np.float32)

    values = np.where(is_kept, probs, listed).astype(np.float32)
    order = np.lexsort((rank, -values))
    values = np.take_along_axis(values, order, axis=1)
    indices = np.where(values > 0, classes[order], -1).astype(np.int32)
    left = np.maximum(remainder - listed.sum(axis=1, dtype=np.float64), 0.0)
    return SparseLabels(indices, values, left.astype(np.float32), labels.num_classes)


def _overlap(crops: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of crops (n) with all (M), float64 (n, M)."""
    top, left, height, width = crops.astype(np.float64).T
    bottom, right, area = top + height, left + width, height * width
    heights = np.minimum(bottom[rows, None], bottom) - np.maximum(top[rows, None], top)
    widths = np.minimum(right[rows, None], right) - np.maximum(left[rows, None], left)
    common = np.maximum(heights, 0) * np.maximum(widths, 0)
    return np.asarray(common / (area[rows, None] + area - common), np.float64)
