"""Crops that nobody has seen before, and what is known of them: the class of their image, a label map, or nothing before a teacher says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import load_image, path_of_key, read_size
from softlabel_codec.images.finding import ImageSource
from softlabel_codec.labels import ImageLabels, Labels, SparseLabels
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import ImageTurn
from softlabel_codec.torch.collate import Sample
from softlabel_codec.torch.pixels import to_tensor

LabelOf = Callable[[int, NDArray[np.int64], tuple[int, int]], Labels]
"""Number of an image, crops int64 (n, 4) in pixels, and height and width of the image to the labels of these crops."""


class Crops(Protocol):
    """What crops and labels are drawn from: `SoftLabelDataset`, or a dataset of fresh crops that does as it does.

    Attributes
    ----------
    keys : sequence of str
        Keys of the images.
    crops_per_image : int
        How many crops of an image are taken at a time, N.
    """

    crops_per_image: int

    @property
    def keys(self) -> Sequence[str]: ...

    def __getitems__(self, turns: Sequence[ImageTurn]) -> list[Sample]:
        """Return the crops of several images that are due at their turns, uint8, and their labels."""

    def labels_of(self, turns: Sequence[ImageTurn]) -> list[ImageLabels]:
        """Return crops, flips and labels that are due, without any image."""

    def whole_image(self, number: int) -> Image.Image:
        """Return an image as its crops are cut out of it."""

    def source_of(self, number: int) -> ImageSource:
        """Return the path of an image."""


@dataclass
class FreshCrops(Dataset[Sample]):
    """Images and N crops of each from an endless sequence, as `SoftLabelDataset` gives N of the stored ones.

    Attributes
    ----------
    folder : str
        Where the images are.
    keys : sequence of str
        Their relative paths.
    sampler : CropSampler
        Decides the crops.
    cutter : Cutter
        How they are made.
    label_of : callable
        What is known of crops.
    crops_per_image : int
        N.
    """

    folder: str
    keys: Sequence[str]
    sampler: CropSampler
    cutter: Cutter
    label_of: LabelOf
    crops_per_image: int
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __getitems__(self, turns: Sequence[ImageTurn]) -> list[Sample]:
        """Return the crops of several images that are due at their turns."""
        return [self._sample(turn) for turn in turns]

    def _sample(self, turn: ImageTurn) -> Sample:
        cut = self.cutter.cut(self.source_of(turn), lambda size: self._crops(turn, size))
        return Sample(to_tensor(cut.images), self.label_of(turn, cut.crops, cut.size), int(turn), self.keys[turn])

    def _crops(self, turn: ImageTurn, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        first = turn.turn * self.crops_per_image
        return self.sampler.sample(self.keys[turn], size, range(first, first + self.crops_per_image))

    def labels_of(self, turns: Sequence[ImageTurn]) -> list[ImageLabels]:
        """Return crops, flips and labels that are due, without any image."""
        found = []
        for turn in turns:
            size = self._size(turn)
            crops, flips = self._crops(turn, size)
            found.append(ImageLabels(crops, flips, size, self.label_of(turn, crops, size)))
        return found

    def _size(self, number: int) -> tuple[int, int]:
        if number not in self._sizes:
            self._sizes[int(number)] = read_size(self.source_of(number), exif_orientation=self.cutter.exif_orientation)
        return self._sizes[number]

    def whole_image(self, number: int) -> Image.Image:
        """Return an image as its crops are cut out of it."""
        return load_image(self.source_of(number), self.cutter.exif_orientation)

    def source_of(self, number: int) -> Path:
        """Return the path of an image."""
        return path_of_key(Path(self.folder), self.keys[number])


@dataclass(frozen=True)
class ClassLabels:
    """Says of all crops of an image that they are of its class.

    Attributes
    ----------
    classes : int64 (n,)
        Class of each image.
    num_classes : int
        C.
    """

    classes: NDArray[np.int64]
    num_classes: int

    def __call__(self, number: int, crops: NDArray[np.int64], size: tuple[int, int]) -> Labels:
        count = len(crops)
        sure = np.ones((count, 1), np.float32), np.zeros(count, np.float32)
        return SparseLabels(np.full((count, 1), self.classes[number], np.int32), *sure, self.num_classes)


@dataclass(frozen=True)
class UnknownLabels:
    """Says of each crop that all classes are equally probable: a teacher knows better.

    Attributes
    ----------
    num_classes : int
        C.
    """

    num_classes: int

    def __call__(self, number: int, crops: NDArray[np.int64], size: tuple[int, int]) -> Labels:
        count = len(crops)
        none = np.zeros((count, 0), np.int32), np.zeros((count, 0), np.float32)
        return SparseLabels(*none, np.ones(count, np.float32), self.num_classes)
