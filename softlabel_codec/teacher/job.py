"""What a labelling run needs before its first batch: images, teachers on their devices, and what labels are stored as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.checks.wording import counted
from softlabel_codec.choosing import CodecChoice
from softlabel_codec.codec import Codec
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageSource, name_of, where_is
from softlabel_codec.images.files import COLOR_POLICY, is_about_the_image, read_size
from softlabel_codec.images.sources import FolderSource, open_images
from softlabel_codec.images.sources.keys import KeyList, unique_keys
from softlabel_codec.options.averaging import weights_of_each
from softlabel_codec.options.encode import DEFAULT_CROPS, EncodeConfig
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.batches import Plan
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.member import Member
from softlabel_codec.teacher.run import LabelledImage, TeacherRun
from softlabel_codec.teacher.stored import StoredCrops
from softlabel_codec.version import PACKAGE, library_versions
from softlabel_codec.writer import SoftLabelWriter

CODEC_CHOICE = "codec_choice"
"""Metadata that say how the codec was chosen."""


@dataclass(frozen=True)
class Job:
    """A labelling run that may begin.

    Attributes
    ----------
    config : EncodeConfig
        Its options.
    source, keys : ImageSource, KeyList
        All images.
    are_files : bool
        Whether images are the bytes of files, which have checksums.
    run : TeacherRun
        The teachers, on their devices.
    crops_per_image : int
        How many crops of each image are due, or of that with most.
    description : Description
        What the label file, or each shard of a label set, says of itself.
    choice : CodecChoice or None
        How the codec was chosen, if this run did it.
    labelled : mapping
        Images that were labelled to choose it, by their keys, with the labels of the same batches as in this run.
    stored : StoredCrops or None
        The labels whose crops are due, if these are not drawn.
    """

    config: EncodeConfig
    source: ImageSource
    keys: KeyList
    are_files: bool
    run: TeacherRun
    crops_per_image: int
    description: Description
    choice: CodecChoice | None = None
    labelled: Mapping[str, LabelledImage] = field(default_factory=dict)
    stored: StoredCrops | None = None

    def plan(self, keys: Sequence[str]) -> Plan:
        """Return which crops of some images go through the teachers together."""
        return Plan(len(keys), self.crops_per_image, self.run.batch_size, None if self.stored is None else self.stored.counts(keys))

    def with_codec(self, codec: Codec, crops_per_image: int, choice: Mapping[str, Any]) -> Job:
        """Return the same, to be stored in a codec that was chosen. `choice` is what files say of it."""
        metadata = {**self.description.metadata, CODEC_CHOICE: dict(choice)}
        if self.is_even:
            metadata["crops_per_image"] = crops_per_image
        return replace(
            self,
            run=self.run.with_codec(codec),
            crops_per_image=crops_per_image,
            description=replace(self.description, codec=codec, metadata=metadata),
        )

    @property
    def is_even(self) -> bool:
        """Whether as many crops are due of each image."""
        return self.stored is None or self.stored.is_even

    @property
    def mean_crops(self) -> int | float:
        """How many crops are due of each image, or on average, if these are different numbers."""
        return self.crops_per_image if self.stored is None or self.is_even else float(self.stored.reader.num_crops.mean())

    def writer(self, path: Path, partial: Path | None = None) -> SoftLabelWriter:
        """Return a writer of a file with this description, which continues an unfinished one: `partial`, or the usual one."""
        said = self.description
        layout = {"crops": said.crops, "sampler": said.sampler, "image_checksums": said.image_checksums, "padding": said.padding}
        how: dict[str, Any] = {**layout, "resume": True, "overwrite": self.config.overwrite, "partial": partial}
        return SoftLabelWriter(path, said.num_classes, said.codec, said.metadata, **how)

    def close(self) -> None:
        """Close the labels whose crops are due, if there are any."""
        if self.stored is not None:
            self.stored.reader.close()

    def other_files(self) -> list[str]:
        """Return the files in a folder of images that are not named like images."""
        return self.source.other_files() if isinstance(self.source, FolderSource) else []


def prepare(config: EncodeConfig) -> Job:
    """Open the images and load the teachers; see `encode` for errors."""
    codec = config.parsed_codec
    source = open_images(config.images)
    keys = unique_keys(source.keys(), name_of(source))
    stored = StoredCrops.open(config)
    if stored is not None:
        config, keys = stored.as_labelled(config), stored.keys(keys, source)
    are_files = _are_files(source, keys)
    if stored is not None:
        stored.check_files(are_files, source)
    run = TeacherRun(_load_teachers(config), config, codec)
    if stored is not None:
        stored.check_classes(run.num_classes, run.name)
    crops_per_image = _crops_per_image(config, source, keys) if stored is None else stored.num_crops
    metadata = _provenance(run, config, keys, crops_per_image, stored)
    crops, sampler = ("pixels", None) if config.store_crops else ("derived", config.sampler)
    description = Description(run.num_classes, codec, crops, metadata, {}, sampler, are_files, config.padding)
    return Job(config, source, keys, are_files, run, crops_per_image, description, stored=stored)


def _load_teachers(config: EncodeConfig) -> list[Teacher]:
    of_each = zip(config.teachers, weights_of_each(config.teachers, config.teacher_weights), strict=True)
    return [load_teacher(text, weights=own, num_classes=config.num_classes, output=config.teacher_output) for text, own in of_each]


def _are_files(source: ImageSource, keys: KeyList) -> bool:
    """Return whether images are the bytes of files, by the first that can be read."""
    for key in keys:
        try:
            return isinstance(source.read(key), bytes)
        except OSError:  # of an image that cannot be read, which later is reported or skipped
            continue
    return True


def _crops_per_image(config: EncodeConfig, source: ImageSource, keys: KeyList) -> int:
    """Return how many crops of each image are due: as many as are asked for, or as the first readable image has views."""
    if isinstance(config.sampler, CropSampler):
        return config.crops or min(DEFAULT_CROPS, config.draws or DEFAULT_CROPS)
    key, size = _first_size(config, source, keys)
    views = config.sampler.num_crops(*config.padding.around(size))
    if not 1 <= views <= MAX_CROPS_PER_IMAGE:
        of_image = f"{views} of {config.sampler.height} x {config.sampler.width} pixels of image {key!r} ({size[0]} x {size[1]})"
        raise ArgumentError(
            f"all views: expected 1 to {MAX_CROPS_PER_IMAGE} of an image, got {of_image} with padding of {config.padding.pixels}"
        )
    return views


def _first_size(config: EncodeConfig, source: ImageSource, keys: KeyList) -> tuple[str, tuple[int, int]]:
    """Return key, height and width of the first image that can be read."""
    for key in keys:
        try:
            return key, read_size(source.read(key), where_is(source, key), config.exif_orientation)
        except OSError as error:
            if not is_about_the_image(error):
                raise
    raise OSError(f"{name_of(source)}: none of {counted(len(keys), 'image')} could be read")


def _provenance(run: TeacherRun, config: EncodeConfig, keys: Sequence[str], crops: int, stored: StoredCrops | None) -> dict[str, Any]:
    """Return the provenance of the labels for the metadata of the file (spec/container-v1.md, section 4.1)."""
    metadata = {
        "teacher": _teacher(run, config, stored),
        "teacher_output": config.teacher_output,
        **({} if config.teacher_output == "features" else {"temperature": config.temperature}),
        "precision": run.precision,
        "preprocessing": {
            **_common([_prepared(member) for member in run.members]),
            "exif_orientation": config.exif_orientation,
            "color": COLOR_POLICY,
        },
        "crop_sampler": config.sampler.describe(),
        "crops_per_image": crops,
        "images": {"count": len(keys), "keys_sha256": keys_sha256(key.encode() for key in keys)},
        "package": PACKAGE,
        "libraries": library_versions("numpy", "pillow", "torch"),
    }
    return metadata if stored is None else stored.in_metadata(metadata)


def _teacher(run: TeacherRun, config: EncodeConfig, stored: StoredCrops | None) -> dict[str, Any]:
    """Return what is known of the teacher, or of each of the teachers whose output is averaged."""
    if len(run.members) == 1 and config.stored_share is None:
        return _known_of(run.members[0].teacher)
    new = 1 - (config.stored_share or 0.0)
    each = [
        {**_known_of(member.teacher), "share": share * new, **_prepared(member)}
        for member, share in zip(run.members, config.shares, strict=True)
    ]
    each = [*(stored.teachers() if stored is not None and config.stored_share is not None else ()), *each]
    joined = {name: " + ".join(str(one.get(name, "unknown")) for one in each) for name in ("name", "source")}
    return {**joined, "average": config.average, "teachers": each}


def _known_of(teacher: Teacher) -> dict[str, Any]:
    made_by = {name: value for name in ("weights", "code_sha256") if (value := getattr(teacher, name))}
    return {"name": teacher.name, "source": teacher.source, **made_by, "weights_sha256": weights_sha256(teacher.model)}


def _prepared(member: Member) -> dict[str, Any]:
    """Return how crops are prepared for a teacher."""
    return {"size": member.size, "interpolation": member.interpolation, "mean": list(member.mean), "std": list(member.std)}


def _common(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that all of some mappings have."""
    return {name: value for name, value in each[0].items() if all(one[name] == value for one in each)}
