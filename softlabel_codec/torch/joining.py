"""Concatenates targets, of any codecs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.torch.collated import check_collated
from softlabel_codec.torch.dense_targets import DenseTargets
from softlabel_codec.torch.feature_targets import FeatureTargets
from softlabel_codec.torch.sparse_targets import OF_TAILS, SparseTargets
from softlabel_codec.torch.targets import AnyTargets
from softlabel_codec.torch.tensorlike import overrides


@overrides(torch.cat, torch.concat, torch.concatenate)
def cat_targets(tensors: Sequence[AnyTargets], dim: int = 0) -> AnyTargets:
    """Return the targets of several batches as one batch. `torch.cat` of targets calls this.

    Batches may keep different numbers of classes per crop, have tails or not, and come from files of different codecs: each crop keeps its
    target. Sparse targets of different policies take one that serves all (so `with_policy` may be of no use afterwards). If some are
    dense, all become dense. Those of the policy `bucket` are joined with each other only, and so are features.

    Parameters
    ----------
    tensors : sequence of SparseTargets, DenseTargets or FeatureTargets
        Of the same classes, on the same device.
    dim : int
        Only crops can be joined: 0 or -2.

    Raises
    ------
    MismatchError
        If classes or devices differ, or some have the policy `bucket` and others another one, or some are features and others targets.
    ArgumentError
        If there are none, or something else is among them.

    Examples
    --------
    >>> labels = SparseTargets(torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([[0.5, 0.3]]), torch.tensor([0.2]), num_classes=4)
    >>> cat_targets([labels, DenseTargets(torch.eye(4))]).shape
    torch.Size([5, 4])
    """
    parts: list[Any] = list(tensors)
    if dim not in (0, -2):
        raise ArgumentError(f"dim: expected that of the crops, 0 or -2, got {dim!r}")
    if not parts:
        raise ArgumentError("tensors: expected targets, got none")
    for part in parts:
        check_collated(part)
    for name, found in (("num_classes", {part.num_classes for part in parts}), ("device", {str(part.device) for part in parts})):
        if len(found) > 1:
            raise MismatchError(f"{name}: expected targets with the same, got {', '.join(map(str, sorted(found)))}")
    features = [part.features for part in parts if isinstance(part, FeatureTargets)]
    if features:
        if len(features) < len(parts):
            raise MismatchError("tensors: expected targets, or features of all crops, got both. Make targets of features: features.at(T)")
        return FeatureTargets(torch.cat(features))
    sparse = [part for part in parts if isinstance(part, SparseTargets)]
    return _cat_sparse(sparse) if len(sparse) == len(parts) else DenseTargets(torch.cat([part.dense() for part in parts]))


def _cat_sparse(parts: list[SparseTargets]) -> SparseTargets:
    policies = sorted({part.policy for part in parts})
    if "bucket" in policies and len(policies) > 1:
        raise MismatchError(f"policy: expected 'bucket' for all, as it has no targets of all classes, got {', '.join(policies)}")
    if len(policies) > 1:
        parts = [_without_remainder(part) if part.policy == "renorm" else part for part in parts]
    policy = "tail" if any(part.policy == "tail" for part in parts) else parts[0].policy
    if policy == "tail":
        parts = [part if part.policy == "tail" else _with_even_tail(part) for part in parts]
    width = max(part.indices.shape[1] for part in parts)
    of_rows = (
        torch.cat([_padded(part.indices, width, -1) for part in parts]),
        torch.cat([_padded(part.values, width, 0) for part in parts]),
        torch.cat([part.remainder for part in parts]),
    )
    has_tails = all(part.tail_weights is not None for part in parts)
    return SparseTargets(*of_rows, parts[0].num_classes, policy, **(_cat_tails(parts) if has_tails else {}))


def _without_remainder(part: SparseTargets) -> SparseTargets:
    """Return renormalised targets as `uniform` ones that have nothing left to spread."""
    values = part.values / part.values.sum(dim=1, keepdim=True)
    return SparseTargets(part.indices, values, torch.zeros_like(part.remainder), part.num_classes)


def _with_even_tail(part: SparseTargets) -> SparseTargets:
    """Return `uniform` targets with a tail that lists no class, along which all get the same."""
    classes = torch.full((1, 1), part.num_classes, device=part.device)
    weights, floor = part.values.new_zeros((1, 1)), part.values.new_ones(1)
    tail_of = torch.zeros(len(part), dtype=torch.int64, device=part.device)
    return SparseTargets(part.indices, part.values, part.remainder, part.num_classes, "tail", classes, weights, floor, tail_of)


def _cat_tails(parts: list[SparseTargets]) -> dict[str, Tensor]:
    """Return all tails, and which is whose; rows of one batch share theirs. If some have all classes, all have."""
    kinds = [_tails_of(part) for part in parts]
    if len({"tail_slopes" in tails for tails in kinds}) > 1:
        kinds = [tails if "tail_slopes" in tails else _as_full_tails(tails, parts[0].num_classes) for tails in kinds]
    different: dict[tuple[int, ...], dict[str, Tensor]] = {}
    starts, tail_of, num_tails = {}, [], 0
    for part, tails in zip(parts, kinds, strict=True):
        which = tuple(map(id, _tails_of(part).values()))
        if which not in different:
            different[which], starts[which] = tails, num_tails
            num_tails += len(tails["tail_weights"])
        own = torch.arange(len(tails["tail_weights"]), device=part.device) if part.tail_of is None else part.tail_of
        tail_of.append(own + starts[which])
    joined = {name: _cat_padded([tails[name] for tails in different.values()], parts[0].num_classes) for name in kinds[0]}
    if "tail_slopes" in joined:
        known = [part.remainder.new_zeros(len(part)) if part.tail_main_values is None else part.tail_main_values for part in parts]
        joined["tail_main_values"] = torch.cat(known)
    return {**joined, "tail_of": torch.cat(tail_of)}


def _tails_of(part: SparseTargets) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in part.tensors().items() if name in OF_TAILS}


def _as_full_tails(tails: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Return tails with a weight for each class, which are the same for all crops of an image."""
    places = tails["tail_classes"]
    weights = tails["tail_floor"][:, None].repeat(1, num_classes + 1)  # padding names the class after the last
    weights = weights.scatter(1, places, tails["tail_weights"])[:, :num_classes]
    return {"tail_weights": weights, "tail_slopes": torch.zeros_like(weights)}


def _cat_padded(tensors: list[Tensor], num_classes: int) -> Tensor:
    """Return tensors one after another; of two dimensions, padded to the widest: classes with C, floats with 0."""
    if tensors[0].ndim == 1:
        return torch.cat(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([_padded(tensor, width, 0 if tensor.is_floating_point() else num_classes) for tensor in tensors])


def _padded(tensor: Tensor, width: int, fill: int) -> Tensor:
    return functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)
