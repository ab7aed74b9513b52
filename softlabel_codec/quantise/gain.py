"""Selects classes by what naming them gains over the image's tail, and makes that tail (spec/sparse-v1.md, section 6)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.quantise.selection import Selection, select_where
from softlabel_codec.quantise.tails import TailCodes, codes_of_weights

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROUNDS = 3
"""How often a tail is made for the selection, and a selection for the tail."""
FIRST = 8.0
"""The first selection has the classes with at least this many times the gain."""
LEAST = 1 / 16
"""Classes with a smaller share of the gain are not named: the tail would have to give them less by a factor of 10^7."""
CROPS_FOR_RANKS = 4
"""From so many crops on, it pays to list what all of them keep: a class that is listed early has a small rank in each."""
_TINY = 1e-30


class _Tail(NamedTuple):
    """What the crops of an image leave out.

    Attributes
    ----------
    remainders : float64 (R,)
        What is left of each crop.
    weights : float64 (C,)
        Share of each class in the remainders of the crops that do not keep it.
    listed : int64 (N,)
        The classes that are worth to be listed, in descending order of weight.
    """

    remainders: Floats
    weights: Floats
    listed: NDArray[np.int64]


def select_by_gain(probs: NDArray[np.float32], gain: float, tail: int) -> tuple[Selection, TailCodes]:
    """Return what the crops of an image keep, and the tail of the rest.

    Leaving a class with probability p to the tail, which makes its target q, adds p ln(p / q) - p + q to the divergence of the crop's
    target from the teacher's. A class is kept if p > q and that is more than `gain`. The tail lists as many of the classes of largest
    weight as make the divergence of all crops together smallest, with `gain` added for each.

    Parameters
    ----------
    probs : float32 (R, C)
        Probabilities of the crops, already checked.
    gain : float
        What naming a class gains at least, in nats.
    tail : int
        Largest number of classes to list.
    """
    top = np.arange(len(probs)), probs.argmax(axis=1)
    possible = np.nonzero(probs > np.float32(LEAST * gain))
    keep = probs >= np.float32(FIRST * gain)
    keep[top] = True
    for _ in range(ROUNDS):
        keep = _gaining(probs, keep, possible, _tail_of(probs, keep, gain, tail), gain)
        keep[top] = True
    return select_where(keep, probs), _codes(keep, _tail_of(probs, keep, gain, tail), tail)


def _tail_of(probs: NDArray[np.float32], keep: Mask, gain: float, tail: int) -> _Tail:
    left = np.where(keep, 0, probs)
    remainders, left_out = left.sum(axis=1, dtype=np.float64), left.sum(axis=0, dtype=np.float64)
    of_others = remainders @ ~keep
    weights = np.divide(left_out, of_others, out=np.zeros(len(left_out)), where=of_others > 0)
    by_weight = np.argsort(-weights, kind="stable")
    number = _number_to_list(weights[by_weight], float(remainders.sum()), gain)
    return _Tail(remainders, weights, by_weight[: min(number, tail)])


def _number_to_list(weights: Floats, remainders: float, gain: float) -> int:
    """Return how many of these weights (C,), in descending order, to list, at least 1, if the others share what they have evenly."""
    shares = weights / max(float(weights.sum()), _TINY)
    logs = shares * np.log(np.maximum(shares, _TINY))
    others, of_others = (values[::-1].cumsum()[::-1][1:] for values in (np.maximum(shares, _TINY), logs))
    even = others * np.log(others / np.arange(len(others), 0, -1))
    return int((remainders * (of_others - even) + gain * np.arange(1, len(shares))).argmin()) + 1


def _gaining(probs: NDArray[np.float32], keep: Mask, possible: tuple[NDArray[np.int64], ...], tail: _Tail, gain: float) -> Mask:
    """Return which of the possible classes of crops gain enough by being named instead of left to this tail, as a mask (R, C)."""
    listed = tail.weights[tail.listed]
    weights = np.full(len(tail.weights), (tail.weights.sum() - listed.sum()) / max(1, len(tail.weights) - len(listed)))
    weights[tail.listed] = listed
    scale = tail.remainders / np.maximum(~keep @ weights, _TINY)
    rows, classes = possible
    p = probs[possible].astype(np.float64)
    q = np.maximum(scale[rows] * weights[classes], _TINY)
    found = np.zeros(keep.shape, np.bool_)
    found[possible] = (p > q) & (p * np.log(p / q) - p + q > gain)
    return found


def _codes(keep: Mask, found: _Tail, tail: int) -> TailCodes:
    """Return the codes of a tail. If that pays, classes that all crops keep are listed too: no target is made of their weight."""
    always = np.flatnonzero(keep.all(axis=0)) if len(keep) >= CROPS_FOR_RANKS else np.zeros(0, np.int64)
    weights = found.weights.copy()
    weights[always] = weights.max()
    return codes_of_weights(weights, np.concatenate([always, found.listed])[:tail])
