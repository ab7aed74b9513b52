"""Parts of a label set that is being made: label files of some images each, in the order in which they were labelled.

A part is whole or no label file, and says which images it holds. So the parts that are there tell what is left to do after anything
was killed, and an image that two parts hold, because a task ran twice, is taken from one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data.datasource import RowBasedFileDatasink

from softlabel_codec.container.metadata import Description, difference
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.output_stream import Writable
from softlabel_codec.errors import FormatError, MismatchError
from softlabel_codec.ray.folders import SharedFolder
from softlabel_codec.writer import SoftLabelWriter

PARTS_SUFFIX = ".parts"
_AT_A_TIME = 32
"""Parts that a task looks into."""
logger = logging.getLogger(__name__)


def description_of_parts(description: Description, images: Mapping[str, Any] | None = None) -> Description:
    """Return a description without what is only known when all images are, or with that."""
    return replace(description, metadata={**description.metadata, "images": dict(images or {})})


def new_writer(file: Path | Writable, said: Description) -> SoftLabelWriter:
    """Return a writer of a file with this description, which replaces what is there."""
    layout: dict[str, Any] = {
        "crops": said.crops,
        "sampler": said.sampler,
        "image_checksums": said.image_checksums,
        "padding": said.padding,
        "overwrite": isinstance(file, Path),
    }
    return SoftLabelWriter(file, said.num_classes, said.codec, said.metadata, **layout)


class PartsDatasink(RowBasedFileDatasink):  # type: ignore[misc]  # of a library without types
    """Writes each row of a column `part` to a file."""

    def __init__(self, folder: SharedFolder) -> None:
        super().__init__(folder.path, filesystem=folder.filesystem, file_format="slc")

    def write_row_to_file(self, row: Mapping[str, Any], file: Writable) -> None:
        file.write(row["part"])


@dataclass(frozen=True)
class Part:
    """What is in a part.

    Attributes
    ----------
    name : str
        Its file.
    keys : pyarrow.LargeBinaryArray
        Keys of its images, in order, as UTF-8.
    skipped : list of str
        Keys of images that could not be read.
    """

    name: str
    keys: Any
    skipped: list[str]


def read_parts(folder: SharedFolder, known: Sequence[Part], expected: Description, discard_others: bool) -> list[Part]:
    """Return what is in all whole parts in a folder, by tasks on the cluster; those that are known are not read again.

    Raises
    ------
    MismatchError
        If a part has another description than expected, and those are not to be left out.
    """
    by_name = {part.name: part for part in known}
    names = [name for name in folder.files() if name not in by_name]
    read = ray.remote(_read_parts)
    tasks = [read.remote(folder, names[start : start + _AT_A_TIME], expected, discard_others) for start in range(0, len(names), _AT_A_TIME)]
    found = [part for parts in ray.get(tasks) for part in parts]
    return sorted([*known, *found], key=lambda part: part.name)


def _read_parts(folder: SharedFolder, names: Sequence[str], expected: Description, discard_others: bool) -> list[Part]:
    return [part for name in names if (part := _read_part(folder, name, expected, discard_others)) is not None]


def _read_part(folder: SharedFolder, name: str, expected: Description, discard_others: bool) -> Part | None:
    try:
        with opened(folder, name) as part:
            part.check_sha256()
            found = replace(part.description, other={})
            if found == expected:
                return Part(name, pa.array(part.keys.raw(), pa.large_binary()), part.summary.get("skipped_keys", []))
    except FormatError as error:  # of a task that was killed; its images are labelled again
        logger.warning("%s/%s: is left out: %s", folder, name, error)
        return None
    if discard_others:
        return None
    differs = difference(found, expected)
    advice = "Pass the same, or label all images again with overwrite=True"
    raise MismatchError(f"{folder}: was started with other options: {differs}. {advice}")


@contextmanager
def opened(folder: SharedFolder, name: str) -> Iterator[OpenContainer]:
    """Open a part."""
    with folder.reading(name) as path, OpenContainer(path) as part:
        yield part
