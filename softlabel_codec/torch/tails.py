"""How the remainders of crops are spread along the tails of their images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AlongTail(NamedTuple):
    """The tail of each crop's image, and the targets that the crop's remainder gives to classes.

    Attributes
    ----------
    classes : int64 (B, N)
        Classes of the tail, padded with C.
    padding : bool (B, N)
        Where there is none.
    weights : float32 (B, N)
        Their weights.
    floor : float32 (B,)
        Weight of every class that is not in the tail.
    place : int64 (B, K)
        Where each kept class stands in the tail.
    in_tail : bool (B, K)
        Whether it stands there.
    kept_weights : float32 (B, K)
        Its weight.
    scale : float32 (B,)
        Target of a class of weight 1 that is not kept.
    along : bool (B,)
        False where no class with a weight is left; then all others get the same.
    even : float32 (B,)
        What they get then.
    """

    classes: Tensor
    padding: Tensor
    weights: Tensor
    floor: Tensor
    place: Tensor
    in_tail: Tensor
    kept_weights: Tensor
    scale: Tensor
    along: Tensor
    even: Tensor


def along_tail(
    tail: tuple[Tensor, Tensor, Tensor], indices: Tensor, classes: Tensor, remainder: Tensor, even: Tensor, num_classes: int
) -> AlongTail:
    """Spread remainders.

    Parameters
    ----------
    tail : int64 (B, N), float32 (B, N), float32 (B,)
        Classes, weights and floor of the tail of each crop.
    indices, classes : int32 (B, K), int64 (B, K)
        Kept classes, padded with -1, and with 0.
    remainder, even : float32 (B,)
        Probability of the other classes together, and for each if all get the same.
    num_classes : int
        C.
    """
    listed, weights, floor = tail
    kept, padding = indices >= 0, listed == num_classes
    place = torch.searchsorted(listed, classes).clamp(max=listed.shape[1] - 1)
    in_tail = kept & (listed.gather(1, place) == indices)
    kept_weights = torch.where(in_tail, weights.gather(1, place), floor[:, None])
    num_unlisted = num_classes - (~padding).sum(dim=1) - (kept & ~in_tail).sum(dim=1)
    taken = torch.zeros_like(weights).scatter_add_(1, place, torch.where(in_tail, weights.gather(1, place), 0.0))
    total = (weights - taken).sum(dim=1) + num_unlisted * floor
    along = total > 0
    scale = torch.where(along, remainder / total.clamp(min=1e-30), 0.0)
    return AlongTail(listed, padding, weights, floor, place, in_tail, kept_weights, scale, along, even)


def shares(tail: AlongTail, weights: Tensor) -> Tensor:
    """Return the targets of classes with these weights, (B, n), which are not kept."""
    return torch.where(tail.along[:, None], tail.scale[:, None] * weights, tail.even[:, None])


def background(tail: AlongTail) -> Tensor:
    """Return the target of a class that is neither kept nor in the tail, (B,)."""
    return torch.where(tail.along, tail.scale * tail.floor, tail.even)


def is_kept(tail: AlongTail) -> Tensor:
    """Return which classes of the tail are kept ones, bool (B, N)."""
    return torch.zeros_like(tail.classes).scatter_add(1, tail.place, tail.in_tail.long()) > 0
