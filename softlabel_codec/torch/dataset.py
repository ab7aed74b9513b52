"""`SoftLabelDataset`: stored crops and labels of images, for a DataLoader."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from softlabel_codec.crop_choice import choose_crops
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images import (
    Stems,
    apply_crop,
    apply_crop_to_reduced,
    crops_in_pixels,
    image_size,
    list_images,
    load_image,
    load_reduced,
    path_of_key,
    resampling,
    subfolder_of_keys,
)
from softlabel_codec.labelled import BatchLabels, ImageLabels
from softlabel_codec.labels import Labels, concatenate_labels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, as_std, as_triple, normalize, to_tensor
from softlabel_codec.torch.targets import Targets, to_targets
from softlabel_codec.wording import counted

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any]
Images = str | os.PathLike[str] | Mapping[str, ImageSource]
_NAMED = 3


class Sample(NamedTuple):
    """Chosen crops of one image.

    Attributes
    ----------
    images : Tensor (N, 3, size, size)
        Cut, scaled, mirrored and normalised.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    """

    images: Tensor
    labels: Labels


class SoftLabelDataset(Dataset[Sample]):
    """Images, N of the stored crops of each, and the labels of those crops. One decoding of an image serves all N.

    Which crops are drawn depends on seed, epoch and image only, never on workers, ranks or what ran before; all stored crops
    of an image are used before any is used again. Call `set_epoch` before each epoch, as for a DistributedSampler.

    Parameters
    ----------
    images : path, or mapping of key to image
        Folder that holds the labelled images, by key; or anything that maps keys to paths, PIL images or uint8 arrays.
        Keys of FKD label files, which lack the file name's ending, are found as well.
    labels : path
        Container file.
    crops_per_image : int
        N.
    size : int
        Side of a crop as the network sees it, in pixels.
    seed : int
        Decides the order in which crops are drawn.
    mean, std : three floats, optional
        Normalisation of RGB in 0..1. By default the teacher's, from the file, or else ImageNet's.
    interpolation : str, optional
        How crops are scaled. By default as for the teacher, from the file, or else bilinear.
    normalized : bool
        False to get uint8 crops, a quarter of the bytes; `softlabel_codec.torch.normalize` does the rest on the device.
    transform : callable, optional
        PIL image to tensor, applied to each crop instead of the normalisation: for further augmentation of pixels.
    policy : str, optional
        Remainder policy to read sparse labels with, if not the codec's own.
    num_classes : int, optional
        Number of classes that the student predicts, to be checked against the file.
    reduced_decoding : bool
        Decode JPEG files at a half, a quarter or an eighth of their size where all crops that are due are at least as many times
        larger than `size`. Faster for large photographs, but the pixels are not exactly those that the teacher saw.
    on_corrupt : str
        What an image does whose labels are damaged: `raise` an error, or `skip`: a batch comes without it, and it counts in `num_damaged`.

    Raises
    ------
    MismatchError
        If labelled images are missing, or the number of classes differs; on reading, if an image has another size than the labelled one.
    ArgumentError
        If more crops are asked for than an image has, or another argument cannot be; on reading, if the mapping of images holds
        something that is none.
    FormatError
        If the container file is not sound; on reading, if labels are damaged, and with `on_corrupt="skip"` those of a whole batch.
    """

    def __init__(
        self,
        images: Images,
        labels: str | os.PathLike[str],
        crops_per_image: int = 4,
        size: int = 224,
        seed: int = 0,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        normalized: bool = True,
        transform: Callable[[Image.Image], Tensor] | None = None,
        policy: str | None = None,
        num_classes: int | None = None,
        reduced_decoding: bool = False,
        on_corrupt: str = "raise",
    ) -> None:
        self.reader = SoftLabelReader(labels, policy=policy, on_corrupt=on_corrupt)
        if num_classes is not None:
            self.reader.check_classes(num_classes)
        self.crops_per_image, self.size = _whole("crops_per_image", crops_per_image, 1), _whole("size", size, 1)
        self.seed = _whole("seed", seed, 0)
        self._check_counts()
        teacher = self.reader.metadata.get("preprocessing")
        teacher = teacher if isinstance(teacher, Mapping) else {}
        self.mean = as_triple("mean", teacher.get("mean", IMAGENET_MEAN) if mean is None else mean)
        self.std = as_std(teacher.get("std", IMAGENET_STD) if std is None else std)
        self.interpolation = interpolation or teacher.get("interpolation") or "bilinear"
        resampling(self.interpolation)
        self._exif_orientation = teacher.get("exif_orientation", "ignored")
        self._normalized, self._transform = normalized, transform
        self._reduced_decoding = reduced_decoding
        self._find_image = image_finder(images, self.reader)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # running workers see it change
        self._damaged = torch.zeros(len(self.reader) if on_corrupt == "skip" else 0, dtype=torch.bool)
        self._damaged.share_memory_()  # type: ignore[no-untyped-call]  # what workers find damaged is known to all

    def _check_counts(self) -> None:
        fewest = int(self.reader.num_crops.min(initial=self.crops_per_image))
        if fewest < self.crops_per_image:
            raise ArgumentError(f"crops_per_image: expected at most {fewest}, the crops stored of an image, got {self.crops_per_image}")

    @property
    def epoch(self) -> int:
        """The epoch that was set last; 0 at first."""
        return int(self._epoch)

    @property
    def num_damaged(self) -> int:
        """How many images were left out so far, in all workers, because their labels are damaged."""
        return int(self._damaged.sum())

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops of this epoch from now on, in all workers."""
        if epoch < 0:
            raise ArgumentError(f"epoch: expected at least 0, got {epoch}")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of labelled images."""
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        """Return the crops of one image that are due in this epoch."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the crops of several images; DataLoader calls this with all indices of a batch."""
        labelled = self._due(indices)
        return [Sample(self._cut(index, image), image.labels) for index, image in zip(labelled.images.tolist(), labelled, strict=True)]

    def labels_of(self, indices: Sequence[int]) -> list[ImageLabels]:
        """Return crops, flips and labels that are due in this epoch, without any image."""
        return list(self._due(indices))

    def _due(self, indices: Sequence[int]) -> BatchLabels:
        numbers = np.array([range(len(self))[index] for index in indices], np.int64)
        chosen = choose_crops(self.seed, self.epoch, numbers, self.reader.num_crops[numbers], self.crops_per_image)
        try:
            return self.reader.read_batch(numbers, chosen)
        finally:
            if len(self._damaged):
                self._damaged[self.reader.damaged_images] = True

    def _cut(self, index: int, labelled: ImageLabels) -> Tensor:
        key = self.reader.keys[index]
        source = self._find_image(index, key)
        factor = self._reduction(labelled, source)
        image, size = load_reduced(source, factor) if factor > 1 else _decode(source, self._exif_orientation)  # type: ignore[arg-type]
        crops = crops_in_pixels(labelled, size, key, str(self.reader.path))
        due = zip(crops.tolist(), labelled.flips.tolist(), strict=True)
        if factor > 1:
            cut = [apply_crop_to_reduced(image, size, crop, flip, self.size, self.interpolation) for crop, flip in due]
        else:
            cut = [apply_crop(image, crop, flip, self.size, self.interpolation) for crop, flip in due]
        if self._transform is not None:
            return torch.stack([self._transform(crop) for crop in cut])
        pixels = to_tensor(cut)
        return normalize(pixels, self.mean, self.std) if self._normalized else pixels

    def _reduction(self, labelled: ImageLabels, source: ImageSource) -> int:
        """Return at which part of its size an image may be decoded: 1, or 2, 4, 8 if all crops are that many times larger than needed."""
        is_path = not isinstance(source, Image.Image | np.ndarray)
        if not (self._reduced_decoding and is_path and self._exif_orientation == "ignored" and labelled.crops.dtype.kind == "i"):
            return 1
        smallest = int(labelled.crops[:, 2:].min())
        return max(factor for factor in (1, 2, 4, 8) if factor == 1 or smallest >= factor * self.size)


