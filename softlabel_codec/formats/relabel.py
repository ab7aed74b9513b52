"""Label maps of ReLabel (Yun et al., CVPR 2021; naver-ai/relabel_imagenet): import only.

A file `CLASS/STEM.pt` for each image: a float tensor (2, K, H, W) by `torch.save`, in what is published (2, 5, 15, 15): the K largest
logits of each cell, and their classes. The label of a crop is the softmax of the mean logits in it, by torchvision's RoIAlign with one
bin; logits that are not stored count as 0, and a flip changes nothing. Labels are made for crops of our own sampler, or for those of
another label file, with which they can then be compared crop by crop.

RoIAlign takes boxes as left, top, right, bottom. ReLabel's training code gives it top, left, bottom, right, so that it averages over the
region mirrored at the diagonal: where a crop is wide, over a high one. Here a crop gets the logits inside it, unless `SWAPPED` is asked
for, to train with the labels that ReLabel trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.importing import DERIVED, PIXELS, Entry, Found, SourceImage
from softlabel_codec.formats.labels import LOGITS, Kind, whole_classes
from softlabel_codec.formats.numpy_stand_ins import as_array
from softlabel_codec.formats.torch_files import load_safely
from softlabel_codec.images.files import is_about_the_image, read_size
from softlabel_codec.images.paths import list_images, path_of_key
from softlabel_codec.padding import NO_PADDING
from softlabel_codec.reader import UNKNOWN_CROPS, SoftLabelReader
from softlabel_codec.sampler import CropSampler

UPRIGHT, SWAPPED = LABEL_TYPES = ("upright", "swapped")
NUM_CLASSES = 1000
NUM_CROPS = 200
_ENDING = ".pt"
_MOST_CELLS = 64
"""Along a side of a map."""


@dataclass(frozen=True)
class RelabelSource:
    """Label maps, and the crops that are to get labels.

    Attributes
    ----------
    folder : Path
        Where the maps are.
    images : path or None
        The images, in folders of the same names; not needed with `crops_of`.
    num_crops : int
        Crops per image.
    seed : int
        Of the sampler of crops.
    num_classes : int
        C, which the maps do not say.
    swapped : bool
        Average as ReLabel's training code does, with the axes exchanged.
    crops_of : path or None
        A label file whose crops get labels, in place of the sampler's.
    """

    folder: Path
    images: Any = None
    num_crops: int = NUM_CROPS
    seed: int = 0
    num_classes: int = NUM_CLASSES
    swapped: bool = False
    crops_of: Any = None

    @cached_property
    def found(self) -> Found:
        """What the maps hold.

        Raises
        ------
        ArgumentError
            If there are no maps, or the number of crops is invalid.
        MismatchError
            If no image has a map.
        CorruptError
            If the first map is damaged.
        """
        if not 1 <= self.num_crops <= MAX_CROPS_PER_IMAGE:
            raise ArgumentError(f"crops: expected 1 to {MAX_CROPS_PER_IMAGE}, got {self.num_crops}")
        maps = {key: path for key in self._keys if (path := self._path(key)).is_file()}
        if not maps:
            what = self.images if self.crops_of is None else self.crops_of
            raise MismatchError(f"{self.folder}: expected maps CLASS/STEM{_ENDING} of images in {what}, found none")
        logits, _ = _read(next(iter(maps.values())), self.num_classes)
        others = self._num_maps - len(set(maps.values()))
        lost = ["the maps: only labels of crops are made of them"]
        if others:
            lost.append(f"{counted(others, 'map')} of images that are not in {self.images if self.crops_of is None else self.crops_of}")
        given = self._given
        per_image = self.num_crops if given is None else float(given.num_crops.mean())
        return Found(
            format="ReLabel",
            kind=Kind(LOGITS, self.num_classes, None, 4),
            num_images=len(self._keys),
            num_crops=round(len(self._keys) * per_image),
            crops=DERIVED if given is None else given.crops if given.crops.startswith("fractions") else PIXELS,
            source_bytes=sum(path.stat().st_size for path in maps.values()),
            provenance={"map": list(logits.shape), "axes": SWAPPED if self.swapped else UPRIGHT, "maps": len(maps)},
            lost=tuple(lost),
            sampler=None if given is not None else self._sampler,
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images, by key."""
        for number, key in enumerate(self._keys):
            path = self._path(key)
            labels = partial(_pooled, path, num_classes=self.num_classes, swapped=self.swapped)
            if self._given is not None:
                yield Entry(key, str(path), partial(_image_of_set, self._given, number, labels))
            else:
                yield Entry(
                    key, str(path), partial(_image, key, path_of_key(Path(self.images), key), self._sampler, self.num_crops, labels)
                )

    @cached_property
    def _sampler(self) -> CropSampler:
        return CropSampler(self.seed)

    @cached_property
    def _given(self) -> SoftLabelReader | None:
        """The label file whose crops get labels."""
        if self.crops_of is None:
            return None
        reader = SoftLabelReader(self.crops_of)
        if UNKNOWN_CROPS in reader.metadata or reader.padding != NO_PADDING:
            what = "of images with padding" if reader.padding != NO_PADDING else f"that are not known: {reader.metadata[UNKNOWN_CROPS]}"
            raise ArgumentError(f"crops_of: {self.crops_of}: expected crops of images as they are, got crops {what}")
        return reader

    @cached_property
    def _keys(self) -> list[str]:
        return list_images(self.images) if self._given is None else list(self._given.keys)

    @cached_property
    def _num_maps(self) -> int:
        return sum(1 for _ in self.folder.rglob(f"*{_ENDING}"))

    def _path(self, key: str) -> Path:
        """Return where the map of an image is: by the last two parts of its path, up to the first dot."""
        return self.folder / ("/".join(key.split("/")[-2:]).split(".", maxsplit=1)[0] + _ENDING)


