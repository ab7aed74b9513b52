"""Images to batches of crops: which crops go together, and cutting them in worker processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softlabel_codec.arguments import check_image_size
from softlabel_codec.errors import LimitError
from softlabel_codec.images import apply_crop, image_size, load_image, path_of_key
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.pixels import to_tensor


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
    """

    run: Run
    size: tuple[int, int]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    error: str = ""


def plan_batches(num_images: int, crops_per_image: int, batch_size: int) -> list[list[Run]]:
    """Return which crops go through the teacher together.

    Either several whole images, or a part of one. The plan depends on nothing else, so that a run that is continued
    computes every label in the same company as an unbroken one: a network's last bits may depend on it.
    """
    if crops_per_image <= batch_size:
        group = batch_size // crops_per_image
        return [
            [Run(image, 0, crops_per_image) for image in range(first, min(first + group, num_images))]
            for first in range(0, num_images, group)
        ]
    starts = range(0, crops_per_image, batch_size)
    return [[Run(image, start, min(start + batch_size, crops_per_image))] for image in range(num_images) for start in starts]


@dataclass(frozen=True)
class CropBatches(Dataset[tuple[Tensor, list[CutRun]]]):
    """Batches of a plan, cut: uint8 (n, 3, size, size), and what each crop is."""

    folder: Path
    keys: Sequence[str]
    plan: Sequence[list[Run]]
    sampler: CropSampler
    size: int
    interpolation: str
    exif_orientation: str

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[Tensor, list[CutRun]]:
        cut: list[Image.Image] = []
        runs = [self._cut(run, cut) for run in self.plan[index]]
        return to_tensor(cut) if cut else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), runs

    def _cut(self, run: Run, cut: list[Image.Image]) -> CutRun:
        key = self.keys[run.image]
        try:
            image = load_image(path_of_key(self.folder, key), self.exif_orientation)
            size = check_image_size(image_size(image))
        except (OSError, LimitError) as error:
            return CutRun(run, (0, 0), np.zeros((0, 4), np.int64), np.zeros(0, np.bool_), str(error))
        crops, flips = self.sampler.sample(key, size, range(run.start, run.stop))
        for crop, flip in zip(crops.tolist(), flips.tolist(), strict=True):
            cut.append(apply_crop(image, crop, flip, self.size, self.interpolation))
        return CutRun(run, size, crops, flips)


def load_batches(batches: CropBatches, indices: Sequence[int], workers: int, pin_memory: bool) -> Iterable[tuple[Tensor, list[CutRun]]]:
    """Return the batches of these places in the plan, in order, cut ahead by worker processes."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        worker_init_fn=_stop_quietly,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _stop_quietly(worker: int) -> None:
    """Let a worker end without a traceback when the main process has gone, as it does after Ctrl-C."""
    report = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            report(kind, error, trace)

    sys.excepthook = hook
