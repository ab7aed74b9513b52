"""`FreshCrops`: new random crops of images in every epoch, with labels that are not stored per crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from softlabel_codec.image_source import ImageData, ImageSource, where_is
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import load_image, read_size
from softlabel_codec.labels import ImageLabels, Labels, SparseLabels
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import ImageTurn
from softlabel_codec.torch.collate import Sample
from softlabel_codec.torch.pixels import Triple, to_tensor

LabelOf = Callable[[int, NDArray[np.int64], tuple[int, int]], Labels]
"""Number of an image, crops int64 (n, 4) in pixels, and height and width of the image to the labels of these crops."""


@dataclass
class FreshCrops(Dataset[Sample]):
    """A dataset of images with N new random crops in every turn. It has what the trainer uses of `SoftLabelDataset`.

    Attributes
    ----------
    keys : sequence of str
        Keys of the images.
    source : ImageSource
        Where they are.
    label_of : callable
        Labels of crops.
    sampler : CropSampler
        Chooses the crops.
    crops_per_image : int
        N.
    size : int
        Side of a crop as the network sees it, in pixels.
    mean, std : three floats
        Normalisation of RGB in 0..1 for the student. Crops of this dataset are not normalised yet: they are uint8.
    interpolation : str
        How crops are scaled.
    exif_orientation : str
        Whether images are first turned as their EXIF tag says: `applied` or `ignored`.
    """

    keys: Sequence[str]
    source: ImageSource
    label_of: LabelOf
    sampler: CropSampler
    crops_per_image: int
    size: int
    mean: Triple
    std: Triple
    interpolation: str
    exif_orientation: str
    padding: ClassVar[Padding] = NO_PADDING
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __getitems__(self, turns: Sequence[ImageTurn]) -> list[Sample]:
        """Return the crops of several images in their turns, with labels."""
        cutter = Cutter(self.size, self.interpolation, self.exif_orientation)
        samples = []
        for turn in turns:
            cut = cutter.cut(self._read(turn), partial(self._choose, turn), self._where(turn))
            samples.append(Sample(to_tensor(cut.images), self.label_of(turn, cut.crops, cut.size), int(turn), self.keys[turn]))
        return samples

    def labels_of(self, turns: Sequence[ImageTurn]) -> list[ImageLabels]:
        """Return crops, flips and labels of several images in their turns, without decoding the images."""
        found = []
        for turn in turns:
            if turn not in self._sizes:
                self._sizes[int(turn)] = read_size(self._read(turn), self._where(turn), self.exif_orientation)
            size = self._sizes[turn]
            crops, flips = self._choose(turn, size)
            found.append(ImageLabels(crops, flips, size, self.label_of(turn, crops, size)))
        return found

    def _choose(self, turn: ImageTurn, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        first = turn.turn * self.crops_per_image
        return self.sampler.sample(self.keys[turn], size, range(first, first + self.crops_per_image))

    def whole_image(self, number: int) -> Image.Image:
        """Return an image as its crops are cut from it: decoded to RGB, and turned if `exif_orientation` says so."""
        return load_image(self._read(number), self.exif_orientation, self._where(number))

    @property
    def source_keys(self) -> Sequence[str]:
        """Keys of the images in `source`: `keys`."""
        return self.keys

    def _read(self, number: int) -> ImageData:
        return self.source.read(self.keys[number])

    def _where(self, number: int) -> str:
        return where_is(self.source, self.keys[number])


def class_labels(classes: NDArray[np.int64], num_classes: int, number: int, crops: NDArray[np.int64], size: tuple[int, int]) -> Labels:
    """Return labels that give the class of the image, `classes[number]`, probability 1 for each of its crops."""
    rows = len(crops)
    indices = np.full((rows, 1), classes[number], np.int32)
    return SparseLabels(indices, np.ones((rows, 1), np.float32), np.zeros(rows, np.float32), num_classes)


def unknown_labels(num_classes: int, number: int, crops: NDArray[np.int64], size: tuple[int, int]) -> Labels:
    """Return labels that give all classes the same probability: placeholders, until the teacher labels the crops in the training step."""
    rows = len(crops)
    return SparseLabels(np.zeros((rows, 0), np.int32), np.zeros((rows, 0), np.float32), np.ones(rows, np.float32), num_classes)
