"""The crops of an existing label file, to be labelled by another teacher, and its labels, to be averaged with new ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, FormatError, MismatchError, SoftLabelError, StateError
from softlabel_codec.image_source import ImageData, name_of
from softlabel_codec.images.files import agreed_exif_orientation, check_image, crops_in_pixels
from softlabel_codec.images.sources.keys import KeyList, unique_keys
from softlabel_codec.label_set.index_file import SUFFIX
from softlabel_codec.labels import ImageLabels
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.padding import NO_PADDING
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.storage.location import location

_OF_LABELS = ("teacher_output", "precision", "libraries", "merged_from")
"""Metadata of labels that are kept of each of their teachers."""


class UnlikeStoredError(Exception):
    """Stored crops cannot be cut out of an image: `reason` says why, an error for the caller of the run."""

    def __init__(self, reason: SoftLabelError | OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class StoredCrops:
    """The crops of a label file or set.

    Attributes
    ----------
    reader : SoftLabelReader
        The open file or set.
    share : float or None
        Share of its labels in the average with new ones; None: they are not averaged.
    """

    reader: SoftLabelReader
    share: float | None = None

    @classmethod
    def open(cls, config: EncodeConfig) -> StoredCrops | None:
        """Return the crops that a run is to label, if it is to label stored ones.

        Raises
        ------
        ArgumentError
            If other crops are asked for as well, or the labels would replace themselves.
        MismatchError
            If it is not known which crops the labels belong to; or if they cannot be averaged: they have no probabilities at this
            temperature.
        FormatError, OSError
            If the labels cannot be read.
        """
        if config.crops_of is None:
            return None
        if config.sampler != CropSampler() or config.padding != NO_PADDING:
            raise ArgumentError(f"crops_of: sampler and padding are those of {config.crops_of}. Leave out options for crops and padding")
        reader = SoftLabelReader(config.crops_of)
        try:
            _refuse_itself(reader, config.out)
            reader.check_crops_known()
            return cls(reader) if config.stored_share is None else cls(_at_temperature(reader, config), config.stored_share)
        except BaseException:
            reader.close()
            raise

    @property
    def num_crops(self) -> int:
        """How many crops the image with most has."""
        return int(self.reader.num_crops.max(initial=0))

    @property
    def is_even(self) -> bool:
        """Whether all images have as many crops."""
        return bool((self.reader.num_crops == self.num_crops).all())

    def counts(self, keys: Sequence[str]) -> NDArray[np.int64] | None:
        """Return how many crops images have, int64 (len(keys),); None if all have as many."""
        return None if self.is_even else np.asarray(self.reader.num_crops[self.reader.find(keys)], np.int64)

    def as_labelled(self, config: EncodeConfig) -> EncodeConfig:
        """Return the options of a run with sampler, padding and EXIF orientation as these crops had; MismatchError if others are wanted."""
        wanted = None if config.exif_orientation == "ignored" else config.exif_orientation
        turned = agreed_exif_orientation(wanted, _map(self.reader.metadata.get("preprocessing")).get("exif_orientation"), self.reader.path)
        how: dict[str, Any] = {"padding": self.reader.padding, "exif_orientation": turned}
        if self.reader.sampler is None:
            return replace(config, store_crops=True, **how)
        return replace(config, **how, sampler=self.reader.sampler)  # type: ignore[arg-type]

    def keys(self, there: KeyList, source: Any) -> KeyList:
        """Return the keys of all images, in order; MismatchError unless all of them are `there`, which are those of a source of images."""
        keys = unique_keys(self.reader.keys, str(self.reader.path))
        missing = [key for key in keys if key not in there]
        if missing:
            expected = f"expected all of {counted(len(keys), 'image')} of {self.reader.path}"
            first = f"{len(missing)} are missing, {missing[0]!r} first"
            advice = "Name images by the same paths, or choose labels of these images with 'slcodec copy'"
            raise MismatchError(f"{name_of(source)}: {expected}, {first}. {advice}")
        return keys

    def check_files(self, are_files: bool, source: Any) -> None:
        """Raise MismatchError if images are no files, but the labels hold checksums of files."""
        if self.reader.image_checksums and not are_files:
            what = f"expected files of images, as {self.reader.path} has their checksums, got pixels"
            raise MismatchError(f"{name_of(source)}: {what}")

    def read(self, key: str, image: ImageData, numbers: Sequence[int]) -> ImageLabels:
        """Return stored crops and labels of an image.

        Raises
        ------
        UnlikeStoredError
            If it is not the image that was labelled, or they cannot be read.
        """
        try:
            labelled = self.reader.read(key, numbers)
            if isinstance(image, bytes):
                check_image(image, labelled, key, str(self.reader.path))
        except (FormatError, MismatchError, StateError, OSError) as error:
            raise UnlikeStoredError(error) from None
        return labelled

    def crops(self, key: str, labelled: ImageLabels, size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops in pixels, int64 (n, 4), and flips, bool (n,), for an image of that height and width.

        Raises
        ------
        UnlikeStoredError
            If the image that was labelled had another size.
        """
        try:
            return crops_in_pixels(labelled, size, key, str(self.reader.path)), labelled.flips
        except MismatchError as error:
            raise UnlikeStoredError(error) from None

    def probs(self, labelled: ImageLabels) -> NDArray[np.float32] | None:
        """Return stored probabilities of crops, float32 (n, C), if new ones are to be averaged with them."""
        if self.share is None:
            return None
        probs = labelled.labels.dense().astype(np.float64)
        return np.asarray(probs / probs.sum(axis=1, keepdims=True), np.float32)  # 16-bit floats do not quite sum to 1

    def check_classes(self, num_classes: int, teacher: str) -> None:
        """Raise MismatchError if labels are to be averaged that have another number of classes than a teacher."""
        if self.share is not None and num_classes != self.reader.num_classes:
            found = f"{self.reader.num_classes} of {self.reader.path}, {num_classes} of {teacher}"
            raise MismatchError(f"stored_share: expected the same number of classes, got {found}. They cannot be averaged")

    def in_metadata(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata of labels of these crops: what a run says, and what it has from here."""
        said, own = self.reader.metadata, dict(metadata)
        if not self.is_even:
            del own["crops_per_image"]
        if self.reader.sampler is None:
            del own["crop_sampler"]
            own |= {name: said[name] for name in ("crop_sampler",) if name in said}
        return {**own, "crops_of": {"fingerprint": self.reader.fingerprint}}

    def teachers(self) -> list[dict[str, Any]]:
        """Return what is known of the teachers whose average the stored labels are; their shares sum to the share of these labels.

        Each says `stored_as`, the codecs that its output has been stored in. An average of logits stays one entry, which lists its
        teachers.
        """
        said = self.reader.metadata
        teacher, prepared = _map(said.get("teacher")), _map(said.get("preprocessing"))
        stored_as, share = [*_list(said.get("transcoded_from")), self.reader.codec], self.share or 0.0
        of_file = {name: said[name] for name in _OF_LABELS if name in said}
        each = teachers_with_shares(teacher) if teacher.get("average") == "probs" else []
        if each:
            return [
                {**of_file, **one, "share": one["share"] * share, "stored_as": [*_list(one.get("stored_as")), *stored_as]} for one in each
            ]
        known = {name: prepared[name] for name in ("size", "interpolation", "mean", "std") if name in prepared}
        return [{"name": self.reader.path.name, **teacher, **known, **of_file, "share": self.share, "stored_as": stored_as}]


def teachers_with_shares(teacher: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what metadata say of each teacher whose average labels are; none unless they say the share of each, a number above 0."""
    each = [_map(one) for one in _list(teacher.get("teachers"))]
    shares = [one.get("share") for one in each]
    known = all(isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < math.inf for share in shares)
    return each if known else []


def _at_temperature(reader: SoftLabelReader, config: EncodeConfig) -> SoftLabelReader:
    """Return labels at the temperature of a run, exactly; MismatchError if they are not known at it."""
    path, wanted = reader.path, config.temperature
    if reader.parsed_codec.content == "features":
        raise MismatchError(f"{path}: expected probabilities to average with, got features")
    if reader.parsed_codec.content != "logits" and reader.stored_temperature not in (None, wanted):
        had = f"expected labels at temperature {wanted:g}, as the new ones, got labels at {reader.stored_temperature:g}"
        raise MismatchError(f"{path}: {had}. Pass temperature={reader.stored_temperature:g} (--temperature)")
    if reader.parsed_codec.content != "logits":
        return reader
    reader.close()
    return SoftLabelReader(path, temperature=wanted)


def _refuse_itself(reader: SoftLabelReader, out: str) -> None:
    """Raise ArgumentError if labels would be replaced by those that are made of them."""
    path, there = reader.path, location(out)
    whole = path.parent if path.name.endswith(SUFFIX) else path
    one, other = (str(place.resolve() if isinstance(place, Path) else place).rstrip("/") for place in (whole, there))
    if one == other:
        raise ArgumentError(f"crops_of: expected other labels than those that are to be written, got {reader.path}. Choose another OUT")


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
