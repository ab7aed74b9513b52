"""Cuts the crops that are due out of images and normalises them, for datasets and for streams of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.crops.due import check_counts
from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageData
from softlabel_codec.images.cutting import CropsOf, Cutter
from softlabel_codec.images.files import agreed_exif_orientation, check_image, crops_in_pixels, resampling
from softlabel_codec.labels import BatchLabels, ImageLabels
from softlabel_codec.padding import Padding
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.cutting import batch_for, cutter_of
from softlabel_codec.torch.geometry import WHY, refuse_geometry
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple, as_std, as_triple, normalize_into

_SAME_NORMALISATION = 5e-4
FEWEST_OF_A_FIELD = 20
"""Crops of an image that a field should be made from. Of what a teacher of 1,000 classes says of other crops, fields made from 10, 20, 50
and 150 lose 12, 11, 8 and 7 %."""


class CropOptions(NamedTuple):
    """How crops are cut and what their pixels look like: the arguments of `SoftLabelDataset` and `LabelledCrops` of these names."""

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None
    normalized: bool = True
    after_crop: Callable[[Image.Image], Tensor] | None = None
    backend: str = "pillow"
    reduced_decoding: bool = False
    exif_orientation: str | None = None


class Cropper:
    """A label file, and how crops of its images are drawn and cut. The arguments are those of `SoftLabelDataset`.

    Attributes
    ----------
    reader : SoftLabelReader
        The label file.
    crops_per_image, size, seed : int
        As given.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    interpolation, exif_orientation : str
        As given, or as for the teacher.
    """

    def __init__(
        self,
        labels: str | os.PathLike[str],
        crops_per_image: int,
        size: int,
        seed: int,
        options: CropOptions,
        policy: str | None,
        temperature: float | None,
        on_corrupt: str,
        check_images: bool,
        stored_crops: int | None,
        sampler: CropSampler | None,
        cache: str | os.PathLike[str] | bool,
    ) -> None:
        refuse_geometry("after_crop", options.after_crop)
        self.reader = SoftLabelReader(labels, policy=policy, temperature=temperature, on_corrupt=on_corrupt, cache=cache)
        self.reader.check_crops_known()
        self.crops_per_image, self.size = check_whole("crops_per_image", crops_per_image, 1), check_whole("size", size, 1)
        self.seed = check_whole("seed", seed, 0)
        teacher = self.reader.metadata.get("preprocessing")
        teacher = teacher if isinstance(teacher, Mapping) else {}
        self.mean = as_triple("mean", teacher.get("mean", IMAGENET_MEAN) if options.mean is None else options.mean)
        self.std = as_std(teacher.get("std", IMAGENET_STD) if options.std is None else options.std)
        self.interpolation = options.interpolation or teacher.get("interpolation") or "bilinear"
        resampling(self.interpolation)
        self.exif_orientation = agreed_exif_orientation(options.exif_orientation, teacher.get("exif_orientation"), self.reader.path)
        self._cutter = Cutter(self.size, self.interpolation, self.exif_orientation, options.reduced_decoding, self.reader.padding)
        if options.backend != "pillow" and options.after_crop is not None:
            raise ArgumentError(f"backend: expected 'pillow' with after_crop, got {options.backend!r}")
        self._fastest = cutter_of(self._cutter, options.backend)
        self._normalized, self._after_crop = options.normalized, options.after_crop
        self._stored_crops = None if stored_crops is None else check_whole("stored_crops", stored_crops, 1)
        self._sampler = sampler
        if sampler is not None:
            self.reader.check_sampler(sampler, stored_crops)
        self._check_images, self._checked = check_images, np.zeros(0, np.bool_)
        self._chosen_for_caller = self.normalization is not None and (options.mean is None or options.std is None)

    def _check_crops(self, num_crops: NDArray[np.int64]) -> None:
        """Check that as many crops as asked can be drawn of images of which so many are stored; warn, once for each file, of traps."""
        endless = self.reader.any_crop or self._sampler is not None
        check_counts(num_crops, self.crops_per_image, self._stored_crops, self.reader.path, any_crop=endless)
        for trap in (self._unlike_imagenet(), self._of_few_crops(num_crops) if endless else ""):
            if trap:
                _warn_once(f"{self.reader.path}: {trap}")

    def _unlike_imagenet(self) -> str:
        """Return what to say if mean and std were not given and differ from ImageNet's."""
        if not self._chosen_for_caller or np.allclose([self.mean, self.std], [IMAGENET_MEAN, IMAGENET_STD], atol=_SAME_NORMALISATION):
            return ""
        of_teacher = f"with mean {self.mean} and std {self.std}, as its teacher's were"
        of_imagenet = f"mean {IMAGENET_MEAN} and std {IMAGENET_STD}, ImageNet's"
        advice = "Pass mean= and std= to say which you mean, and validate with the same"
        return f"crops are normalised {of_teacher}; many scripts validate with {of_imagenet}. {advice}"

    def _of_few_crops(self, num_crops: NDArray[np.int64]) -> str:
        """Return what to say if crops are drawn of which the fields, made from so many crops of each image, know little."""
        fewest = int(num_crops.min(initial=FEWEST_OF_A_FIELD))
        if fewest >= FEWEST_OF_A_FIELD or self._stored_crops is not None:
            return ""
        little = f"fields that were made from {counted(fewest, 'crop')} of an image know less of its other crops, which are drawn too"
        advice = f"`slcodec stats` says how well; stored_crops={fewest} draws only crops that they were made from"
        return f"{little}. {advice}"

    @property
    def padding(self) -> Padding:
        """How images are enlarged before crops are cut out of them: that of the label file."""
        return self.reader.padding

    @property
    def normalization(self) -> tuple[Triple, Triple] | None:
        """Mean and std that crops are normalised with; None if they are bytes, or `after_crop` decides."""
        return (self.mean, self.std) if self._normalized and self._after_crop is None else None

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; ArgumentError for `transform`."""
        if name == "transform":
            advice = "Pass after_crop= for what changes colours or erases; for a loader that sets transform, wrap a DataLoader of your own"
            raise ArgumentError(f"transform: {type(self).__name__} has none: {WHY}. A random crop after it would undo that. {advice}")
        super().__setattr__(name, value)

    def _draw(self, numbers: NDArray[np.int64], turns: NDArray[np.int64]) -> BatchLabels:
        """Return crops, flips and labels that are due of images at their turns; numbers and turns are int64 (B,)."""
        return self.reader.draw(numbers, self.crops_per_image, self.seed, turns, stored_crops=self._stored_crops, sampler=self._sampler)

    def _sound(self, number: int, labelled: ImageLabels, image: ImageData) -> ImageData:
        """Return an image, the first time in this process after comparing the bytes of its file with those that were labelled.

        Raises
        ------
        MismatchError
            If they differ.
        """
        if not self._check_images or labelled.image_crc32 is None or not isinstance(image, bytes):
            return image
        if not len(self._checked):
            self._checked = np.zeros(len(self.reader), np.bool_)
        if not self._checked[number]:
            check_image(image, labelled, self.reader.keys[number], str(self.reader.path))
            self._checked[number] = True
        return image

    def _whole(self, image: ImageData, where: str) -> Image.Image:
        """Return an image as its crops are cut out of it."""
        return self._cutter.whole(image, where)

    def _cut(self, labelled: BatchLabels, images: Sequence[tuple[ImageData, str]]) -> list[Tensor]:
        """Return the crops of images, (N, 3, size, size) each; unless `after_crop` makes them, they are parts of one tensor.

        Parameters
        ----------
        labelled : BatchLabels
            Which crops.
        images : sequence of (image, str)
            Each image, and what to call it in errors.
        """
        to_cut = [
            (image, self._crops_of(number, one), where)
            for number, one, (image, where) in zip(labelled.images.tolist(), labelled, images, strict=True)
        ]
        if self._after_crop is not None:
            return [torch.stack([self._after_crop(crop) for crop in self._cutter.cut(*one).images]) for one in to_cut]
        kind = torch.float32 if self._normalized else torch.uint8
        parts = batch_for(len(to_cut), self.crops_per_image, self.size, kind)
        for part, one in zip(parts, to_cut, strict=True):
            self._cut_into(part, *one)
        return [part.permute(0, 3, 1, 2) for part in parts]

    def _crops_of(self, number: int, labelled: ImageLabels) -> CropsOf:
        key, labels = self.reader.keys[number], str(self.reader.path)
        return lambda size: (crops_in_pixels(labelled, size, key, labels), labelled.flips)

    def _cut_into(self, part: Tensor, image: ImageData, crops_of: CropsOf, where: str) -> None:
        """Write the crops of an image into a part of a batch, (N, size, size, 3), float32 if they are to be normalised, else uint8."""
        pixels = torch.empty(part.shape, dtype=torch.uint8) if self._normalized else part
        self._fastest.cut_into(pixels.numpy(), image, crops_of, where)
        if self._normalized:
            normalize_into(part, pixels, self.mean, self.std)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": np.zeros(0, np.bool_)}


@lru_cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)
