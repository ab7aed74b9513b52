"""`FeatureTargets`: features of a self-supervised teacher, which become targets at a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softlabel_codec.checks.arguments import check_temperature
from softlabel_codec.errors import StateError
from softlabel_codec.torch.dense_targets import DenseTargets
from softlabel_codec.torch.tensorlike import TensorLike, as_rows, register_pytree

NOT_PROBABILITIES = (
    "got features, the vectors of a self-supervised teacher. Choose a temperature T: labels.at(T) are the targets softmax(features / T)"
)


@dataclass(frozen=True, eq=False)
class FeatureTargets(TensorLike):
    """Features of B crops: what a self-supervised teacher says of them, which becomes a target only at a temperature (`at`).

    Of tensors they have what `SparseTargets` have, but for `argmax` and `entropy`.

    Attributes
    ----------
    features : float32 (B, C)
        The vectors of the teacher, C numbers of each crop.

    Examples
    --------
    >>> labels = FeatureTargets(torch.tensor([[0.6, 0.8]]))
    >>> labels.at(0.1).dense()
    tensor([[0.1192, 0.8808]])
    """

    features: Tensor

    @property
    def num_classes(self) -> int:
        """C, the length of a vector: so many outputs has a student of them."""
        return int(self.features.shape[-1])

    @property
    def shape(self) -> torch.Size:
        """(B, C)."""
        return self.features.shape

    def tensors(self) -> dict[str, Tensor]:
        """Return the only tensor, by its name."""
        return {"features": self.features}

    def with_tensors(self, tensors: dict[str, Tensor]) -> FeatureTargets:
        """Return features that consist of this tensor."""
        return FeatureTargets(**tensors)

    def __getitem__(self, rows: Any) -> FeatureTargets:
        """Return the features of some crops, by an index tensor, a mask, a slice or a list; a single number keeps the dimension."""
        return FeatureTargets(self.features[as_rows(rows, len(self))])

    def at(self, temperature: float) -> DenseTargets:
        """Return the targets softmax(features / T), as in FKD for self-supervised teachers, and in SEED (Fang et al., 2021).

        The student's outputs z have a temperature of their own: `soft_cross_entropy(z / T_student, features.at(T_teacher))`.

        Parameters
        ----------
        temperature : float
            T, 0.0001 to 10000. The usual ones, 0.01 to 0.2, are for features of length 1.

        Raises
        ------
        ArgumentError
            If it is something else.
        """
        below = self.features - self.features.amax(dim=-1, keepdim=True)  # so that no quotient is too large
        return DenseTargets(torch.softmax(below / check_temperature(temperature), dim=-1))

    def dense(self) -> Tensor:
        """Raise StateError: features are no targets."""
        raise StateError(f"labels: expected probabilities of classes, {NOT_PROBABILITIES}")


register_pytree(FeatureTargets, lambda labels: (), lambda tensors: FeatureTargets(**tensors))
