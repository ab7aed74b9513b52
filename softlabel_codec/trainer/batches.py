"""The data path of training: draws to batches of crops with labels, through worker processes or in the device's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import MismatchError, SoftLabelError
from softlabel_codec.images.files import apply_crop, image_size, load_image
from softlabel_codec.labels import Labels, concatenate_labels
from softlabel_codec.torch.device import cut_crops
from softlabel_codec.torch.pixels import to_tensor
from softlabel_codec.torch.targets import Targets, to_targets
from softlabel_codec.torch.workers import BATCHES_AHEAD, as_it_is, end_with_main, need_pipes
from softlabel_codec.trainer.draws import Draw, Step
from softlabel_codec.trainer.memory import ImageMemory
from softlabel_codec.trainer.sources import Source

Finder = Callable[[int, str], Any]


class Batch(NamedTuple):
    """Crops of a step.

    Attributes
    ----------
    pixels : uint8 (B, 3, size, size)
        The crops; an array where it comes through a pipe.
    labels : SparseTargets or DenseTargets, or None
        Their labels, if they are known before training.
    classes : int64 (B,), or None
        Class of each crop's image, if it is known.
    """

    pixels: Any
    labels: Targets | None
    classes: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        classes = None if self.classes is None else self.classes.to(device, non_blocking=True)
        return Batch(torch.as_tensor(self.pixels).to(device, non_blocking=True), labels, classes)

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory; DataLoader calls this if asked to pin."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return Batch(torch.as_tensor(self.pixels).pin_memory(), labels, None if self.classes is None else self.classes.pin_memory())


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on: where they are, and which class each is of.

    Attributes
    ----------
    folder : str
        Where the images are.
    source : Source
        Where crops and labels come from; also says the keys.
    find : callable
        Number and key of an image to what `load_image` takes.
    classes : int64 (n,) or None
        Class of each image, if known.
    size : int
        Side of a crop in pixels.
    interpolation, exif_orientation : str
        How crops are scaled, and images turned.
    """

    folder: str
    source: Source
    find: Finder
    classes: NDArray[np.int64] | None
    size: int
    interpolation: str
    exif_orientation: str

    def load(self, number: int) -> Image.Image:
        """Return an image, decoded."""
        return load_image(self.find(number, self.source.keys[number]), self.exif_orientation)

    def batch(self, pixels: Tensor, draws: Sequence[Draw], labels: Sequence[Labels | None]) -> Batch:
        """Return a batch of crops whose pixels and labels are known."""
        known = [label for label in labels if label is not None]
        targets = to_targets(concatenate_labels(known)) if known else None
        images, _, counts = np.array(draws, np.int64).T
        classes = None if self.classes is None else torch.from_numpy(np.repeat(self.classes[images], counts))
        return Batch(pixels, targets, classes)


class Loader(Protocol):
    """Gives the batches of an epoch."""

    def batches(self, steps: Sequence[Step]) -> Iterator[Batch]:
        """Yield the batches of these steps, on the device or on their way there."""


class StepImages(Dataset[Batch | Exception]):
    """Whole steps: decodes the images of a step and cuts its crops, in a worker process.

    What is wrong with an image comes back instead of the batch: torch would send it as a traceback.
    """

    def __init__(self, images: TrainingImages, as_array: bool) -> None:
        self._images, self._as_array = images, as_array

    def __getitem__(self, step: Step) -> Batch | Exception:
        try:
            batch = self._cut(step)
        except (SoftLabelError, OSError) as error:
            return error
        return batch._replace(pixels=batch.pixels.numpy()) if self._as_array else batch

    def _cut(self, step: Step) -> Batch:
        cut: list[Image.Image] = []
        labels = []
        images, source = self._images, self._images.source
        for draw, prepared in zip(step, source.prepare(step), strict=True):
            image = images.load(draw.image)
            crops = source.crops(draw, prepared, image_size(image))
            labels.append(crops.labels)
            for crop, flip in zip(crops.crops.tolist(), crops.flips.tolist(), strict=True):
                cut.append(apply_crop(image, crop, flip, images.size, images.interpolation))
        return images.batch(to_tensor(cut), step, labels)


