"""`DenseTargets`: targets of all classes, as a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softlabel_codec.errors import ArgumentError
from softlabel_codec.torch.tensorlike import TensorLike, as_rows, register_pytree


@dataclass(frozen=True, eq=False)
class DenseTargets(TensorLike):
    """Targets of all classes of B crops. They have what `SparseTargets` have.

    Attributes
    ----------
    probs : float32 (B, C)
        The targets.
    """

    probs: Tensor

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.probs.shape[-1])

    @property
    def shape(self) -> torch.Size:
        """(B, C)."""
        return self.probs.shape

    def tensors(self) -> dict[str, Tensor]:
        """Return the only tensor, by its name."""
        return {"probs": self.probs}

    def with_tensors(self, tensors: dict[str, Tensor]) -> DenseTargets:
        """Return targets that consist of this tensor."""
        return DenseTargets(**tensors)

    def __getitem__(self, rows: Any) -> DenseTargets:
        """Return the targets of some crops, by an index tensor, a mask, a slice or a list; a single number keeps the dimension."""
        return DenseTargets(self.probs[as_rows(rows, len(self))])

    def batch_of_one(self) -> DenseTargets:
        """Return the target of a single crop, such as it is inside `torch.func.vmap`, with a dimension of crops."""
        return DenseTargets(self.probs[None])

    @property
    def top1(self) -> Tensor:
        """Most probable class of each crop, int64 (B,)."""
        return self.argmax()

    def argmax(self, dim: int = -1, keepdim: bool = False) -> Tensor:
        """Return the class with the largest target of each crop, int64 (B,); the lowest of several."""
        check_class_dim(dim)
        return self.probs.argmax(dim=1, keepdim=keepdim)

    def entropy(self) -> Tensor:
        """Return the entropy of each target, float32 (B,), in nats."""
        entropy: Tensor = torch.special.entr(self.probs).sum(dim=1)
        return entropy

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        return self.probs


register_pytree(DenseTargets, lambda labels: (), lambda tensors: DenseTargets(**tensors))


def check_class_dim(dim: int) -> None:
    """Raise ArgumentError unless a dimension is that of the classes."""
    if dim not in (-1, 1):
        raise ArgumentError(f"dim: expected that of the classes, -1 or 1, got {dim!r}")
