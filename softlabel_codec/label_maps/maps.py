"""ReLabel-style label maps (Yun et al., CVPR 2021), to compare with: one map of logits per image instead of labels of crops.

A map has 15 x 15 cells with the five largest logits of each. The label of a crop is the softmax of the mean logits inside it
(RoI-align with one bin); logits that are not stored count as 0. A flip does not change the mean.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from softlabel_codec.checks.arguments import EXIF_POLICIES, check_choice, check_temperature
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.whole_files import whole_file
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.image_source import where_is
from softlabel_codec.images.cutting import Cutter, whole_image
from softlabel_codec.images.sources import open_images
from softlabel_codec.labels import DenseLabels, Labels
from softlabel_codec.options.encode import MAX_INPUT_SIZE
from softlabel_codec.quantise.temperature import to_power
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.teacher import load_teacher
from softlabel_codec.torch.pixels import normalize, to_tensor

logger = logging.getLogger(__name__)
SIDE = 15
KEPT = 5
_PART_BYTES = 2**20


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of images.

    Attributes
    ----------
    numbers : dict
        Position of each key in the arrays.
    indices : uint16 or int32 (I, 15, 15, 5)
        Classes of the largest logits of each cell.
    logits : float16 (I, 15, 15, 5)
        These logits.
    num_classes : int
        C.
    exif_orientation : str
        Whether the EXIF orientation of images was applied: `applied` or `ignored`.
    """

    numbers: dict[str, int]
    indices: NDArray[Any]
    logits: NDArray[np.float16]
    num_classes: int
    exif_orientation: str = "ignored"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelMaps:
        """Return the maps in a file that `save` wrote; CorruptError for any other file."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
                keys, indices, logits = data["keys"], data["indices"], data["logits"]
                num_classes, exif_orientation = int(data["num_classes"]), str(data.get("exif_orientation", "ignored"))
        except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CorruptError(f"{path}: expected label maps: {error}") from None
        if indices.shape != (len(keys), SIDE, SIDE, KEPT) or logits.shape != indices.shape or (indices >= num_classes).any():
            raise CorruptError(f"{path}: expected label maps of {SIDE} x {SIDE} x {KEPT}, got {indices.shape} and {logits.shape}")
        if exif_orientation not in EXIF_POLICIES:
            raise CorruptError(f"{path}: expected exif_orientation {' or '.join(EXIF_POLICIES)}, got {exif_orientation!r}")
        return cls({str(key): number for number, key in enumerate(keys)}, indices, logits, num_classes, exif_orientation)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the maps as a compressed `.npz`, completely or not at all."""
        known = {"keys": np.array(list(self.numbers)), "num_classes": self.num_classes, "exif_orientation": self.exif_orientation}
        with whole_file(path) as file:
            np.savez_compressed(file, indices=self.indices, logits=self.logits, **known)  # type: ignore[arg-type]

    def labels(self, key: str, crops: NDArray[np.int64], size: tuple[int, int]) -> DenseLabels:
        """Return the labels of crops (n, 4) in pixels of an image of that height and width.

        Raises
        ------
        MismatchError
            If there is no map of the image.
        """
        if key not in self.numbers:
            raise MismatchError(f"there is no label map of the image {key!r}")
        number = self.numbers[key]
        top, left, height, width = crops.T
        weights = _bin(top, height, size[0])[:, :, None] * _bin(left, width, size[1])[:, None, :]
        shares = (weights[:, :, :, None] * self.logits[number].astype(np.float64)).reshape(len(crops), -1)
        means = np.zeros((len(crops), self.num_classes))
        rows = np.repeat(np.arange(len(crops)), shares.shape[1])
        np.add.at(means, (rows, np.tile(self.indices[number].reshape(-1).astype(np.int64), len(crops))), shares.reshape(-1))
        return DenseLabels(means.astype(np.float32), "logits")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class MappedCrops:
    """Computes the labels of crops from the label map of their image.

    Attributes
    ----------
    maps : LabelMaps
        The maps.
    keys : sequence of str
        Keys of the images, by number.
    temperature : float
        T of softmax(logits / T).
    """

    maps: LabelMaps
    keys: Sequence[str]
    temperature: float = 1.0

    @classmethod
    def load(cls, path: str | os.PathLike[str], keys: Sequence[str], temperature: float = 1.0) -> MappedCrops:
        """Load the maps in a file; MismatchError unless each image has one."""
        maps = LabelMaps.load(path)
        missing = [key for key in keys if key not in maps.numbers]
        if missing:
            some = f"{len(missing)} of {counted(len(keys), 'image')}"
            raise MismatchError(f"{path}: there are no label maps of {some}, {missing[0]!r} first")
        return cls(maps, keys, check_temperature(temperature))

    def __call__(self, number: int, crops: NDArray[np.int64], size: tuple[int, int]) -> Labels:
        return to_power(self.maps.labels(self.keys[number], crops, size), 1 / self.temperature)


