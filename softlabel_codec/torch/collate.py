"""Samples of a dataset, and the batches that a DataLoader makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabel_codec.checks.arguments import check_choice
from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import Labels, concatenate_labels
from softlabel_codec.torch.targets import to_targets

ORDERS = ("image", "crop")


class Sample(NamedTuple):
    """Chosen crops of one image.

    Attributes
    ----------
    images : Tensor (N, 3, size, size)
        Cut, scaled, mirrored and normalised; in the memory format `torch.channels_last`.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    index : int
        The image's index in the dataset.
    key : str
        Its key in the label file.
    target : int or None
        Its true class, if the dataset was asked for it.
    """

    images: Tensor
    labels: Labels
    index: int  # type: ignore[assignment]  # a name that tuple has too
    key: str
    target: int | None = None


def collate_crops(samples: Sequence[Sample | Mapping[str, Any]], order: str = "image") -> tuple[Any, ...]:
    """Return one batch: images (B * N, 3, size, size), and the labels of all crops in the same order, still sparse.

    Pass it to a DataLoader as `collate_fn`. If the samples have a target (`target_of=` of the dataset), the classes of the crops'
    images come third, int64 (B * N,). Labels that are features come as `FeatureTargets`.

    Parameters
    ----------
    samples : sequence of Sample, or of mappings with the fields of one
        The crops of B images.
    order : str
        `image`: all crops of the first image, then those of the second, ... `crop`: the first crop of each image, then the second of
        each, ... That is for what mixes each crop with its neighbour, such as torchvision's MixUp and CutMix: side by side, crops of one
        image would mostly be mixed with each other. Pass `functools.partial(collate_crops, order="crop")`.

    Raises
    ------
    ArgumentError
        If `order` is something else, or some samples have a target and others have none.
    """
    check_choice("order", order, ORDERS)
    given = [Sample(**sample) if isinstance(sample, Mapping) else sample for sample in samples]
    labels, classes = concatenate_labels([sample.labels for sample in given]), _classes_of_crops(given)
    pixels = _joined([sample.images for sample in given])
    if order == "crop":
        rows = np.arange(len(labels)).reshape(len(given), -1).T.ravel()
        pixels, labels, classes = pixels[torch.from_numpy(rows)], labels[rows], None if classes is None else classes[rows]
    return (pixels, to_targets(labels)) if classes is None else (pixels, to_targets(labels), torch.from_numpy(classes))


def collate_dense(samples: Sequence[Sample | Mapping[str, Any]], order: str = "image") -> tuple[Any, ...]:
    """Return one batch as `collate_crops` does, but with the targets of all classes: float32 (B * N, C).

    That is what `nn.CrossEntropyLoss`, torchvision's MixUp and CutMix, and timm's `SoftTargetCrossEntropy` and
    `Mixup(multi_label=True, label_smoothing=0)` take (mixing needs `order="crop"`). With thousands of classes it takes more memory than
    sparse targets, and more time on the way from workers to the device.

    Parameters
    ----------
    samples, order
        As of `collate_crops`.
    """
    images, labels, *classes = collate_crops(samples, order)
    return images, labels.dense(), *classes


def _classes_of_crops(samples: Sequence[Sample]) -> NDArray[np.int64] | None:
    targets = [sample.target for sample in samples if sample.target is not None]
    if not targets:
        return None
    if len(targets) < len(samples):
        raise ArgumentError(f"samples: expected a target in all or in none, got {len(targets)} of {len(samples)}")
    return np.repeat(np.array(targets, np.int64), [len(sample.images) for sample in samples])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other, without copying them if they lie so in memory already."""
    first, each = parts[0], parts[0].numel()
    beginning, at = first.untyped_storage().data_ptr(), first.storage_offset()
    for place, part in enumerate(parts):
        same = part.shape == first.shape and part.stride() == first.stride() and part.dtype == first.dtype
        if not same or part.untyped_storage().data_ptr() != beginning or part.storage_offset() != at + place * each:
            return torch.cat(list(parts))
    return first.as_strided((len(parts) * len(first), *first.shape[1:]), first.stride(), at)
