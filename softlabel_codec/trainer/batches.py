"""`Loader`: the batches of an epoch, from a dataset, a `SoftLabelSampler` and a DataLoader, as in any training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import MismatchError, SoftLabelError
from softlabel_codec.images.files import crops_in_pixels
from softlabel_codec.labels import concatenate_labels
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.padding import Padding
from softlabel_codec.teacher.online import Shape
from softlabel_codec.torch import ImageTurn, collate_crops, to_targets
from softlabel_codec.torch.device import ImageMemory, cut_crops
from softlabel_codec.torch.targets import AnyTargets
from softlabel_codec.torch.workers import BATCHES_AHEAD, as_it_is, end_with_main, need_pipes
from softlabel_codec.trainer.draws import images_per_step, make_sampler
from softlabel_codec.trainer.fresh import FreshCrops
from softlabel_codec.trainer.processes import Processes
from softlabel_codec.trainer.setup import Setup

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Crops of a step; those of an image are side by side.

    Attributes
    ----------
    pixels : uint8 (B, 3, size, size)
        The crops. Before they are on the device, they may be an array (which workers send through a pipe), or three tensors that say
        where to cut: the arguments `which`, `crops` and `flips` of `cut_crops`.
    labels : SparseTargets, DenseTargets or FeatureTargets
        Their labels; placeholders if a teacher labels in every step.
    classes : int64 (B,), or None
        Class of each crop's image, if known.
    others : mapping of (int, str) to uint8 (B, 3, side, side)
        The same crops as teachers want them, by side and interpolation, where that is not as the student does. Before they are on the
        device, they may be arrays, or none at all, where the crops are cut on the device.
    """

    pixels: Any
    labels: AnyTargets
    classes: Tensor | None
    others: Mapping[Shape, Any]


class StepBatches(Dataset[Batch | Exception]):
    """Makes the batch of a step, in a worker process or in this one.

    An error that concerns an image is returned, not raised: a worker process would pass it on as a traceback.

    Parameters
    ----------
    setup : Setup
        Images, labels and classes.
    image_size : (int, int), optional
        Height and width, without padding, of the images in the device's memory, if the crops are to be cut there.
    as_array : bool
        Whether pixels are returned as an array.
    """

    def __init__(self, setup: Setup, image_size: tuple[int, int] | None, as_array: bool) -> None:
        self._setup, self._image_size, self._as_array = setup, image_size, as_array

    def __getitems__(self, turns: Sequence[ImageTurn]) -> Batch | Exception:
        """Return a batch, or an error; DataLoader calls this with the images of a step."""
        try:
            pixels, labels, others = self._cut(turns) if self._image_size is None else self._place(turns, self._image_size)
        except (SoftLabelError, OSError) as error:
            return error
        classes = self._setup.classes
        repeated = None if classes is None else np.repeat(classes[np.array(turns)], self._setup.crops.crops_per_image)
        return Batch(pixels, labels, None if repeated is None else torch.from_numpy(repeated), others)

    def _cut(self, turns: Sequence[ImageTurn]) -> tuple[Any, AnyTargets, dict[Shape, Any]]:
        crops = self._setup.crops
        samples, others = crops.with_others(turns) if isinstance(crops, FreshCrops) else (crops.__getitems__(turns), {})
        pixels, labels = collate_crops(samples)
        if self._as_array:
            return pixels.numpy(), labels, {shape: copies.numpy() for shape, copies in others.items()}
        return pixels, labels, others

    def _place(self, turns: Sequence[ImageTurn], image_size: tuple[int, int]) -> tuple[Any, AnyTargets, dict[Shape, Any]]:
        crops, where = self._setup.crops, self._setup.label_facts["labels"]
        found = crops.labels_of(turns)
        boxes = [crops_in_pixels(image, image_size, crops.keys[turn], where) for image, turn in zip(found, turns, strict=True)]
        which = torch.tensor([int(turn) for turn in turns]).repeat_interleave(crops.crops_per_image)
        flips = torch.from_numpy(np.concatenate([image.flips for image in found]))
        labels = concatenate_labels([image.labels for image in found])
        return (which, torch.from_numpy(np.concatenate(boxes)), flips), to_targets(labels), {}


