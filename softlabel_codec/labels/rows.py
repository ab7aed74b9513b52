"""Rows of labels: which are asked for, and targets of some classes of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError

Rows = slice | Sequence[int] | NDArray[Any]
TopK = tuple[NDArray[np.int32], NDArray[np.float32]]


class Targets(NamedTuple):
    """Targets of some classes of some crops: of the crop in row `rows[e]`, that of class `classes[e]` is `targets[e]`."""

    rows: NDArray[Any]
    classes: NDArray[Any]
    targets: NDArray[np.float32]

    def and_(self, more: Targets) -> Targets:
        """Return these and more."""
        return Targets(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))

    def largest(self, num_rows: int, k: int) -> TopK:
        """Return the k largest of each row, the lowest classes first of equal ones; no row may have fewer."""
        order = np.lexsort((self.classes, -self.targets, self.rows))
        chosen = order[np.searchsorted(self.rows[order], np.arange(num_rows))[:, None] + np.arange(k)]
        return self.classes[chosen].astype(np.int32), self.targets[chosen]


def as_rows(rows: int | Rows, num_rows: int) -> Rows:
    """Return an index that selects rows of an array; a single number selects one row. IndexError if there is no such row."""
    if not hasattr(rows, "__index__") or isinstance(rows, np.ndarray):
        return rows
    number = range(num_rows)[rows]
    return slice(number, number + 1)


def check_k(k: int, num_classes: int) -> int:
    """Return `k`, a number of the C classes; ArgumentError if it is none."""
    number = check_whole("k", k, 1)
    if number > num_classes:
        raise ArgumentError(f"k: expected at most {num_classes}, the number of classes, got {number}")
    return number


def lowest_others(stated: Targets, shape: tuple[int, int], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows and classes: for each row of (R, C) the k lowest classes that are not stated, or all if there are fewer."""
    num_rows, num_classes = shape
    width = min(num_classes, int(np.bincount(stated.rows, minlength=1).max()) + k)
    other = np.ones((num_rows, width), np.bool_)
    low = stated.classes < width
    other[stated.rows[low], stated.classes[low]] = False
    rows, classes = np.nonzero(other & (other.cumsum(axis=1) <= k))
    return rows, classes
