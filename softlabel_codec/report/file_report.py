"""Describes a file: identity, codec, provenance, and bytes by column."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softlabel_codec.block.columns import Column, grouped, much_text
from softlabel_codec.container.framing import BLOCK_HEAD, HEADER, TRAILER
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import BlockScan, read_beginning
from softlabel_codec.container.sources import open_source
from softlabel_codec.container.zstd_frames import compressed_sizes
from softlabel_codec.errors import FormatError
from softlabel_codec.storage.location import shown

Sizes = dict[str, float]

SAMPLED_BLOCKS = 64


@dataclass(frozen=True)
class Part:
    """Some bytes of a file.

    Attributes
    ----------
    name : str
        What they are.
    file_bytes : int
        How many there are in the file.
    bytes_per_crop, bytes_per_image : float
        The same, divided by the number of crops, and of images.
    """

    name: str
    file_bytes: int
    bytes_per_crop: float
    bytes_per_image: float


@dataclass(frozen=True)
class FileReport:
    """Description of a container file.

    Attributes
    ----------
    path : str
        The file.
    file_bytes : int
        Its size.
    format_version : str
        Version of the container format.
    written_by : str
        Program that wrote it.
    fingerprint : str
        64 hex digits that differ if anything in the file differs.
    codec, num_classes, crops
        How labels and crops are stored.
    sampler : dict or None
        Where derived crops come from: name and parameters.
    padding : dict or None
        How images are enlarged before they are cropped: `pixels`, `mode` and `fill`.
    num_images, num_crops, num_blocks : int
        Contents of the file.
    fewest_crops, most_crops : int
        Crops per image.
    bytes_per_crop, bytes_per_image : float
        The whole file divided by its crops, and by its images.
    budget : list of Part
        Bytes of each part of the file. Columns of blocks are measured on a sample of blocks and scaled to the whole.
    sampled_blocks : int
        Size of that sample.
    metadata : dict
        What the writer's caller passed.
    skipped_keys : list of str
        Images that were requested and could not be labelled.
    finished : bool
        Whether the file has a valid index and trailer; if not, everything here is about the whole blocks at its beginning.
    problems : list of str
        Problems in the parts that were read.
    """

    path: str
    file_bytes: int
    format_version: str
    written_by: str
    fingerprint: str
    codec: str
    num_classes: int
    crops: str
    sampler: dict[str, Any] | None
    padding: dict[str, Any] | None
    num_images: int
    num_crops: int
    num_blocks: int
    fewest_crops: int
    most_crops: int
    bytes_per_crop: float
    bytes_per_image: float
    budget: list[Part]
    sampled_blocks: int
    metadata: dict[str, Any]
    skipped_keys: list[str]
    finished: bool
    problems: list[str]


def inspect_file(path: str | os.PathLike[str], sampled_blocks: int = SAMPLED_BLOCKS) -> FileReport:
    """Return a description of a container file; of an unfinished or damaged one, from its beginning and its valid blocks.

    Raises
    ------
    FormatError
        If header or metadata are damaged.
    """
    try:
        container = OpenContainer(path)
    except FormatError as error:
        return _inspect_beginning(path, error, sampled_blocks)
    with container:
        return replace(describe(container, sampled_blocks), path=shown(path))


def describe(container: OpenContainer, sampled_blocks: int) -> FileReport:
    """Return a description of an open file, for which so many of its blocks are read."""
    trailer, description, num_crops = container.trailer, container.description, container.index.num_crops
    budget, sampled, problems = _budget(container, sampled_blocks)
    return FileReport(
        path=str(container.path),
        file_bytes=trailer.file_length,
        format_version=container.beginning.header.version,
        written_by=description.written_by,
        fingerprint=container.fingerprint,
        **how_stored(description),
        num_images=trailer.num_images,
        num_crops=trailer.num_crops,
        num_blocks=trailer.num_blocks,
        fewest_crops=int(num_crops.min()) if trailer.num_images else 0,
        most_crops=int(num_crops.max(initial=0)),
        bytes_per_crop=share(trailer.file_length, trailer.num_crops),
        bytes_per_image=share(trailer.file_length, trailer.num_images),
        budget=budget,
        sampled_blocks=sampled,
        metadata=description.metadata,
        skipped_keys=list(container.summary.get("skipped_keys", [])),
        finished=True,
        problems=problems,
    )


def how_stored(description: Description) -> dict[str, Any]:
    """Return how labels and crops of a file are stored."""
    return {
        "codec": str(description.codec),
        "num_classes": description.num_classes,
        "crops": description.crops,
        "sampler": None if description.sampler is None else description.sampler.describe(),
        "padding": description.padding.describe() if description.padding else None,
    }


def _inspect_beginning(path: str | os.PathLike[str], problem: FormatError, sampled_blocks: int) -> FileReport:
    """Return a description from the beginning of a file whose end is damaged or missing."""
    source = open_source(path)
    try:
        beginning = read_beginning(source)
        description = beginning.description
        columns: Sizes = {}
        counts, num_blocks, whole_bytes = [0], 0, 0
        for block in BlockScan(source, beginning).prefix():
            if num_blocks < sampled_blocks:
                _add_sizes(columns, description.layout.pack(block.images))
            counts += block.images.num_crops.tolist()
            num_blocks, whole_bytes = num_blocks + 1, whole_bytes + len(block.data)
        parts = _block_parts(columns, whole_bytes, num_blocks)
        parts["header"], parts["metadata"] = HEADER.size, beginning.header.metadata_length
        parts["not in whole blocks"] = source.length - len(beginning.data) - whole_bytes
        num_crops = sum(counts)
        return FileReport(
            path=shown(path),
            file_bytes=source.length,
            format_version=beginning.header.version,
            written_by=description.written_by,
            fingerprint="",
            **how_stored(description),
            num_images=len(counts) - 1,
            num_crops=num_crops,
            num_blocks=num_blocks,
            fewest_crops=min(counts[1:], default=0),
            most_crops=max(counts),
            bytes_per_crop=share(source.length, num_crops),
            bytes_per_image=share(source.length, len(counts) - 1),
            budget=budget_of(parts, len(counts) - 1, num_crops),
            sampled_blocks=min(num_blocks, sampled_blocks),
            metadata=description.metadata,
            skipped_keys=[],
            finished=False,
            problems=[str(problem)],
        )
    finally:
        source.close()


def _budget(container: OpenContainer, sampled_blocks: int) -> tuple[list[Part], int, list[str]]:
    """Return the bytes of each part, the number of blocks measured, and the problems of other blocks in the sample."""
    trailer, blocks_offset = container.trailer, container.beginning.blocks_offset
    columns: Sizes = {}
    problems = []
    sample = np.unique(np.linspace(0, trailer.num_blocks - 1, min(sampled_blocks, trailer.num_blocks)).astype(int)).tolist()
    for number in sample:
        try:
            _add_sizes(columns, container.columns(number))
        except FormatError as error:
            problems.append(str(error))
    parts = _block_parts(columns, trailer.keys_offset - blocks_offset, trailer.num_blocks)
    parts["keys"] = parts.get("keys", 0) + trailer.summary_offset - trailer.keys_offset
    parts["index"] = trailer.copy_offset - trailer.index_offset
    parts["metadata"] = blocks_offset - HEADER.size
    parts["copy of header and metadata"] = trailer.trailer_offset - trailer.copy_offset
    parts["summary"] = trailer.index_offset - trailer.summary_offset
    parts["header and trailer"] = HEADER.size + TRAILER.size
    return budget_of(parts, trailer.num_images, trailer.num_crops), len(sample) - len(problems), problems


def _add_sizes(sizes: Sizes, columns: Sequence[Column]) -> None:
    """Add the compressed size of each column of a block, as this package's writer would compress it.

    Columns that share a group share its bytes by their length: they are noise and hardly compress.
    """
    groups = grouped(columns)
    parts = [b"".join(column.data for column in group) for group in groups]
    compressed = compressed_sizes(parts, text=much_text(columns))
    for group, part, size in zip(groups, parts, compressed, strict=False):
        for column in group:
            sizes[column.name] = sizes.get(column.name, 0.0) + size * len(column.data) / len(part)
    sizes["frame"] = sizes.get("frame", 0.0) + compressed[-1]


def _block_parts(columns: Sizes, blocks_bytes: int, num_blocks: int) -> dict[str, int]:
    """Return the bytes of all blocks by column, from the columns of some of them."""
    heads = BLOCK_HEAD.size * num_blocks
    scale = (blocks_bytes - heads) / (sum(columns.values()) or 1)
    parts = {name: round(size * scale) for name, size in columns.items()}
    framing = parts.pop("frame", 0) + parts.pop("fields", 0) + heads
    image_sizes = parts.pop("images", 0)
    return {**parts, "image sizes": image_sizes, "block headers": framing}


def budget_of(sizes: Mapping[str, int], num_images: int, num_crops: int) -> list[Part]:
    """Return the parts of a file that has so many images and crops, from their sizes in bytes."""
    return [Part(name, size, share(size, num_crops), share(size, num_images)) for name, size in sizes.items()]


def share(size: int, number: int) -> float:
    """Return a size divided by a number of crops or images, which may be 0."""
    return size / max(1, number)
