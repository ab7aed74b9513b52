"""What a labelling run needs before its first batch: images, a teacher on its device, and what labels are stored as."""

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
from softlabel_codec.options.encode import DEFAULT_CROPS, EncodeConfig
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.run import LabelledImage, TeacherRun
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
        The teacher, on its device.
    crops_per_image : int
        How many crops of each image are due.
    description : Description
        What the label file, or each shard of a label set, says of itself.
    choice : CodecChoice or None
        How the codec was chosen, if this run did it.
    labelled : mapping
        Images that were labelled to choose it, by their keys, with the labels of the same batches as in this run.
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

    def with_codec(self, codec: Codec, crops_per_image: int, choice: Mapping[str, Any]) -> Job:
        """Return the same, to be stored in a codec that was chosen. `choice` is what files say of it."""
        metadata = {**self.description.metadata, CODEC_CHOICE: dict(choice), "crops_per_image": crops_per_image}
        return replace(
            self,
            run=self.run.with_codec(codec),
            crops_per_image=crops_per_image,
            description=replace(self.description, codec=codec, metadata=metadata),
        )

    def writer(self, path: Path, partial: Path | None = None) -> SoftLabelWriter:
        """Return a writer of a file with this description, which continues an unfinished one: `partial`, or the usual one."""
        said = self.description
        layout = {"crops": said.crops, "sampler": said.sampler, "image_checksums": said.image_checksums, "padding": said.padding}
        how: dict[str, Any] = {**layout, "resume": True, "overwrite": self.config.overwrite, "partial": partial}
        return SoftLabelWriter(path, said.num_classes, said.codec, said.metadata, **how)

    def other_files(self) -> list[str]:
        """Return the files in a folder of images that are not named like images."""
        return self.source.other_files() if isinstance(self.source, FolderSource) else []


def prepare(config: EncodeConfig) -> Job:
    """Open the images and load the teacher; see `encode` for errors."""
    codec = config.parsed_codec
    source = open_images(config.images)
    keys = unique_keys(source.keys(), name_of(source))
    are_files = _are_files(source, keys)
    teacher = load_teacher(config.teacher, weights=config.teacher_weights, num_classes=config.num_classes, output=config.teacher_output)
    run = TeacherRun(teacher, config, codec)
    crops_per_image = _crops_per_image(config, source, keys)
    metadata = _provenance(teacher, run, config, keys, crops_per_image)
    crops, sampler = ("pixels", None) if config.store_crops else ("derived", config.sampler)
    description = Description(run.num_classes, codec, crops, metadata, {}, sampler, are_files, config.padding)
    return Job(config, source, keys, are_files, run, crops_per_image, description)


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


def _provenance(teacher: Teacher, run: TeacherRun, config: EncodeConfig, keys: Sequence[str], crops: int) -> dict[str, Any]:
    """Return the provenance of the labels for the metadata of the file (spec/container-v1.md, section 4.1)."""
    made_by = {name: value for name in ("weights", "code_sha256") if (value := getattr(teacher, name))}
    return {
        "teacher": {"name": teacher.name, "source": teacher.source, **made_by, "weights_sha256": weights_sha256(teacher.model)},
        "teacher_output": teacher.output,
        **({} if teacher.output == "features" else {"temperature": config.temperature}),
        "precision": run.precision,
        "preprocessing": {
            "size": run.size,
            "interpolation": run.interpolation,
            "mean": list(run.mean),
            "std": list(run.std),
            "exif_orientation": config.exif_orientation,
            "color": COLOR_POLICY,
        },
        "crop_sampler": config.sampler.describe(),
        "crops_per_image": crops,
        "images": {"count": len(keys), "keys_sha256": keys_sha256(key.encode() for key in keys)},
        "package": PACKAGE,
        "libraries": library_versions("numpy", "pillow", "torch"),
    }
