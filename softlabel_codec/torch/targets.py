"""Labels as tensors that move between devices: `SparseTargets` and `DenseTargets`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

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
        `uniform`: the remainder is spread over the other classes; `renorm`: it is dropped and the rest renormalised.
    """

    indices: Tensor
    values: Tensor
    remainder: Tensor
    num_classes: int
    policy: str = "uniform"

    def __len__(self) -> int:
        return len(self.remainder)

    def to(self, device: Any, non_blocking: bool = False) -> SparseTargets:
        """Return the same labels on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SparseTargets:
        """Return the same labels in page-locked memory; DataLoader calls this if asked to pin."""
        return self._map(Tensor.pin_memory)

    def with_policy(self, policy: str) -> SparseTargets:
        """Return the same labels, read with another remainder policy."""
        return replace(self, policy=check_policy(policy))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the targets of the kept classes (B, K), 0 where padded, and that of every other class (B,)."""
        if self.policy == "renorm":
            return self.values / self.values.sum(dim=1, keepdim=True), torch.zeros_like(self.remainder)
        others = self.num_classes - (self.indices >= 0).sum(dim=1)
        return self.values, torch.where(others > 0, self.remainder / others.clamp(min=1), 0.0)

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        values, background = self.weights()
        targets = background[:, None].repeat(1, self.num_classes)
        kept = self.indices >= 0
        rows = torch.arange(len(self), device=targets.device)[:, None].expand_as(kept)
        targets[rows[kept], self.indices[kept].long()] = values[kept]
        return targets

    def _map(self, change: Any) -> SparseTargets:
        return replace(self, indices=change(self.indices), values=change(self.values), remainder=change(self.remainder))


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

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.probs.shape[1])

    def to(self, device: Any, non_blocking: bool = False) -> DenseTargets:
        """Return the same targets on another device."""
        return DenseTargets(self.probs.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DenseTargets:
        """Return the same targets in page-locked memory."""
        return DenseTargets(self.probs.pin_memory())

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        return self.probs


Targets = SparseTargets | DenseTargets


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
    return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy)
