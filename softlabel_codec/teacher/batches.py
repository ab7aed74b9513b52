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
from softlabel_codec.errors import LimitError, MismatchError
from softlabel_codec.image_source import ImageData, ImageSource, where_is
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import is_about_the_image
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
    """

    run: Run
    size: tuple[int, int]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    error: str = ""
    transient: bool = False
    crc32: int | None = None


@dataclass(frozen=True)
class Plan(Sequence[list[Run]]):
    """Which crops go through the teacher together: a sequence of batches, computed when asked for.

    A batch holds several complete images, or a part of one. The plan depends on nothing else: a continued run computes every label in
    the same batch as an uninterrupted run, because the last bits of a network's output may depend on the batch.
    """

    num_images: int
    crops_per_image: int
    batch_size: int

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
        stop = min(start + self.batch_size, self.crops_per_image)
        return [Run(image, start, stop) for image in range(first, min(first + self.images_per_batch, self.num_images))]

    def due(self, done: Sequence[bool]) -> Iterator[int]:
        """Yield the places of the batches that hold an image which is not `done`."""
        for first in range(0, self.num_images, self.images_per_batch):
            if not all(done[first : first + self.images_per_batch]):
                place = first // self.images_per_batch * self._parts
                yield from range(place, place + self._parts)


@dataclass(frozen=True)
class CropBatches(Dataset[tuple[Tensor | NDArray[np.uint8], list[CutRun]]]):
    """Batches of a plan, cut: uint8 (n, 3, size, size), and what each crop is.

    The pixels are a tensor, which worker processes pass through shared memory, or, if there is little shared memory, an array, which
    they send through a pipe. With `checksums`, images must be the bytes of files.
    """

    source: ImageSource
    keys: Sequence[str]
    plan: Plan
    sampler: Sampler
    cutter: Cutter
    checksums: bool = True
    as_array: bool = False

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[Tensor | NDArray[np.uint8], list[CutRun]]:
        cut: list[Image.Image] = []
        runs = [self._cut(run, cut) for run in self.plan[index]]
        pixels = to_tensor(cut) if cut else torch.empty(0, 3, self.cutter.size, self.cutter.size, dtype=torch.uint8)
        return pixels.numpy() if self.as_array else pixels, runs

    def _cut(self, run: Run, pixels: list[Image.Image]) -> CutRun:
        key = self.keys[run.image]
        numbers = range(run.start, run.stop)
        try:
            image = self.source.read(key)
            where = where_is(self.source, key)
            cut = self.cutter.cut(image, lambda size: self.sampler.sample(key, self._padded(size), numbers), where)
        except (OSError, LimitError, MismatchError) as error:
            transient = isinstance(error, OSError) and not is_about_the_image(error)
            return CutRun(run, (0, 0), np.zeros((0, 4), np.int64), np.zeros(0, np.bool_), str(error), transient)
        pixels += cut.images
        return CutRun(run, cut.size, cut.crops, cut.flips, crc32=self._crc32(image, key) if self.checksums else None)

    def _crc32(self, image: ImageData, key: str) -> int:
        if not isinstance(image, bytes):
            expected = f"expected the bytes of an image file, as the first image is, got {type(image).__name__}"
            raise MismatchError(f"image {key!r}: {expected}. A source returns bytes for all images or for none")
        return zlib.crc32(image)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of an image with its padding; MismatchError if it has more or fewer crops than are due."""
        padding, due = self.cutter.padding, self.plan.crops_per_image
        padded = padding.around(check_image_size(size, padding.pixels))
        crops = self.sampler.num_crops(*padded)
        if crops is not None and crops != due:
            raise MismatchError(f"expected an image with {due} views, as the first one has, got {crops} of {size[0]} x {size[1]} pixels")
        return padded


def load_batches(batches: CropBatches, places: Iterable[int], workers: int, pin_memory: bool) -> Iterator[tuple[Tensor, list[CutRun]]]:
    """Yield the batches of these places in the plan, in order, cut ahead by worker processes."""
    batch_bytes = 3 * batches.cutter.size**2 * batches.plan.batch_size
    if need_pipes(batch_bytes, workers):
        batches = replace(batches, as_array=True)
    loader: Iterable[tuple[Any, list[CutRun]]] = DataLoader(
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
        yield torch.as_tensor(pixels), runs
