"""Groups crops into batches and cuts them in worker processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.checks.arguments import check_image_size
from softlabel_codec.errors import LimitError, MismatchError, SoftLabelError
from softlabel_codec.image_source import ImageData, ImageSource, where_is
from softlabel_codec.images.cutting import Cutter, cut_alike
from softlabel_codec.images.files import is_about_the_image
from softlabel_codec.labels import ImageLabels
from softlabel_codec.teacher.stored import StoredCrops, UnlikeStoredError
from softlabel_codec.torch.pixels import to_tensor
from softlabel_codec.torch.workers import BATCHES_AHEAD, as_it_is, end_with_main, need_pipes
from softlabel_codec.views import Sampler


@dataclass(frozen=True)
class Run:
    """Consecutive crops of one image: `image` is its place in the list of keys."""

    image: int
    start: int
    stop: int


@dataclass(frozen=True)
class CutRun:
    """A run whose crops have been cut, or why they could not be.

    Attributes
    ----------
    run : Run
        Which crops.
    size : (int, int)
        Height and width of the image in pixels.
    crops : int64 (n, 4)
        top, left, height, width.
    flips : bool (n,)
        Whether each crop is mirrored.
    error : str
        Why the image could not be read; empty if it could.
    transient : bool
        Whether another try may succeed, because the error is not about the image.
    crc32 : int or None
        CRC-32 of the image's file; None if images are not files.
    stored : float32 (n, C), or None
        Stored probabilities of these crops, if new ones are averaged with them.
    fatal : SoftLabelError, OSError or None
        Why the run cannot go on: stored crops cannot be read, or are those of another image.
    """

    run: Run
    size: tuple[int, int]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    error: str = ""
    transient: bool = False
    crc32: int | None = None
    stored: NDArray[np.float32] | None = None
    fatal: SoftLabelError | OSError | None = None


@dataclass(frozen=True)
class Plan(Sequence[list[Run]]):
    """Which crops go through the teacher together: a sequence of batches, computed when asked for.

    A batch holds several complete images, or a part of one. The plan depends on nothing else: a continued run computes every label in
    the same batch as an uninterrupted run, because the last bits of a network's output may depend on the batch.

    Attributes
    ----------
    num_images, crops_per_image, batch_size : int
        Images, crops of each, or of that with most, and crops of a batch at most.
    counts : int64 (num_images,), or None
        Crops of each image, if they differ.
    """

    num_images: int
    crops_per_image: int
    batch_size: int
    counts: NDArray[np.int64] | None = None

    def crops_of(self, image: int) -> int:
        """Return how many crops an image has."""
        return self.crops_per_image if self.counts is None else int(self.counts[image])

    @property
    def images_per_batch(self) -> int:
        """Images of a batch, if it holds whole ones."""
        return max(1, self.batch_size // self.crops_per_image)

    @property
    def _parts(self) -> int:
        """Batches of an image, if it does not fit into one."""
        return -(-self.crops_per_image // self.batch_size)

    def __len__(self) -> int:
        return -(-self.num_images // self.images_per_batch) * self._parts

    @overload
    def __getitem__(self, place: int) -> list[Run]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[Run]]: ...
    def __getitem__(self, place: int | slice) -> list[Run] | list[list[Run]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        group, part = divmod(range(len(self))[place], self._parts)
        first = group * self.images_per_batch
        start = part * self.batch_size
        images = range(first, min(first + self.images_per_batch, self.num_images))
        runs = [Run(image, start, min(start + self.batch_size, self.crops_of(image))) for image in images]
        return [run for run in runs if run.start < run.stop]

    def due(self, done: Sequence[bool]) -> Iterator[int]:
        """Yield the places of the batches that hold an image which is not `done`."""
        for first in range(0, self.num_images, self.images_per_batch):
            if not all(done[first : first + self.images_per_batch]):
                place = first // self.images_per_batch * self._parts
                yield from range(place, place + self._parts)


@dataclass(frozen=True)
class CropBatches(Dataset[tuple[list[Tensor] | list[NDArray[np.uint8]], list[CutRun]]]):
    """Batches of a plan, cut by each of some cutters: uint8 (n, 3, size, size) of each, and what each crop is.

    The pixels are tensors, which worker processes pass through shared memory, or, if there is little shared memory, arrays, which
    they send through a pipe. With `checksums`, images must be the bytes of files. Crops that are `stored` take the place of the sampler's.
    """

    source: ImageSource
    keys: Sequence[str]
    plan: Plan
    sampler: Sampler
    cutters: Sequence[Cutter]
    checksums: bool = True
    as_array: bool = False
    stored: StoredCrops | None = None

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[list[Tensor] | list[NDArray[np.uint8]], list[CutRun]]:
        cut: list[list[Image.Image]] = [[] for _ in self.cutters]
        runs = [self._cut(run, cut) for run in self.plan[index]]
        pixels = [to_tensor(images) if images else self._no_pixels(cutter) for images, cutter in zip(cut, self.cutters, strict=True)]
        return [part.numpy() for part in pixels] if self.as_array else pixels, runs

    def _no_pixels(self, cutter: Cutter) -> Tensor:
        return torch.empty(0, 3, cutter.size, cutter.size, dtype=torch.uint8)

    def _cut(self, run: Run, pixels: list[list[Image.Image]]) -> CutRun:
        key = self.keys[run.image]
        numbers = range(run.start, run.stop)
        nothing = CutRun(run, (0, 0), np.zeros((0, 4), np.int64), np.zeros(0, np.bool_))
        try:
            image = self.source.read(key)
            labelled = None if self.stored is None else self.stored.read(key, image, numbers)
            found = cut_alike(self.cutters, image, lambda size: self._crops(key, size, numbers, labelled), where_is(self.source, key))
        except UnlikeStoredError as error:
            return replace(nothing, fatal=error.reason)
        except (OSError, LimitError, MismatchError) as error:
            transient = isinstance(error, OSError) and not is_about_the_image(error)
            return replace(nothing, error=str(error), transient=transient)
        for images, one in zip(pixels, found, strict=True):
            images.extend(one.images)
        crc32 = self._crc32(image, key) if self.checksums else None
        stored = None if self.stored is None or labelled is None else self.stored.probs(labelled)
        return CutRun(run, found[0].size, found[0].crops, found[0].flips, crc32=crc32, stored=stored)

    def _crops(
        self, key: str, size: tuple[int, int], numbers: range, labelled: ImageLabels | None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops and flips of an image of that size without padding: those that are stored, or else the sampler's."""
        if self.stored is not None and labelled is not None:
            return self.stored.crops(key, labelled, size)
        return self.sampler.sample(key, self._padded(size), numbers)

    def _crc32(self, image: ImageData, key: str) -> int:
        if not isinstance(image, bytes):
            expected = f"expected the bytes of an image file, as the first image is, got {type(image).__name__}"
            raise MismatchError(f"image {key!r}: {expected}. A source returns bytes for all images or for none")
        return zlib.crc32(image)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of an image with its padding; MismatchError if it has more or fewer crops than are due."""
        padding, due = self.cutters[0].padding, self.plan.crops_per_image
        padded = padding.around(check_image_size(size, padding.pixels))
        crops = self.sampler.num_crops(*padded)
        if crops is not None and crops != due:
            raise MismatchError(f"expected an image with {due} views, as the first one has, got {crops} of {size[0]} x {size[1]} pixels")
        return padded


def load_batches(
    batches: CropBatches, places: Iterable[int], workers: int, pin_memory: bool
) -> Iterator[tuple[list[Tensor], list[CutRun]]]:
    """Yield the batches of these places in the plan, in order, cut ahead by worker processes."""
    batch_bytes = sum(3 * cutter.size**2 * batches.plan.batch_size for cutter in batches.cutters)
    if need_pipes(batch_bytes, workers):
        batches = replace(batches, as_array=True)
    loader: Iterable[tuple[list[Any], list[CutRun]]] = DataLoader(
        batches,
        batch_size=None,
        sampler=places,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD if workers else None,
        pin_memory=pin_memory,
        collate_fn=as_it_is,
        worker_init_fn=end_with_main,
    )
    for pixels, runs in loader:
        yield [torch.as_tensor(part) for part in pixels], runs