class Loader:
    """Gives a process the batches of each epoch, on its device.

    Crops are cut by worker processes; with `in_memory` on the device, from images in its memory, while labels are read by a thread.

    Parameters
    ----------
    config : TrainConfig
        The options of the run.
    setup : Setup
        Images, labels and classes.
    here : Processes
        This process, and its device.
    memory : ImageMemory
        Images that are in the device's memory already, and where others are kept.

    Raises
    ------
    MismatchError
        With `in_memory`, if the images are not all of one size.
    """

    def __init__(self, config: TrainConfig, setup: Setup, here: Processes, memory: ImageMemory) -> None:
        self._setup, self._here = setup, here
        self._images = _images_in_memory(config, setup, here.device, memory) if config.in_memory else None
        image_size = None if self._images is None else _size_without_padding(self._images, setup.crops.padding)
        workers = 0 if config.in_memory else config.workers
        crop_bytes = 3 * sum(size**2 for size in (config.size, *(size for size, _ in setup.other_shapes)))
        as_array = need_pipes(crop_bytes * config.batch_size // here.world_size, workers)
        self._sampler = make_sampler(config, len(setup.crops.keys), here.rank, here.world_size)
        self._loader = DataLoader(
            StepBatches(replace(setup, teachers=()), image_size, as_array),  # workers need no teacher
            images_per_step(config, here.world_size),
            sampler=self._sampler,
            drop_last=True,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            persistent_workers=workers > 0,
            pin_memory=here.device.type == "cuda",  # copies from other memory wait for the device
            generator=torch.Generator(),  # otherwise each epoch takes a number from torch's generator, and dropout gets others
            collate_fn=as_it_is,
            worker_init_fn=end_with_main,
        )

    def __len__(self) -> int:
        """Return the number of steps of an epoch. Images that do not fill a step are left out."""
        return len(self._loader)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        self._sampler.set_epoch(epoch)
        batches = iter(self._loader)
        for batch in batches if self._images is None else _one_ahead(batches):
            if isinstance(batch, Exception):
                raise batch
            yield self._on_device(batch)

    def _on_device(self, batch: Batch) -> Batch:
        device, crops = self._here.device, self._setup.crops
        if self._images is None:
            pixels = torch.as_tensor(batch.pixels).to(device, non_blocking=True)
            others = {shape: torch.as_tensor(copies).to(device, non_blocking=True) for shape, copies in batch.others.items()}
        else:
            which, boxes, flips = batch.pixels
            pixels = cut_crops(self._images, which, boxes, flips, crops.size, crops.interpolation)
            others = {shape: cut_crops(self._images, which, boxes, flips, *shape) for shape in self._setup.other_shapes}
        classes = None if batch.classes is None else batch.classes.to(device, non_blocking=True)
        return Batch(pixels, batch.labels.to(device, non_blocking=True), classes, others)


def _images_in_memory(config: TrainConfig, setup: Setup, device: torch.device, memory: ImageMemory) -> Tensor:
    """Return all images with their padding, uint8 (n, 3, H, W), on the device."""
    crops = setup.crops

    def decode() -> Tensor:
        with ThreadPoolExecutor() as threads:
            decoded = list(threads.map(lambda number: np.asarray(crops.whole_image(number)), range(len(crops.keys))))
        sizes = {pixels.shape for pixels in decoded}
        if len(sizes) > 1:
            raise MismatchError(f"in_memory: expected images of one size, got {len(sizes)} sizes; leave it out")
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(device)

    keys = keys_sha256(key.encode() for key in crops.keys)
    images: Tensor = memory.keep(("train", config.images, crops.exif_orientation, crops.padding, keys, device), decode)
    return images


def _size_without_padding(images: Tensor, padding: Padding) -> tuple[int, int]:
    height, width = images.shape[2:]
    return height - 2 * padding.pixels, width - 2 * padding.pixels


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield items, each taken from the iterator in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
