"""Samples of a dataset, and the batches that a DataLoader makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.checks.arguments import check_choice
from softlabel_codec.labels import Labels, concatenate_labels
from softlabel_codec.torch.targets import Targets, to_targets

ORDERS = ("image", "crop")


class Sample(NamedTuple):
    """Chosen crops of one image.

    Attributes
    ----------
    images : Tensor (N, 3, size, size)
        Cut, scaled, mirrored and normalised.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    """

    images: Tensor
    labels: Labels


def collate_crops(samples: Sequence[Sample], order: str = "image") -> tuple[Tensor, Targets]:
    """Return one batch: images (B * N, 3, size, size), and the labels of all crops in the same order, still sparse.

    Pass it to a DataLoader as `collate_fn`.

    Parameters
    ----------
    samples : sequence of Sample
        The crops of B images.
    order : str
        `image`: all crops of the first image, then those of the second, ... `crop`: the first crop of each image, then the second of
        each, ... That is for what mixes each crop with its neighbour, such as torchvision's MixUp and CutMix: side by side, crops of one
        image would mostly be mixed with each other. Pass `functools.partial(collate_crops, order="crop")`.

    Raises
    ------
    ArgumentError
        If `order` is something else.
    """
    check_choice("order", order, ORDERS)
    labels = concatenate_labels([sample.labels for sample in samples])
    if order == "image":
        return torch.cat([sample.images for sample in samples]), to_targets(labels)
    rows = np.arange(len(labels)).reshape(len(samples), -1).T.ravel()
    return torch.stack([sample.images for sample in samples], dim=1).flatten(0, 1), to_targets(labels[rows])
