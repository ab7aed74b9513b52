"""`FreshCrops`: other crops of images in every epoch, with labels that are not stored per crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from softlabel_codec.crops.choice import choose_crops
from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageData, ImageSource, where_is
from softlabel_codec.images.cutting import Cutter, cut_alike
from softlabel_codec.images.files import read_size
from softlabel_codec.labels import ImageLabels, Labels, SparseLabels
from softlabel_codec.padding import Padding
from softlabel_codec.teacher.online import Shape
from softlabel_codec.torch import ImageTurn
from softlabel_codec.torch.collate import Sample
from softlabel_codec.torch.cutting import batch_for, cutter_of
from softlabel_codec.torch.pixels import Triple, to_tensor
from softlabel_codec.views import Sampler

LabelOf = Callable[[int, NDArray[np.int64], tuple[int, int]], Labels]
"""Number of an image, crops int64 (n, 4) in pixels, and height and width of the image to the labels of these crops.

The size is without padding, the crops count from the corner of the padded image."""


@dataclass
class FreshCrops(Dataset[Sample]):
    """A dataset of images with N other crops in every turn. It has what the trainer uses of `SoftLabelDataset`.

    Random crops are new ones in every turn. Of all views, a turn takes those that a `SoftLabelDataset` takes of a file of all views of
    the same images in the same order.

    Attributes
    ----------
    keys : sequence of str
        Keys of the images.
    source : ImageSource
        Where they are.
    label_of : callable
        Labels of crops.
    sampler : CropSampler or AllViews
        Gives the crops.
    seed : int
        Decides the order in which views are drawn.
    padding : Padding
        How images are enlarged before crops are cut out of them.
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
    others : sequence of (int, str)
        Side and interpolation of further copies of each crop, for teachers that want them so.
    backend : str
        What cuts and scales crops: `pillow` or `torch`.

    Raises
    ------
    ArgumentError
        If the backend does not know the interpolation.
    """

    keys: Sequence[str]
    source: ImageSource
    label_of: LabelOf
    sampler: Sampler
    seed: int
    padding: Padding
    crops_per_image: int
    size: int
    mean: Triple
    std: Triple
    interpolation: str
    exif_orientation: str
    others: Sequence[Shape] = ()
    backend: str = "pillow"
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._exact = Cutter(self.size, self.interpolation, self.exif_orientation, padding=self.padding)
        self._cutter = cutter_of(self._exact, self.backend)

    def __getitems__(self, turns: Sequence[ImageTurn]) -> list[Sample]:
        """Return the crops of several images in their turns, with labels; ArgumentError if an image has too few views."""
        return self.with_others(turns)[0]

    def with_others(self, turns: Sequence[ImageTurn]) -> tuple[list[Sample], dict[Shape, Tensor]]:
        """Return the same, and the same crops, uint8 (B, 3, side, side), as each of `others` makes them."""
        if not self.others:
            parts = batch_for(len(turns), self.crops_per_image, self.size, torch.uint8)
            return [self._sample(turn, pixels) for turn, pixels in zip(turns, parts, strict=True)], {}
        samples: list[Sample] = []
        others: dict[Shape, list[Tensor]] = {shape: [] for shape in self.others}
        cutters = [self._exact, *(replace(self._exact, size=size, interpolation=how) for size, how in self.others)]
        for turn in turns:
            cut, *copies = cut_alike(cutters, self._read(turn), partial(self._choose, turn), self._where(turn))
            samples.append(Sample(to_tensor(cut.images), self.label_of(turn, cut.crops, cut.size), int(turn), self.keys[turn]))
            for made, copy in zip(others.values(), copies, strict=True):
                made.append(to_tensor(copy.images))
        return samples, {shape: torch.cat(made) for shape, made in others.items()}

    def _sample(self, turn: ImageTurn, pixels: Tensor) -> Sample:
        """Return the crops of an image, which are put into `pixels`, uint8 (N, size, size, 3), and their labels."""
        found: list[Labels] = []

        def choose(size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
            crops, flips = self._choose(turn, size)
            found.append(self.label_of(turn, crops, size))
            return crops, flips

        self._cutter.cut_into(pixels.numpy(), self._read(turn), choose, self._where(turn))
        return Sample(pixels.permute(0, 3, 1, 2), found[0], int(turn), self.keys[turn])

    def labels_of(self, turns: Sequence[ImageTurn]) -> list[ImageLabels]:
        """Return crops, flips and labels of several images in their turns, without decoding the images; errors as above."""
        found = []
        for turn in turns:
            if turn not in self._sizes:
                self._sizes[int(turn)] = read_size(self._read(turn), self._where(turn), self.exif_orientation)
            size = self._sizes[turn]
            crops, flips = self._choose(turn, size)
            found.append(ImageLabels(crops, flips, size, self.label_of(turn, crops, size)))
        return found

    def _choose(self, turn: ImageTurn, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        padded, many = self.padding.around(size), self.crops_per_image
        views = self.sampler.num_crops(*padded)
        if views is None:
            numbers = np.arange(turn.turn * many, (turn.turn + 1) * many)
        elif views >= many:
            numbers = choose_crops(self.seed, turn.turn, [turn], [views], many)[0]
        else:
            of_image = f"{size[0]} x {size[1]} pixels (height x width) and a padding of {self.padding.pixels}"
            expected = f"at least {many} views of {self._where(turn)}, as crops_per_image={many}"
            raise ArgumentError(f"all_views: expected {expected}, got {views}: it has {of_image}. Choose smaller views")
        return self.sampler.sample(self.keys[turn], padded, numbers)

    def whole_image(self, number: int) -> Image.Image:
        """Return an image as its crops are cut out of it: decoded to RGB, turned if `exif_orientation` says so, and padded."""
        return self._exact.whole(self._read(number), self._where(number))

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
