"""`Pilot`: labels of some images, by which a codec is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_image_size, check_key
from softlabel_codec.checks.arrays import as_array
from softlabel_codec.errors import ArgumentError
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.views import Sampler
from softlabel_codec.writer import SoftLabelWriter

HELD_OUT = 5
"""Each so-many-th crop is left out of a label field, to measure it on crops that it was not made from."""
SMALLEST = np.float32(1e-12)
"""A class that the teacher finds possible, and the labels do not, counts as if they gave it this."""
_NEEDED = ("image_size", "probs")


@dataclass(frozen=True)
class Layout:
    """How the file is laid out for which a codec is chosen: arguments of `SoftLabelWriter`."""

    crops: str = "pixels"
    sampler: Sampler | None = None
    image_checksums: bool = False
    padding: Padding = NO_PADDING


@dataclass(frozen=True, eq=False)
class Pilot:
    """Labels of some images.

    Attributes
    ----------
    images : mapping
        For each key what `SoftLabelWriter.add` takes.
    num_classes : int
        C.
    layout : Layout
        How the file is laid out.
    power : float
        Students learn from this power of the labels, normalised: temperature of the labels / that of the training.
    """

    images: Mapping[str, Mapping[str, Any]]
    num_classes: int
    layout: Layout
    power: float = 1.0

    @classmethod
    def of(cls, images: Mapping[str, Mapping[str, Any]], num_classes: int, layout: Layout, power: float) -> Pilot:
        """Return a pilot of what a caller gives; ArgumentError if it holds no labels. The writer checks the rest."""
        if not isinstance(images, Mapping) or not images:
            raise ArgumentError("pilot: expected a mapping from at least one key to what SoftLabelWriter.add takes")
        checked = {}
        for key, given in images.items():
            check_key(key)
            missing = [name for name in _NEEDED if not isinstance(given, Mapping) or given.get(name) is None]
            if missing:
                raise ArgumentError(f"pilot: image {key!r}: expected what SoftLabelWriter.add takes, with {' and '.join(_NEEDED)}")
            probs = as_array("probs", given["probs"])
            if probs.ndim != 2 or not len(probs) or probs.shape[1] != num_classes:
                raise ArgumentError(f"pilot: image {key!r}: probs: expected shape (M, {num_classes}), got {probs.shape}")
            checked[key] = {**given, "probs": np.asarray(probs, np.float32)}
        return cls(checked, num_classes, layout, power)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fewest_crops(self) -> int:
        """Number of crops of the image that has the fewest."""
        return min(len(given["probs"]) for given in self.images.values())

    @property
    def most_crops(self) -> int:
        """Number of crops of the image that has the most."""
        return max(len(given["probs"]) for given in self.images.values())

    @property
    def kl_of_uniform(self) -> float:
        """Mean over crops of KL(p || uniform) of the labels, in nats."""
        probs = np.concatenate([given["probs"] for given in self.images.values()])
        return float(np.log(self.num_classes)) + float(np.einsum("mc,mc->", probs, log(probs), dtype=np.float64)) / len(probs)

    def part(self, num_images: int) -> Pilot:
        """Return so many of the images, evenly spread; itself if there are no more."""
        if num_images >= len(self):
            return self
        keys = list(self.images)
        chosen = spread(len(keys), num_images)
        return replace(self, images={keys[number]: self.images[keys[number]] for number in chosen})

    def first_crops(self, num_crops: int) -> Pilot:
        """Return the same images with their first crops only; itself if there are no more."""
        if num_crops >= self.most_crops:
            return self
        return replace(self, images={key: _some(given, slice(num_crops)) for key, given in self.images.items()})

    def write(self, path: Path, codec: str) -> None:
        """Write the labels as they are to be written."""
        how = self.layout
        options: dict[str, Any] = {"image_checksums": how.image_checksums, "padding": how.padding}
        with SoftLabelWriter(path, self.num_classes, codec, crops=how.crops, sampler=how.sampler, **options) as writer:
            for key, given in self.images.items():
                known = ("crops", "flips") if how.sampler is not None else ()
                writer.add(key, **{name: value for name, value in given.items() if name not in known})

    def write_without_held_out(self, path: Path, codec: str) -> None:
        """Write the labels of all crops but those that `held_out` returns, with their places."""
        crops = self.layout.crops if self._in_fractions else "pixels"
        with SoftLabelWriter(path, self.num_classes, codec, crops=crops, padding=self.layout.padding) as writer:
            for key, given in self.images.items():
                kept = np.arange(len(given["probs"])) % HELD_OUT != HELD_OUT - 1
                image = {**_some({**given, "crops": self._places[key]}, kept), "flips": np.zeros(kept.sum(), np.bool_)}
                writer.add(key, **{name: value for name, value in image.items() if name != "image_crc32"})

    def held_out(self) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Yield, of each image, the crops that were left out (m, 4) and their labels (m, C)."""
        for key, given in self.images.items():
            yield self._places[key][HELD_OUT - 1 :: HELD_OUT], given["probs"][HELD_OUT - 1 :: HELD_OUT]

    @property
    def _in_fractions(self) -> bool:
        return self.layout.crops.startswith("fractions")

    @cached_property
    def _places(self) -> dict[str, NDArray[Any]]:
        """The crops of each image, (M, 4)."""
        return {key: self._places_of(key, given) for key, given in self.images.items()}

    def _places_of(self, key: str, given: Mapping[str, Any]) -> NDArray[Any]:
        if given.get("crops") is not None:
            return as_array("crops", given["crops"])
        if self.layout.sampler is None:
            raise ArgumentError(f"pilot: image {key!r}: expected crops and flips")
        padding = self.layout.padding
        size = padding.around(check_image_size(given["image_size"], padding.pixels))
        return self.layout.sampler.sample(key, size, range(len(given["probs"])))[0]


def log(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logarithms of targets; a class without any counts as if it had `SMALLEST`."""
    return np.asarray(np.log(np.maximum(targets, SMALLEST)), np.float32)


def spread(count: int, chosen: int) -> list[int]:
    """Return the places of so many of `count` things, evenly spread; of all if there are no more."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(chosen, count)).astype(np.int64))]


def _some(given: Mapping[str, Any], rows: slice | NDArray[np.bool_]) -> dict[str, Any]:
    """Return what `SoftLabelWriter.add` takes for some of the crops of an image."""
    of_crops: Sequence[str] = ("crops", "flips", "probs")
    return {name: np.asarray(value)[rows] if name in of_crops and value is not None else value for name, value in given.items()}
