"""Labels as tensors: `to_targets`."""

from __future__ import annotations

import numpy as np
import torch

from softlabel_codec.labels import DenseLabels, Labels
from softlabel_codec.torch.dense_targets import DenseTargets
from softlabel_codec.torch.feature_targets import FeatureTargets
from softlabel_codec.torch.sparse_targets import OF_FULL_TAILS, SparseTargets

Targets = SparseTargets | DenseTargets
AnyTargets = Targets | FeatureTargets


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
            zip((*OF_FULL_TAILS, "tail_of"), (tails.weights, tails.slopes, labels.values_of_main_class(), labels.tail_of), strict=True)
        )
        tensors = {name: torch.from_numpy(array) for name, array in full.items()}
        return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy, **tensors)
    classes = np.where(labels.tails.classes < 0, labels.num_classes, labels.tails.classes.astype(np.int64))
    tail = (classes, labels.tails.weights, labels.tails.floor, labels.tail_of)
    return SparseTargets(indices, values, remainder, labels.num_classes, labels.policy, *map(torch.from_numpy, tail))
