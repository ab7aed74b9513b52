"""`LabelledCrops`: crops and labels for images that come as a stream, from a pipeline of somebody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from softlabel_codec.checks.arguments import whole
from softlabel_codec.container.matching import Match
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageData
from softlabel_codec.labels import BatchLabels
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch.collate import Sample
from softlabel_codec.torch.cropper import CropOptions, Cropper
from softlabel_codec.torch.turns import Turns

Fields = Mapping[str, Any]
Key = str | Callable[[Fields], str]
_KEY_FIELDS = ("__key__", "key")
_IMAGE_FIELDS = ("image", "img", "jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")


class LabelledCrops(Cropper):
    """Turns an image with a key into N of its stored crops with labels: a function for pipelines that deliver the images themselves.

    It is called with a sample, a mapping that holds a key and an image, and returns a `Sample`; `batched` does the same for a mapping of
    lists. `boxes` returns crops and labels without images. `collate_crops` and `collate_dense` make batches of the results::

        wds.WebDataset(shards, shardshuffle=100).map(LabelledCrops("labels.slc", match="stem"))
        dataset.with_transform(LabelledCrops("labels.slc").batched)                                # of Hugging Face

    Which crops are due is counted for each image, in all worker processes together (4 bytes per image), as `SoftLabelDataset` does: an
    image that comes again brings other crops. Several training processes must not see the same image in an epoch, or call `set_epoch`.

    Parameters
    ----------
    labels : path or URL
        Label file, or label set: its folder or its index.
    crops_per_image, size, seed : int
        As for `SoftLabelDataset`.
    match : str or callable
        How keys of samples belong to keys of the file, as for `SoftLabelReader.find`: WebDataset's lack the ending (`stem`), others
        may lack the folder (`basename`).
    key : str or callable, optional
        The field of a sample that holds its key, or a function that returns the key of a sample. By default `__key__` or `key`, or else
        the `path` beside the bytes of an image, as in tables of Hugging Face.
    image : str, optional
        The field that holds the image: bytes of a file, a mapping with `bytes` or `path`, a path, a PIL image, or a uint8 array. By
        default the first that is there of `image`, `img`, `jpg`, `jpeg`, `png`, `webp`, and so on, whatever their case. Only bytes and
        paths are compared with the files that were labelled. A decoded image may have been changed: `datasets` turns images as their
        EXIF tag says; `cast_column("image", Image(decode=False))` gives their bytes.
    target : str or callable, optional
        The field that holds the true class, or a function that returns it from a sample; then batches have it as their third part.
    mean, std, interpolation, normalized, after_crop, policy, temperature, backend, reduced_decoding
        As for `SoftLabelDataset`.
    check_images, stored_crops, sampler, exif_orientation, cache
        As for `SoftLabelDataset`.

    Raises
    ------
    ArgumentError
        If an argument cannot be; when called, if a sample has no key or no image.
    KeyError
        When called, if a key has no labels; it names the nearest keys, and the `match` that would fit.
    MismatchError
        When called, if a key fits several images, or an image is not the one that was labelled.
    """

    def __init__(
        self,
        labels: str | os.PathLike[str],
        crops_per_image: int = 4,
        size: int = 224,
        seed: int = 0,
        *,
        match: Match = "exact",
        key: Key | None = None,
        image: str | None = None,
        target: str | Callable[[Fields], int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        normalized: bool = True,
        after_crop: Callable[[Image.Image], Tensor] | None = None,
        policy: str | None = None,
        temperature: float | None = None,
        backend: str = "pillow",
        reduced_decoding: bool = False,
        check_images: bool = True,
        stored_crops: int | None = None,
        sampler: CropSampler | None = None,
        exif_orientation: str | None = None,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        options = CropOptions(mean, std, interpolation, normalized, after_crop, backend, reduced_decoding, exif_orientation)
        super().__init__(
            labels, crops_per_image, size, seed, options, policy, temperature, "raise", check_images, stored_crops, sampler, cache
        )
        self._check_crops(self.reader.num_crops)
        self.match, self._key, self._image, self._target = match, key, image, target
        self._turns = Turns(len(self.reader))

    def set_epoch(self, epoch: int) -> None:
        """Let images take the turn of this epoch from now on, in all workers, or a later one that they have come to by counting."""
        self._turns.set_epoch(epoch)

    def __call__(self, sample: Fields) -> Sample:
        """Return the crops of an image that are due, and their labels."""
        return self._samples([sample])[0]

    def batched(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Return the fields that a `Sample` has, of several images, as lists by name, from the fields of these images, also as lists."""
        samples = self._samples(_of_batch(batch))
        return {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}

    def boxes(self, keys: Sequence[str]) -> BatchLabels:
        """Return crops, flips and labels that are due of images by their keys, for a pipeline that cuts crops itself."""
        return self._draw(*self._turns.due(self.reader.find(keys, self.match).tolist()))

    def _samples(self, samples: Sequence[Fields]) -> list[Sample]:
        found = [self._image_in(sample) for sample in samples]
        labelled = self.boxes([self._key_of(sample, image) for sample, (image, _) in zip(samples, found, strict=True)])
        numbers = labelled.images.tolist()
        keys = [self.reader.keys[number] for number in numbers]
        images = [
            (self._sound(number, one, image if path is None else Path(path).read_bytes()), key)
            for number, one, key, (image, path) in zip(numbers, labelled, keys, map(_open, found), strict=True)
        ]
        targets = [self._target_in(sample) for sample in samples]
        parts = zip(self._cut(labelled, images), labelled, numbers, keys, targets, strict=True)
        return [Sample(crops, one.labels, number, key, target) for crops, one, number, key, target in parts]

    def _key_of(self, sample: Fields, image: Any) -> str:
        if callable(self._key):
            key: Any = self._key(sample)
        elif self._key is not None:
            key = self._field(sample, "key", self._key)
        else:
            key = next((sample[name] for name in _KEY_FIELDS if name in sample), None)
            if key is None and isinstance(image, Mapping):
                key = image.get("path")
        if not isinstance(key, str):
            got = f"{key!r:.80} in a sample with the fields {', '.join(map(str, sample))}"
            raise ArgumentError(f"key: expected the key of an image, got {got}. Say with key= which field has it, or how it is made")
        return key

    def _image_in(self, sample: Fields) -> tuple[Any, str]:
        """Return the image of a sample as it is there, and the field that holds it."""
        if not isinstance(sample, Mapping):
            raise ArgumentError(f"sample: expected a mapping with a key and an image, got {type(sample).__name__}")
        if self._image is not None:
            return self._field(sample, "image", self._image), self._image
        by_name = {str(name).lower(): name for name in sample}
        name = next((by_name[name] for name in _IMAGE_FIELDS if name in by_name), None)
        if name is None:
            advice = "Say with image= which field holds the image"
            raise ArgumentError(f"image: expected an image, got a sample with the fields {', '.join(map(str, sample))}. {advice}")
        return sample[name], str(name)

    def _field(self, sample: Fields, what: str, name: str) -> Any:
        if name not in sample:
            raise ArgumentError(f"{what}: expected a field {name!r}, got a sample with the fields {', '.join(map(str, sample))}")
        return sample[name]

    def _target_in(self, sample: Fields) -> int | None:
        if self._target is None:
            return None
        said = self._target(sample) if callable(self._target) else self._field(sample, "target", self._target)
        digits = isinstance(said, bytes | str) and said.isascii() and said.strip().isdigit()
        number = whole(int(said) if digits else said)
        if number is None or not 0 <= number < self.reader.num_classes:
            raise MismatchError(f"target: expected one of the {self.reader.num_classes} classes of the labels, got {said!r:.80}")
        return number


def _of_batch(batch: Mapping[str, Sequence[Any]]) -> list[Fields]:
    """Return the samples of a mapping of lists; ArgumentError if it is none, or the lists differ in length."""
    if not isinstance(batch, Mapping):
        raise ArgumentError(f"batch: expected a mapping of lists, got {type(batch).__name__}")
    columns = dict(batch.items())
    lengths = {name: len(column) if hasattr(column, "__len__") else None for name, column in columns.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        raise ArgumentError(f"batch: expected a list in each field, all of the same length, got lengths {lengths}")
    return [dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)]


def _open(found: tuple[Any, str]) -> tuple[ImageData, str | os.PathLike[str] | None]:
    """Return an image, or the path of its file as second."""
    image, name = found
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str | os.PathLike):
        return b"", image
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if not isinstance(image, bytes | Image.Image | np.ndarray):
        raise ArgumentError(
            f"image: expected bytes of a file, a path, a PIL image or a uint8 array in {name!r}, got {type(image).__name__}"
        )
    return image, None
