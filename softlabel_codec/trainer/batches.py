"""The data path of training: epochs to batches of crops with labels, through worker processes or in the device's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import MismatchError, SoftLabelError
from softlabel_codec.images.files import crops_in_pixels
from softlabel_codec.labels import DenseLabels, Labels, concatenate_labels
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.torch import ImageTurn, SoftLabelSampler, collate_crops, to_targets
from softlabel_codec.torch.device import ImageMemory, cut_crops
from softlabel_codec.torch.targets import Targets
from softlabel_codec.torch.workers import BATCHES_AHEAD, as_it_is, end_with_main, need_pipes
from softlabel_codec.trainer.draws import epoch_of, epoch_steps, images_per_step, make_sampler
from softlabel_codec.trainer.fresh import Crops
from softlabel_codec.trainer.processes import Processes
from softlabel_codec.trainer.setup import Setup


class Batch(NamedTuple):
    """Crops of a step.

    Attributes
    ----------
    pixels : uint8 (B, 3, size, size)
        The crops, those of an image side by side; an array where it comes through a pipe.
    labels : SparseTargets or DenseTargets
        Their labels, as far as they are known before training.
    classes : int64 (B,), or None
        Class of each crop's image, if it is known.
    """

    pixels: Any
    labels: Targets
    classes: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device."""
        classes = None if self.classes is None else self.classes.to(device, non_blocking=True)
        return Batch(torch.as_tensor(self.pixels).to(device, non_blocking=True), self.labels.to(device, non_blocking=True), classes)

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory; DataLoader calls this if asked to pin."""
        classes = None if self.classes is None else self.classes.pin_memory()
        return Batch(torch.as_tensor(self.pixels).pin_memory(), self.labels.pin_memory(), classes)


class Loader(Protocol):
    """Gives the batches of an epoch."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the device or on their way there."""


def at_temperature(labels: Labels, temperature: float) -> Labels:
    """Return logits divided by a temperature, and other labels as they are: theirs was applied when they were made."""
    if isinstance(labels, DenseLabels) and labels.content == "logits":
        return replace(labels, vectors=labels.vectors / np.float32(temperature))
    return labels


def _classes_of(classes: NDArray[np.int64] | None, turns: Sequence[ImageTurn], crops_per_image: int) -> Tensor | None:
    return None if classes is None else torch.from_numpy(np.repeat(classes[np.array(turns)], crops_per_image))


class StepBatches(Dataset[Batch | Exception]):
    """The images of a step, as a DataLoader asks for them, to a batch: in a worker process, or in this one.

    What is wrong with an image comes back instead of the batch: torch would send it as a traceback.
    """

    def __init__(self, crops: Crops, setup: Setup, as_array: bool) -> None:
        self._crops, self._classes, self._temperature, self._as_array = crops, setup.classes, setup.temperature, as_array

    def __getitems__(self, turns: Sequence[ImageTurn]) -> Batch | Exception:
        """Return a batch."""
        try:
            samples = self._crops.__getitems__(turns)
        except (SoftLabelError, OSError) as error:
            return error
        softened = [sample._replace(labels=at_temperature(sample.labels, self._temperature)) for sample in samples]
        pixels, labels = collate_crops(softened)
        classes = _classes_of(self._classes, turns, self._crops.crops_per_image)
        return Batch(pixels.numpy() if self._as_array else pixels, labels, classes)