def _image(key: str, image: Path, sampler: CropSampler, num_crops: int, labels: Callable[..., NDArray[np.float32]]) -> SourceImage:
    try:
        size = read_size(image)
    except OSError as error:
        if not is_about_the_image(error):
            raise
        raise MismatchError(f"image {key!r}: {error}") from None
    crops, flips = sampler.sample(key, size, np.arange(num_crops))
    return SourceImage({LOGITS: labels(crops, size)}, crops, flips, size)


def _image_of_set(reader: SoftLabelReader, number: int, labels: Callable[..., NDArray[np.float32]]) -> SourceImage:
    """Return labels of the crops that an image has in a label file."""
    image = reader.read(number)
    size = (1, 1) if reader.crops.startswith("fractions") else image.image_size
    return SourceImage({LOGITS: labels(image.crops, size)}, image.crops, image.flips, image.image_size)


def _pooled(path: Path, crops: NDArray[Any], size: tuple[int, int], *, num_classes: int, swapped: bool) -> NDArray[np.float32]:
    if not path.is_file():
        raise MismatchError("expected a map of the image, found none")
    return pooled_logits(*_read(path, num_classes), crops, size, num_classes, swapped=swapped)


def pooled_logits(
    logits: NDArray[Any],
    classes: NDArray[np.int64],
    crops: NDArray[Any],
    size: tuple[int, int],
    num_classes: int,
    *,
    swapped: bool = False,
) -> NDArray[np.float32]:
    """Return the mean logits of crops.

    Parameters
    ----------
    logits, classes : float and int64 (K, H, W)
        The largest logits of each cell and their classes.
    crops : integer or float (M, 4)
        top, left, height, width in pixels, or as fractions of the image.
    size : (int, int)
        Height and width of the image; 1 and 1 for fractions.
    num_classes : int
        C.
    swapped : bool
        Exchange the axes, and take the width of the map for both, as ReLabel's training code does.

    Returns
    -------
    float32 (M, C)
        What torchvision's `roi_align` returns for an output of one bin.
    """
    _, height, width = logits.shape
    top, left, tall, wide = (part.astype(np.float64) for part in crops.T)
    rows, columns = (top / size[0], tall / size[0]), (left / size[1], wide / size[1])
    if swapped:
        rows, columns = columns, rows
    down, across = _bin(*rows, width if swapped else height, height), _bin(*columns, width, width)
    weights = (down[:, :, None] * across[:, None, :]).reshape(len(crops), -1)
    kept, places = np.unique(classes, return_inverse=True)
    of_cells = np.zeros((height * width, len(kept)))
    cells = np.broadcast_to(np.arange(height * width).reshape(height, width), classes.shape)
    of_cells[cells, places.reshape(classes.shape)] = logits
    pooled = np.zeros((len(crops), num_classes), np.float32)
    pooled[:, kept] = weights @ of_cells
    return pooled


def _bin(start: NDArray[np.float64], length: NDArray[np.float64], scale: int, num_cells: int) -> NDArray[np.float64]:
    """Return the weight of each cell along a line in the mean over crops (M, cells), given as fractions of the line.

    As `roi_align` without `aligned`: a crop is at least one cell long; it is sampled once per cell that it begins; samples lie between the
    centres of cells, and those beyond the outermost centre by more than one cell count as 0.
    """
    begin, end = (np.float32(part) * np.float32(scale) - np.float32(0.5) for part in (start, start + length))
    long = np.maximum(end - begin, np.float32(1))
    number = np.ceil(long).astype(np.int64)
    sample = np.arange(number.max())[None, :]
    used = sample < number[:, None]
    place = begin[:, None].astype(np.float64) + (sample + 0.5) * (long / number)[:, None]
    share = np.where(used & (place >= -1) & (place <= num_cells), 1 / number[:, None], 0.0)
    place = np.maximum(place, 0.0)
    low = np.minimum(place.astype(np.int64), num_cells - 1)
    high = np.minimum(low + 1, num_cells - 1)
    beyond = np.where(low >= num_cells - 1, 0.0, place - low)
    weights = np.zeros((len(start), num_cells))
    crop = np.broadcast_to(np.arange(len(start))[:, None], low.shape)
    np.add.at(weights, (crop, low), share * (1 - beyond))
    np.add.at(weights, (crop, high), share * beyond)
    return weights


def _read(path: Path, num_classes: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return logits and classes (K, H, W) of a map.

    Raises
    ------
    CorruptError
        If the file is damaged, or holds something else.
    MismatchError
        If the classes are others.
    """
    found = load_safely(path.read_bytes(), path)
    if not isinstance(found, torch.Tensor) or found.ndim != 4 or found.shape[0] != 2 or not found.is_floating_point():
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise CorruptError(f"{path}: expected a float tensor (2, K, H, W) of logits and classes, as (2, 5, 15, 15), got {got}")
    if not all(1 <= side <= most for side, most in zip(found.shape[1:], (num_classes, _MOST_CELLS, _MOST_CELLS), strict=True)):
        raise CorruptError(
            f"{path}: expected up to {num_classes} classes of {_MOST_CELLS} x {_MOST_CELLS} cells, got {tuple(found.shape[1:])}"
        )
    try:
        logits, classes = as_array(found.detach())
    except Exception as error:  # of types and layouts that numpy does not support
        raise CorruptError(f"{path}: expected float16, float32 or float64: {error}") from None
    if not np.isfinite(logits).all():
        raise CorruptError(f"{path}: holds NaN or infinity")
    try:
        return logits, whole_classes(classes, num_classes, lowest=0)
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from None
