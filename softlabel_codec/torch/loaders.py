"""Inspects loaders of any kind: their dataset, their samplers, and the pixels and targets that they deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.torch.collate import collate_crops, collate_dense
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.dense_targets import DenseTargets
from softlabel_codec.torch.feature_targets import FeatureTargets
from softlabel_codec.torch.pixels import Triple
from softlabel_codec.torch.sampler import SoftLabelSampler
from softlabel_codec.torch.sparse_targets import SparseTargets
from softlabel_codec.torch.targets import Targets

Normalization = tuple[Triple, Triple]
"""Mean and std of RGB in 0..1."""
_DEEPEST = 10
_DRAWN_FROM = ("sampler", "batch_sampler", "loader", "base_dataloader")


def dataset_of(loader: Any) -> SoftLabelDataset | None:
    """Return the dataset of a loader, even if the loader is wrapped."""
    inner, seen = loader, 0
    while inner is not None and not isinstance(inner, SoftLabelDataset) and seen < _DEEPEST:
        inner, seen = getattr(inner, "dataset", None), seen + 1
    return inner if isinstance(inner, SoftLabelDataset) else None


def keys_of_rows(loader: Any, dataset: SoftLabelDataset | None) -> Callable[[int, int], str] | None:
    """Return a function (batch, row) that gives a crop's key; None unless the loader reads the dataset in order."""
    if not isinstance(loader, DataLoader) or dataset is None or loader.dataset is not dataset or loader.batch_size is None:
        return None
    if not isinstance(loader.sampler, SequentialSampler) or loader.collate_fn not in (collate_crops, collate_dense) or dataset.num_damaged:
        return None
    keys, at_a_time, batch_size = dataset.keys, dataset.crops_per_image, loader.batch_size
    return lambda batch, row: keys[batch * batch_size + row // at_a_time]


@contextmanager
def left_as_it_was(loader: Any, dataset: SoftLabelDataset | None) -> Iterator[None]:
    """Restore samplers and dataset after the block as if nothing had been drawn."""
    with ExitStack() as left:
        for sampler in _samplers_of(loader):
            left.enter_context(sampler.unmoved())
        if dataset is not None:
            left.enter_context(dataset.uncounted())
        yield


def _samplers_of(loader: Any) -> list[SoftLabelSampler]:
    """Return the `SoftLabelSampler`s of a loader, even if it is wrapped."""
    found: list[SoftLabelSampler] = []
    waiting, seen = [loader], {id(loader)}
    while waiting:
        part = waiting.pop()
        if isinstance(part, SoftLabelSampler):
            found.append(part)
            continue
        for inner in (getattr(part, name, None) for name in _DRAWN_FROM):
            if inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)
    return found


def pixels_and_targets(batch: Any, dataset: SoftLabelDataset | None, given: Normalization | None) -> tuple[Tensor, Targets]:
    """Return pixels in 0..1, float (B, 3, H, W), and targets."""
    try:
        pixels, targets, *_ = batch
        if isinstance(targets, FeatureTargets):
            raise StateError("loader: expected labels of classes, got features, which say of no class how probable it is")
        targets = DenseTargets(targets) if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 2 else targets
        sound = pixels.ndim == 4 and isinstance(targets, SparseTargets | DenseTargets) and len(pixels) == len(targets)
    except (TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        what = "batches of images (B, 3, H, W) and B targets, as collate_crops makes them"
        raise ArgumentError(f"loader: expected {what}, got {type(batch).__name__}")
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255, targets
    normalisation = given if dataset is None or given is not None else dataset.normalization
    if normalisation is None:
        raise ArgumentError("loader: its images are floats: pass their normalisation as mean= and std=")
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in normalisation)
    return pixels.float() * std + mean, targets