class HostLoader:
    """Batches cut by worker processes, or by this one, as any training loop has them: a dataset, a `SoftLabelSampler`, a DataLoader.

    Parameters
    ----------
    config : TrainConfig
        What to take.
    setup : Setup
        What to take it from.
    here : Processes
        For which process, and where batches go.
    """

    def __init__(self, config: TrainConfig, setup: Setup, here: Processes) -> None:
        self._config, self._setup, self._here = config, setup, here
        self._crops_per_image = 0
        self._sampler: SoftLabelSampler
        self._loader: DataLoader[Batch | Exception]

    def _begin(self, crops_per_image: int) -> None:
        """Take so many crops of each image from now on."""
        config, here = self._config, self._here
        self._crops_per_image = crops_per_image
        self._sampler = make_sampler(config, len(self._setup.crops.keys), crops_per_image, here.rank, here.world_size)
        as_array = need_pipes(3 * config.size**2 * config.batch_size // here.world_size, config.workers)
        self._loader = DataLoader(
            StepBatches(_some_at_a_time(self._setup.crops, crops_per_image), self._setup, as_array),
            images_per_step(config, crops_per_image, here.world_size),
            sampler=self._sampler,
            drop_last=True,
            num_workers=config.workers,
            prefetch_factor=BATCHES_AHEAD if config.workers else None,
            persistent_workers=config.workers > 0,
            pin_memory=here.device.type == "cuda",
            generator=torch.Generator(),  # else each epoch takes a number from torch's own, which dropout then lacks
            collate_fn=as_it_is,
            worker_init_fn=end_with_main,
        )

    def batches(self, epoch: int) -> Iterator[Batch]:
        crops_per_image, number = epoch_of(self._config, epoch)
        if crops_per_image != self._crops_per_image:
            self._begin(crops_per_image)
        self._sampler.set_epoch(number)
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch.to(self._here.device)


class DeviceLoader:
    """Batches cut on the device, from images that lie in its memory; labels are read one step ahead in a thread.

    Parameters
    ----------
    config, setup, here
        As for `HostLoader`.
    memory : ImageMemory
        Where the images may lie already.

    Raises
    ------
    MismatchError
        If the images are not all of one size.
    """

    def __init__(self, config: TrainConfig, setup: Setup, here: Processes, memory: ImageMemory) -> None:
        self._config, self._setup, self._here = config, setup, here
        keys = keys_sha256(key.encode() for key in setup.crops.keys)
        self._pixels: Tensor = memory.keep(("train", config.images, setup.exif_orientation, keys, here.device), self._decode)
        self._size = self._pixels.shape[2], self._pixels.shape[3]

    def _decode(self) -> Tensor:
        crops = self._setup.crops
        with ThreadPoolExecutor() as threads:
            decoded = list(threads.map(lambda number: np.asarray(crops.whole_image(number)), range(len(crops.keys))))
        sizes = {pixels.shape for pixels in decoded}
        if len(sizes) > 1:
            raise MismatchError(f"in_memory: expected images of one size, got {len(sizes)} sizes; leave it out")
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(self._here.device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        config, here = self._config, self._here
        crops = _some_at_a_time(self._setup.crops, epoch_of(config, epoch).crops_per_image)
        steps = epoch_steps(config, len(crops.keys), epoch, here.rank, here.world_size)
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            for step in [*steps, None]:
                prepared = ahead.submit(self._prepare, crops, step) if step else None
                if waiting is not None:
                    yield self._cut(*waiting.result())
                waiting = prepared

    def _prepare(self, crops: Crops, turns: Sequence[ImageTurn]) -> tuple[Batch, Tensor, Tensor, Tensor]:
        found = crops.labels_of(turns)
        due = zip(found, turns, strict=True)
        placed = [crops_in_pixels(image, self._size, crops.keys[turn], self._config.labels) for image, turn in due]
        boxes, flips = torch.from_numpy(np.concatenate(placed)), torch.from_numpy(np.concatenate([image.flips for image in found]))
        which = torch.tensor([int(turn) for turn in turns]).repeat_interleave(crops.crops_per_image)
        labels = to_targets(at_temperature(concatenate_labels([image.labels for image in found]), self._setup.temperature))
        classes = _classes_of(self._setup.classes, turns, crops.crops_per_image)
        batch = Batch(torch.empty(0, dtype=torch.uint8), labels, classes)
        if self._here.device.type == "cuda":  # only from page-locked memory do copies not wait for what the device is at
            return batch.pin_memory(), which.pin_memory(), boxes.pin_memory(), flips.pin_memory()
        return batch, which, boxes, flips

    def _cut(self, batch: Batch, which: Tensor, crops: Tensor, flips: Tensor) -> Batch:
        pixels = cut_crops(self._pixels, which, crops, flips, self._config.size, self._setup.interpolation)
        return batch.to(self._here.device)._replace(pixels=pixels)


def _some_at_a_time(crops: Crops, crops_per_image: int) -> Crops:
    """Return what gives the same crops, so many of each image at a time."""
    other = copy(crops)
    other.crops_per_image = crops_per_image
    return other
