"""Labels as tensors: `SparseTargets` and `DenseTargets`; and `FeatureTargets`, which become targets at a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.checks.arguments import check_temperature
from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.labels import NO_TARGETS, DenseLabels, Labels, check_policy
from softlabel_codec.torch.tails import AlongTail, along_tail, background, is_kept, shares
from softlabel_codec.torch.tensorlike import TensorLike, as_rows, register_pytree


@dataclass(frozen=True, eq=False)
class SparseTargets(TensorLike):
    """Sparse labels of B crops, as tensors on one device.

    They have what training loops use of a tensor of shape (B, C), without being one: `to`, `cuda`, `cpu`, `device`, `shape`, `size`,
    `ndim`, `argmax`, `pin_memory`, `is_pinned`, `detach`, `len`, rows by number, slice, index tensor or mask, and `torch.cat` (see
    `cat_targets`). They are nodes of torch's pytrees, whose leaves are the tensors below. So `torch.func` and `torch.compile` take them;
    `torch.func.vmap` over crops needs `with_tail_per_crop` if there are tails.

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
        `tail`: it is spread along the image's tail; `bucket`: the other classes are one class more, whose target it is.
    tail_classes, tail_weights, tail_floor : int64 (I, N), float32 (I, N), float32 (I,), or None
        Tails of I images as in `Tails`, padded with C at the end. With `tail=all` only the weights, of all classes: float32 (I, C).
    tail_of : int64 (B,) or None
        Index of the tail of each crop's image. None although there are tails: each crop has its own, in the same order.
    tail_slopes, tail_main_values : float32 (I, C), float32 (B,), or None
        With `tail=all` only: as in `Tails`; and by what the tails change, the value of its image's main class in each crop.

    Examples
    --------
    >>> labels = SparseTargets(torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), num_classes=4)
    >>> labels.shape, labels.argmax(-1), torch.cat([labels, labels]).shape
    (torch.Size([1, 4]), tensor([2]), torch.Size([2, 4]))
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
    tail_slopes: Tensor | None = None
    tail_main_values: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(B, C), as of the dense targets."""
        return torch.Size((*self.remainder.shape, self.num_classes))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by their names."""
        named = {name: getattr(self, name) for name in (*_OF_ROWS, *OF_TAILS)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def with_tensors(self, tensors: dict[str, Tensor]) -> SparseTargets:
        """Return targets of the same classes and policy that consist of these tensors."""
        return SparseTargets(num_classes=self.num_classes, policy=self.policy, **tensors)

    def __getitem__(self, rows: Any) -> SparseTargets:
        """Return the labels of some crops, by an index tensor, a mask, a slice or a list; a single number keeps the dimension."""
        return self._at(as_rows(rows, len(self)))

    def _at(self, rows: Any) -> SparseTargets:
        shared = OF_TAILS if self.tail_of is not None else ()
        return self.with_tensors({name: tensor if name in shared else tensor[rows] for name, tensor in self.tensors().items()})

    def batch_of_one(self) -> SparseTargets:
        """Return the label of a single crop, such as it is inside `torch.func.vmap`, with a dimension of crops."""
        return self._at(None)

    def with_policy(self, policy: str) -> SparseTargets:
        """Return the same labels, read with another remainder policy."""
        policy = check_policy(policy, self.tail_weights is not None)
        return SparseTargets(num_classes=self.num_classes, policy=policy, **self.tensors())

    def with_tail_per_crop(self) -> SparseTargets:
        """Return the same labels, where each crop has its own copy of its image's tail: all tensors then have B rows, as vmap needs."""
        if self.tail_of is None:
            return self
        tensors = self.tensors()
        of = tensors.pop("tail_of")
        return self.with_tensors({name: tensor[of] if name in OF_TAILS else tensor for name, tensor in tensors.items()})

    @property
    def top1(self) -> Tensor:
        """Most probable class that was stored of each crop, int64 (B,). It is that of `argmax` unless a tail says more of another."""
        return self.indices[:, 0].long() if self.indices.shape[1] else self.argmax()

    def argmax(self, dim: int = -1, keepdim: bool = False) -> Tensor:
        """Return the class with the largest target of each crop, under the policy; the lowest of several.

        With the policy `bucket`, the largest of those that are kept.

        Parameters
        ----------
        dim : int
            The dimension of the classes, -1 or 1; ArgumentError for another.
        keepdim : bool
            Whether to return (B, 1).

        Returns
        -------
        int64 (B,)
        """
        _check_class_dim(dim)
        if self.has_full_tail:
            return DenseTargets(self.dense()).argmax(dim, keepdim)
        listed = self._listed()
        other = _first_absent(listed)
        of_other = torch.where(other < self.num_classes, listed.background, -1.0)
        classes = torch.cat([listed.classes, other[:, None]], dim=1)
        targets = torch.cat([torch.where(listed.is_listed, listed.targets, -1.0), of_other[:, None]], dim=1)
        is_largest = targets == targets.amax(dim=1, keepdim=True)
        largest: Tensor = torch.where(is_largest, classes, self.num_classes).amin(dim=1, keepdim=keepdim)
        return largest

    def entropy(self) -> Tensor:
        """Return the entropy of each target, float32 (B,), in nats; with the policy `bucket`, that over K + 1 classes."""
        if self.has_full_tail:
            return DenseTargets(self.dense()).entropy()
        listed = self._listed()
        few: Tensor = torch.special.entr(torch.where(listed.is_listed, listed.targets, 0.0)).sum(dim=1)
        if self.policy == "bucket":
            bucket: Tensor = torch.special.entr(self.remainder)
            return few + bucket
        others: Tensor = (self.num_classes - listed.is_listed.sum(dim=1)) * torch.special.entr(listed.background)
        return few + others

    @property
    def has_full_tail(self) -> bool:
        """Whether remainders are spread along tails of all classes: then no class is like the others, and targets are built densely."""
        return self.policy == "tail" and self.tail_slopes is not None

    def above_background(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the targets in sparse form: a background value for every class, and differences from it for some.

        With full tails, no class is like the others: the background is 0, and there is a difference for each class.

        Returns
        -------
        classes : int64 (B, J)
            Kept classes, then classes of the tail. If a class occurs in both, its values add up.
        extra : float32 (B, J)
            Target less background of each; 0 where padded.
        background : float32 (B,)
            Target of every other class.

        Raises
        ------
        StateError
            If the policy is `bucket`, which gives these no targets of their own.
        """
        if self.policy == "bucket":
            raise StateError(f"labels: {NO_TARGETS}")
        if self.has_full_tail:
            every = torch.arange(self.num_classes, device=self.device).expand(len(self), -1)
            return every, self._along_full_tail(), torch.zeros_like(self.remainder)
        kept = self.indices >= 0
        classes = self.indices.clamp(min=0).long()
        if self.policy == "renorm":
            return classes, self.values / self.values.sum(dim=1, keepdim=True), torch.zeros_like(self.remainder)
        even = self._even(kept)
        if self.policy == "uniform":
            return classes, torch.where(kept, self.values - even[:, None], 0.0), even
        tail = self._along_tail(classes, even)
        kept_extra = torch.where(kept, self.values - shares(tail, tail.kept_weights), 0.0)
        tail_extra = torch.where(tail.padding, 0.0, tail.scale[:, None] * (tail.weights - tail.floor[:, None]))
        listed = tail.classes.masked_fill(tail.padding, 0)
        return torch.cat([classes, listed], dim=1), torch.cat([kept_extra, tail_extra], dim=1), background(tail)

    def _even(self, kept: Tensor) -> Tensor:
        """Return the remainder's share of each other class, if all get the same, (B,)."""
        others = self.num_classes - kept.sum(dim=1)
        return torch.where(others > 0, self.remainder / others.clamp(min=1), 0.0)

    def _along_tail(self, classes: Tensor, even: Tensor) -> AlongTail:
        listed, weights, floor = (getattr(self, name) for name in OF_TAILS[:3])
        if self.tail_of is not None:
            listed, weights, floor = listed[self.tail_of], weights[self.tail_of], floor[self.tail_of]
        return along_tail((listed, weights, floor), self.indices, classes, self.remainder, even, self.num_classes)

    def _along_full_tail(self) -> Tensor:
        weights, slopes, of_main = (getattr(self, name) for name in _OF_FULL_TAILS)
        if self.tail_of is not None:
            weights, slopes = weights[self.tail_of], slopes[self.tail_of]
        kept = self.indices >= 0
        classes = torch.where(kept, self.indices, self.indices[:, :1]).long()  # padding names the top class once more
        others = (weights * (slopes * of_main[:, None]).exp()).scatter(1, classes, 0.0)
        total = others.sum(dim=1, keepdim=True)
        along = others * (self.remainder[:, None] / total.clamp(min=torch.finfo(torch.float32).tiny))
        targets = torch.where(total > 0, along, self._even(kept)[:, None])
        return targets.scatter(1, classes, torch.where(kept, self.values, self.values[:, :1]))

    def _listed(self) -> _Listed:
        kept = self.indices >= 0
        classes = self.indices.clamp(min=0).long()
        if self.policy == "renorm":
            return _Listed(classes, self.values / self.values.sum(dim=1, keepdim=True), kept, torch.zeros_like(self.remainder))
        if self.policy == "bucket":
            return _Listed(classes, self.values, kept, torch.full_like(self.remainder, -1.0))
        even = self._even(kept)
        if self.policy == "uniform":
            return _Listed(classes, self.values, kept, even)
        tail = self._along_tail(classes, even)
        return _Listed(
            classes=torch.cat([classes, tail.classes], dim=1),
            targets=torch.cat([self.values, shares(tail, tail.weights)], dim=1),
            is_listed=torch.cat([kept, ~tail.padding & ~is_kept(tail)], dim=1),
            background=background(tail),
        )

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C); StateError if the policy is `bucket`."""
        if self.has_full_tail:
            return self._along_full_tail()
        classes, extra, background = self.above_background()
        return background[:, None].repeat(1, self.num_classes).scatter_add_(1, classes, extra)


_OF_ROWS = ("indices", "values", "remainder", "tail_of", "tail_main_values")
_OF_FULL_TAILS = ("tail_weights", "tail_slopes", "tail_main_values")
OF_TAILS = ("tail_classes", "tail_weights", "tail_floor", "tail_slopes")


class _Listed(NamedTuple):
    """Targets of some classes, each once: int64 (B, J), float32 (B, J), bool (B, J) false where padded; and of all others, (B,)."""

    classes: Tensor
    targets: Tensor
    is_listed: Tensor
    background: Tensor


def _first_absent(listed: _Listed) -> Tensor:
    """Return the lowest class that is not listed, int64 (B,); it may be C. It is at most J, as J classes are listed."""
    num_listed = listed.classes.shape[1]
    places = torch.where(listed.is_listed, listed.classes, num_listed + 1).clamp(max=num_listed + 1)
    present = torch.zeros_like(places).new_zeros((len(places), num_listed + 2)).scatter_(1, places, 1)
    return present[:, : num_listed + 1].argmin(dim=1)


def _check_class_dim(dim: int) -> None:
    if dim not in (-1, 1):
        raise ArgumentError(f"dim: expected that of the classes, -1 or 1, got {dim!r}")


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
        _check_class_dim(dim)
        return self.probs.argmax(dim=1, keepdim=keepdim)

    def entropy(self) -> Tensor:
        """Return the entropy of each target, float32 (B,), in nats."""
        entropy: Tensor = torch.special.entr(self.probs).sum(dim=1)
        return entropy

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        return self.probs


Targets = SparseTargets | DenseTargets


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


AnyTargets = Targets | FeatureTargets
NOT_PROBABILITIES = (
    "got features, the vectors of a self-supervised teacher. Choose a temperature T: labels.at(T) are the targets softmax(features / T)"
)


register_pytree(
    SparseTargets,
    lambda labels: (labels.num_classes, labels.policy),
    lambda num_classes, policy, tensors: SparseTargets(num_classes=num_classes, policy=policy, **tensors),
)
register_pytree(DenseTargets, lambda labels: (), lambda tensors: DenseTargets(**tensors))
register_pytree(FeatureTargets, lambda labels: (), lambda tensors: FeatureTargets(**tensors))


def to_targets(labels: Labels) -> AnyTargets:
    """Return decoded labels as tensors; features as `FeatureTargets`, which are no targets yet."""
    if isinstance(labels, DenseLabels) and labels.content == "features":
        return FeatureTargets(torch.from_numpy(labels.vectors))
    if isinstance(labels, DenseLabels):
        return DenseTargets(torch.from_numpy(labels.dense()))
    indices, values, remainder = (torch.from_numpy(array) for array in (labels.indices, labels.values, labels.remainder))
    if labels.tails is None:
        return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy)
    tails = labels.tails
    if tails.slopes is not None:
        full = dict(
            zip((*_OF_FULL_TAILS, "tail_of"), (tails.weights, tails.slopes, labels.values_of_main_class(), labels.tail_of), strict=True)
        )
        tensors = {name: torch.from_numpy(array) for name, array in full.items()}
        return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy, **tensors)
    classes = np.where(labels.tails.classes < 0, labels.num_classes, labels.tails.classes.astype(np.int64))
    tail = (classes, labels.tails.weights, labels.tails.floor, labels.tail_of)
    return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy, *map(torch.from_numpy, tail))
