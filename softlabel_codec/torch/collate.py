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
        Cut, scaled, mirrored and normalised; in the memory format `torch.channels_last`.
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
    images = _joined([sample.images for sample in samples])
    if order == "image":
        return images, to_targets(labels)
    rows = np.arange(len(labels)).reshape(len(samples), -1).T.ravel()
    return images[torch.from_numpy(rows)], to_targets(labels[rows])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other, without copying them if they lie so in memory already."""
    first, each = parts[0], parts[0].numel()
    beginning, at = first.untyped_storage().data_ptr(), first.storage_offset()
    for place, part in enumerate(parts):
        same = part.shape == first.shape and part.stride() == first.stride() and part.dtype == first.dtype
        if not same or part.untyped_storage().data_ptr() != beginning or part.storage_offset() != at + place * each:
            return torch.cat(list(parts))
    return first.as_strided((len(parts) * len(first), *first.shape[1:]), first.stride(), at)
