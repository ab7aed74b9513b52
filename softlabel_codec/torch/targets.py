"""Labels as tensors that can move between devices: `SparseTargets` and `DenseTargets`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import DenseLabels, Labels, check_policy


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """Sparse labels of B crops, as tensors on one device.

    Attributes
    ----------
    indices : int32 (B, K)
        Kept classes of each crop, padded with -1.
    values : float32 (B, K)
        Their probabilities, padded with 0.
    remainder : float32 (B,)
        Probability of all other classes together.
    num_classes : int
        C.
    policy : str
        `uniform`: the remainder is spread over the other classes; `renorm`: it is dropped and the rest renormalised;
        `tail`: it is spread along the image's tail.
    tail_classes, tail_weights, tail_floor : int64 (I, N), float32 (I, N), float32 (I,), or None
        Tails of I images as in `Tails`, padded with C at the end.
    tail_of : int64 (B,) or None
        Index of the tail of each crop's image.
    """

    indices: Tensor
    values: Tensor
    remainder: Tensor
    num_classes: int
    policy: str = "uniform"
    tail_classes: Tensor | None = None
    tail_weights: Tensor | None = None
    tail_floor: Tensor | None = None
    tail_of: Tensor | None = None

    def __len__(self) -> int:
        return len(self.remainder)

    def to(self, device: Any, non_blocking: bool = False) -> SparseTargets:
        """Return the same labels on another device; ArgumentError for a type: classes are integers."""
        target = _device(device)
        return self._map(lambda tensor: tensor.to(target, non_blocking=non_blocking))

    def pin_memory(self) -> SparseTargets:
        """Return the same labels in page-locked memory; DataLoader calls this if asked to pin."""
        return self._map(Tensor.pin_memory)

    def __getitem__(self, rows: Tensor) -> SparseTargets:
        """Return the labels of some crops, by an index tensor (B,)."""
        tail_of = None if self.tail_of is None else self.tail_of[rows]
        return replace(self, indices=self.indices[rows], values=self.values[rows], remainder=self.remainder[rows], tail_of=tail_of)

    def with_policy(self, policy: str) -> SparseTargets:
        """Return the same labels, read with another remainder policy."""
        return replace(self, policy=check_policy(policy, self.tail_of is not None))

    def above_background(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the targets in sparse form: a background value for every class, and differences from it for some.

        Returns
        -------
        classes : int64 (B, J)
            Kept classes, then classes of the tail. If a class occurs in both, its values add up.
        extra : float32 (B, J)
            Target less background of each; 0 where padded.
        background : float32 (B,)
            Target of every other class.
        """
        kept = self.indices >= 0
        classes = self.indices.clamp(min=0).long()
        if self.policy == "renorm":
            return classes, self.values / self.values.sum(dim=1, keepdim=True), torch.zeros_like(self.remainder)
        others = self.num_classes - kept.sum(dim=1)
        even = torch.where(others > 0, self.remainder / others.clamp(min=1), 0.0)
        if self.policy == "uniform":
            return classes, torch.where(kept, self.values - even[:, None], 0.0), even
        return self._above_tail(kept, classes, even)

    def _above_tail(self, kept: Tensor, classes: Tensor, even: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        listed, weights, floor = (tensor[self.tail_of] for tensor in (self.tail_classes, self.tail_weights, self.tail_floor))  # type: ignore[index]
        padding = listed == self.num_classes
        place = torch.searchsorted(listed, classes).clamp(max=listed.shape[1] - 1)
        in_tail = kept & (listed.gather(1, place) == self.indices)
        kept_weights = torch.where(in_tail, weights.gather(1, place), floor[:, None])
        num_unlisted = self.num_classes - (~padding).sum(dim=1) - (kept & ~in_tail).sum(dim=1)
        taken = torch.zeros_like(weights).scatter_add_(1, place, torch.where(in_tail, weights.gather(1, place), 0.0))
        total = (weights - taken).sum(dim=1) + num_unlisted * floor
        along = total > 0
        scale = torch.where(along, self.remainder / total.clamp(min=1e-30), 0.0)
        background = torch.where(along, scale * floor, even)
        kept_extra = self.values - torch.where(along[:, None], scale[:, None] * kept_weights, even[:, None])
        tail_extra = torch.where(padding, 0.0, scale[:, None] * (weights - floor[:, None]))
        extra = torch.cat([torch.where(kept, kept_extra, 0.0), tail_extra], dim=1)
        return torch.cat([classes, listed.masked_fill(padding, 0)], dim=1), extra, background

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        classes, extra, background = self.above_background()
        return background[:, None].repeat(1, self.num_classes).scatter_add_(1, classes, extra)

    def _map(self, change: Any) -> SparseTargets:
        names = ("indices", "values", "remainder", "tail_classes", "tail_weights", "tail_floor", "tail_of")
        return replace(self, **{name: change(getattr(self, name)) for name in names if getattr(self, name) is not None})


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """Targets of all classes of B crops.

    Attributes
    ----------
    probs : float32 (B, C)
        The targets.
    """

    probs: Tensor

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, rows: Tensor) -> DenseTargets:
        """Return the targets of some crops, by an index tensor (B,)."""
        return DenseTargets(self.probs[rows])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.probs.shape[1])

    def to(self, device: Any, non_blocking: bool = False) -> DenseTargets:
        """Return the same targets on another device."""
        return DenseTargets(self.probs.to(_device(device), non_blocking=non_blocking))

    def pin_memory(self) -> DenseTargets:
        """Return the same targets in page-locked memory."""
        return DenseTargets(self.probs.pin_memory())

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        return self.probs


Targets = SparseTargets | DenseTargets


def _device(device: Any) -> torch.device:
    try:
        return torch.device(device)
    except (TypeError, RuntimeError) as error:
        raise ArgumentError(f"device: expected a device such as 'cuda:0', got {device!r}: {error}") from None


def to_targets(labels: Labels) -> Targets:
    """Return decoded labels as tensors.

    Raises
    ------
    StateError
        If they are `features`, which are no targets.
    """
    if isinstance(labels, DenseLabels):
        return DenseTargets(torch.from_numpy(labels.dense()))
    indices, values, remainder = (torch.from_numpy(array) for array in (labels.indices, labels.values, labels.remainder))
    if labels.tails is None:
        return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy)
    classes = np.where(labels.tails.classes < 0, labels.num_classes, labels.tails.classes.astype(np.int64))
    tail = (classes, labels.tails.weights, labels.tails.floor, labels.tail_of)
    return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy, *map(torch.from_numpy, tail))