def _bin(start: NDArray[np.int64], length: NDArray[np.int64], num_pixels: int) -> NDArray[np.float64]:
    """Return the share of a crop that falls into each of the 15 cells along a line, (n, 15); shares add up to 1.

    This is the mean over the crop of a map that is interpolated linearly between cell centres: RoI-align with many samples.
    """
    samples = (np.arange(4 * SIDE) + 0.5) / (4 * SIDE)
    place = (start[:, None] + samples * length[:, None]) / num_pixels * SIDE - 0.5
    low = np.clip(np.floor(place), 0, SIDE - 1).astype(np.int64)
    high = np.minimum(low + 1, SIDE - 1)
    share = np.clip(place - low, 0, 1)
    weights = np.zeros((len(start), SIDE))
    rows = np.repeat(np.arange(len(start)), samples.size)
    np.add.at(weights, (rows, low.reshape(-1)), (1 - share).reshape(-1))
    np.add.at(weights, (rows, high.reshape(-1)), share.reshape(-1))
    return weights / samples.size


@torch.inference_mode()
def make_label_maps(
    images: Any,
    teacher: str,
    *,
    size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    exif_orientation: str = "ignored",
    progress: Callable[[int, int], None] | None = None,
) -> LabelMaps:
    """Return label maps of images from a teacher that sees each whole image, scaled.

    Parameters
    ----------
    images : path, mapping, array, dataset or ImageSource
        As for `softlabel_codec.images.open_images`.
    teacher : str
        As for `encode`. Its network needs a method `logit_map`: images (B, 3, size, size) to logits (B, C, h, w).
    size : int, optional
        Side to which images are scaled, in pixels; by default the teacher's.
    batch_size : int
        Images per forward pass.
    device : str
        `auto`, `cpu`, `cuda`, ...
    exif_orientation : str
        `ignored` or `applied`.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Raises
    ------
    ArgumentError
        If there are no images, or the teacher cannot be loaded.
    MismatchError
        If its network has no `logit_map`.
    """
    check_choice("exif_orientation", exif_orientation, EXIF_POLICIES)
    if size is not None and not 1 <= size <= MAX_INPUT_SIZE:
        raise ArgumentError(f"size: expected 1 to {MAX_INPUT_SIZE}, got {size!r}")
    source, found = open_images(images), load_teacher(teacher)
    keys = source.keys()
    if not hasattr(found.model, "logit_map"):
        raise MismatchError(f"teacher {found.name}: label maps need a method logit_map, which {type(found.model).__name__} does not have")
    where, side = device_by_name(device), size or found.input_size
    cutter = Cutter(side, found.interpolation, exif_orientation)
    logit_map: Any = found.model.to(where).eval().logit_map
    parts = []
    num_classes = 0
    logger.info("label maps of %s by %s", counted(len(keys), "image"), found.name)
    for start in range(0, len(keys), batch_size):
        whole = [cutter.cut(source.read(key), whole_image, where_is(source, key)).images[0] for key in keys[start : start + batch_size]]
        maps = logit_map(normalize(to_tensor(whole).to(where), found.mean, found.std)).float()
        num_classes = maps.shape[1]
        parts.append(_largest(interpolate(maps, (SIDE, SIDE), mode="bilinear", align_corners=False)))
        if progress is not None:
            progress(start + len(whole), len(keys))
    indices, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    kind = np.uint16 if num_classes <= 2**16 else np.int32
    return LabelMaps({key: number for number, key in enumerate(keys)}, indices.astype(kind), logits, num_classes, exif_orientation)


def _largest(maps: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return the five largest logits of each cell of maps (B, C, 15, 15) and their classes, padded with logits of 0 for fewer classes."""
    largest, classes = maps.permute(0, 2, 3, 1).topk(min(KEPT, maps.shape[1]), dim=3)
    missing = (0, KEPT - largest.shape[3])
    return pad(classes, missing).int().cpu().numpy(), pad(largest, missing).half().cpu().numpy()