class _Steps:
    """The sampler of a DataLoader whose workers stay: the steps that were set last."""

    def __init__(self) -> None:
        self.steps: Sequence[Step] = []

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class HostLoader:
    """Batches cut by worker processes, or by this one.

    Parameters
    ----------
    images : TrainingImages
        The images.
    device : torch.device
        Where batches go.
    workers : int
        Processes; 0: this one.
    crops_per_step : int
        Crops of the largest batch.
    """

    def __init__(self, images: TrainingImages, device: torch.device, workers: int, crops_per_step: int) -> None:
        self._steps, self._device = _Steps(), device
        self._loader: DataLoader[Batch | Exception] = DataLoader(
            StepImages(images, need_pipes(3 * images.size**2 * crops_per_step, workers)),
            batch_size=None,
            sampler=self._steps,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch takes a number from torch's own, which dropout then lacks
            collate_fn=as_it_is,
            worker_init_fn=end_with_main,
        )

    def batches(self, steps: Sequence[Step]) -> Iterator[Batch]:
        self._steps.steps = steps
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch.to(self._device)


class DeviceLoader:
    """Batches cut on the device, from images that lie in its memory; labels are read one step ahead in a thread.

    Parameters
    ----------
    images : TrainingImages
        The images.
    device : torch.device
        Where to keep and cut them.
    memory : ImageMemory
        Where they may lie already.

    Raises
    ------
    MismatchError
        If the images are not all of one size.
    """

    def __init__(self, images: TrainingImages, device: torch.device, memory: ImageMemory) -> None:
        self._images, self._device = images, device
        what = ("train", images.folder, images.exif_orientation, keys_sha256(key.encode() for key in images.source.keys), device)
        self._pixels: Tensor = memory.keep(what, self._decode)
        self._size = self._pixels.shape[2], self._pixels.shape[3]

    def _decode(self) -> Tensor:
        with ThreadPoolExecutor() as threads:
            decoded = list(threads.map(lambda number: np.asarray(self._images.load(number)), range(len(self._images.source.keys))))
        sizes = {pixels.shape for pixels in decoded}
        if len(sizes) > 1:
            raise MismatchError(f"in_memory: expected images of one size, got {len(sizes)} sizes; leave it out")
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(self._device)

    def batches(self, steps: Sequence[Step]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            for step in [*steps, None]:
                prepared = ahead.submit(self._prepare, step) if step else None
                if waiting is not None:
                    yield self._cut(*waiting.result())
                waiting = prepared

    def _prepare(self, step: Step) -> tuple[Batch, Tensor, Tensor, Tensor]:
        source = self._images.source
        found = [source.crops(draw, prepared, self._size) for draw, prepared in zip(step, source.prepare(step), strict=True)]
        crops, flips = (
            torch.from_numpy(np.concatenate(parts)) for parts in ([part.crops for part in found], [part.flips for part in found])
        )
        which = torch.tensor([draw.image for draw in step]).repeat_interleave(torch.tensor([draw.num_crops for draw in step]))
        batch = self._images.batch(torch.empty(0, dtype=torch.uint8), step, [part.labels for part in found])
        if self._device.type == "cuda":  # only from page-locked memory do copies not wait for what the device is at
            return batch.pin_memory(), which.pin_memory(), crops.pin_memory(), flips.pin_memory()
        return batch, which, crops, flips

    def _cut(self, batch: Batch, which: Tensor, crops: Tensor, flips: Tensor) -> Batch:
        pixels = cut_crops(self._pixels, which, crops, flips, self._images.size, self._images.interpolation)
        return batch.to(self._device)._replace(pixels=pixels)
