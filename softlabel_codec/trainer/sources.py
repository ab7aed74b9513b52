"""Where crops and labels come from: a label file, fresh crops with the image's class, or fresh crops of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.crops.choice import crops_at
from softlabel_codec.errors import ArgumentError
from softlabel_codec.images.files import crops_in_pixels
from softlabel_codec.label_maps.maps import LabelMaps
from softlabel_codec.labels import DenseLabels, ImageLabels, Labels, SparseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.trainer.draws import Draw


class Crops(NamedTuple):
    """Crops of one image: top, left, height, width in pixels (n, 4), flips (n,), and their labels, if they are known before training."""

    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    labels: Labels | None


class Source(Protocol):
    """Where crops and labels come from.

    Attributes
    ----------
    keys : sequence of str
        Keys of the images.
    """

    keys: Sequence[str]

    def prepare(self, draws: Sequence[Draw]) -> list[Any]:
        """Return whatever can be found out about all draws of a step at once."""

    def crops(self, draw: Draw, prepared: Any, size: tuple[int, int]) -> Crops:
        """Return the crops of a draw from an image of that height and width."""


@dataclass
class StoredCrops:
    """Crops and labels of a label file.

    Attributes
    ----------
    reader : SoftLabelReader
        The file.
    seed : int
        Decides the order of an image's crops.
    crops_per_image : int
        How many are taken at a time, at most.
    stored_crops : int, optional
        Use only so many of the crops of each image.
    temperature : float
        T of softmax(logits / T), for files that hold logits.

    Raises
    ------
    ArgumentError
        If an image has fewer crops than are to be used, or taken at a time.
    """

    reader: SoftLabelReader
    seed: int
    crops_per_image: int
    stored_crops: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.keys: Sequence[str] = self.reader.keys
        available = self.reader.num_crops
        if self.stored_crops is not None and len(available) and int(available.min()) < self.stored_crops:
            raise ArgumentError(
                f"stored_crops: {self.reader.path} has images with only {counted(int(available.min()), 'crop')}, got {self.stored_crops}"
            )
        self._num_crops = available if self.stored_crops is None else np.minimum(available, self.stored_crops)
        fewest = int(self._num_crops.min(initial=self.crops_per_image))
        if fewest < self.crops_per_image:
            found = f"expected at most {fewest}, the crops stored of an image in {self.reader.path}, got {self.crops_per_image}"
            raise ArgumentError(f"crops_per_image: {found}")

    def prepare(self, draws: Sequence[Draw]) -> list[ImageLabels]:
        images, places, counts = np.array(draws, np.int64).T
        numbers = crops_at(self.seed, places[:, None] + np.arange(int(counts[0])), images, self._num_crops[images], self.crops_per_image)
        return list(self.reader.read_batch(images, numbers))

    def crops(self, draw: Draw, prepared: ImageLabels, size: tuple[int, int]) -> Crops:
        crops = crops_in_pixels(prepared, size, self.keys[draw.image], str(self.reader.path))
        return Crops(crops, prepared.flips, _softened(prepared.labels, self.temperature))


@dataclass
class FreshCrops:
    """Crops that nobody has seen before, labelled with the class of their image; if that is not given, a teacher will say in every step."""

    keys: Sequence[str]
    sampler: CropSampler
    classes: NDArray[np.int64] | None
    num_classes: int

    def prepare(self, draws: Sequence[Draw]) -> list[None]:
        return [None] * len(draws)

    def crops(self, draw: Draw, prepared: None, size: tuple[int, int]) -> Crops:
        crops, flips = _sample(self.sampler, self.keys[draw.image], draw, size)
        if self.classes is None:
            return Crops(crops, flips, None)
        indices = np.full((draw.num_crops, 1), self.classes[draw.image], np.int32)
        nothing = np.zeros(draw.num_crops, np.float32)
        return Crops(crops, flips, SparseLabels(indices, np.ones((draw.num_crops, 1), np.float32), nothing, self.num_classes))


@dataclass
class MappedCrops:
    """Fresh crops whose label is cut out of the label map of their image."""

    keys: Sequence[str]
    sampler: CropSampler
    maps: LabelMaps
    temperature: float = 1.0

    def prepare(self, draws: Sequence[Draw]) -> list[None]:
        return [None] * len(draws)

    def crops(self, draw: Draw, prepared: None, size: tuple[int, int]) -> Crops:
        crops, flips = _sample(self.sampler, self.keys[draw.image], draw, size)
        return Crops(crops, flips, _softened(self.maps.labels(self.keys[draw.image], crops, size), self.temperature))


def _softened(labels: Labels, temperature: float) -> Labels:
    """Return logits divided by a temperature, and other labels as they are: theirs was applied when they were made."""
    if isinstance(labels, DenseLabels) and labels.content == "logits":
        return replace(labels, vectors=labels.vectors / np.float32(temperature))
    return labels


def _sample(sampler: CropSampler, key: str, draw: Draw, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return sampler.sample(key, size, range(draw.place, draw.place + draw.num_crops))