def _decode(source: ImageSource, exif_orientation: str) -> tuple[Image.Image, tuple[int, int]]:
    image = load_image(source, exif_orientation)
    return image, image_size(image)


def collate_crops(samples: Sequence[Sample]) -> tuple[Tensor, Targets]:
    """Return one batch: images (B * N, 3, size, size), and the labels of all crops, still sparse.

    Pass it to a DataLoader as `collate_fn`.
    """
    images = torch.cat([sample.images for sample in samples])
    return images, to_targets(concatenate_labels([sample.labels for sample in samples]))


class _InMapping:
    """Finds images in a mapping by key."""

    def __init__(self, images: Mapping[str, ImageSource], reader: SoftLabelReader) -> None:
        missing = [key for key in reader.keys if key not in images]
        _refuse_missing(missing, len(reader), f"the {type(images).__name__} of images", reader.path)
        self._images = images

    def __call__(self, index: int, key: str) -> ImageSource:
        return self._images[key]


class _InFolder:
    """Finds images in a folder by key, or by key and one of the file name endings that were found for such keys."""

    def __init__(self, folder: Path, reader: SoftLabelReader) -> None:
        self._folder = folder
        there = set(list_images(folder))
        endings, of_image, missing = [""], np.zeros(len(reader), np.uint8), []
        stems: Stems | None = None
        for number, key in enumerate(reader.keys):
            if key in there:
                there.discard(key)
                continue
            stems = stems or Stems(there)
            name = stems.find(key)
            if name is None:
                missing.append(key)
                continue
            there.discard(name)
            ending = name[len(key) :]
            if ending not in endings:
                endings.append(ending)
            of_image[number] = endings.index(ending)
        inside = subfolder_of_keys(there, missing) if missing else None
        _refuse_missing(missing, len(reader), str(folder), reader.path, f". They are in {folder / inside}" if inside else "")
        _mention_unlabelled(there - set(reader.summary.get("skipped_keys", [])), folder, reader.path)
        self._endings = endings
        self._ending_of_image = of_image if len(endings) > 1 else None

    def __call__(self, index: int, key: str) -> ImageSource:
        ending = "" if self._ending_of_image is None else self._endings[self._ending_of_image[index]]
        return path_of_key(self._folder, key + ending)


def image_finder(images: Images, reader: SoftLabelReader) -> Callable[[int, str], ImageSource]:
    """Return what finds an image of a label file by its number and key, in a folder or a mapping.

    Raises
    ------
    MismatchError
        If labelled images are missing.
    """
    return _InMapping(images, reader) if isinstance(images, Mapping) else _InFolder(Path(images), reader)


def _whole(name: str, value: Any, smallest: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < smallest:
        raise ArgumentError(f"{name}: expected an integer of at least {smallest}, got {value!r}")
    return operator.index(value)


def _refuse_missing(missing: list[str], num_labelled: int, where: str, labels: Path, advice: str = "") -> None:
    if missing:
        named = ", ".join(repr(key) for key in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise MismatchError(f"{labels}: {len(missing)} of {num_labelled} labelled images are not in {where}: {named}{advice}")


def _mention_unlabelled(unlabelled: set[str], folder: Path, labels: Path) -> None:
    if unlabelled:
        first = min(unlabelled)
        have, are = ("has", "is") if len(unlabelled) == 1 else ("have", "are")
        images = counted(len(unlabelled), "image")
        warnings.warn(f"{images} in {folder} {have} no labels in {labels} and {are} left out, {first!r} first", stacklevel=5)
