"""What is this file: identity, codec, provenance, and where its bytes go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softlabel_codec.compress import compressed_sizes
from softlabel_codec.frame import BLOCK_HEAD, TRAILER
from softlabel_codec.pack.columns import grouped
from softlabel_codec.reader import SoftLabelReader

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
    bytes_per_crop : float
        The same, divided by the number of crops.
    """

    name: str
    file_bytes: int
    bytes_per_crop: float


@dataclass(frozen=True)
class FileReport:
    """What a container file is.

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
    num_images, num_crops, num_blocks : int
        What there is.
    fewest_crops, most_crops : int
        Crops per image.
    bytes_per_crop : float
        The whole file divided by its crops.
    budget : list of Part
        Where the bytes go. Columns of blocks are measured on a sample of blocks and scaled to the whole.
    sampled_blocks : int
        Size of that sample.
    metadata : dict
        What the writer's caller wanted to keep.
    skipped_keys : list of str
        Images that were asked for and could not be labelled.
    """

    path: str
    file_bytes: int
    format_version: str
    written_by: str
    fingerprint: str
    codec: str
    num_classes: int
    crops: str
    num_images: int
    num_crops: int
    num_blocks: int
    fewest_crops: int
    most_crops: int
    bytes_per_crop: float
    budget: list[Part]
    sampled_blocks: int
    metadata: dict[str, Any]
    skipped_keys: list[str]


def inspect(path: str | os.PathLike[str], *, sampled_blocks: int = SAMPLED_BLOCKS) -> FileReport:
    """Return what a container file is.

    Raises
    ------
    FormatError
        If it is not a sound container.
    """
    with SoftLabelReader(path) as reader:
        budget, sampled = _budget(reader, sampled_blocks)
        per_image = reader.num_crops
        return FileReport(
            path=str(path),
            file_bytes=reader.trailer.file_length,
            format_version=reader.format_version,
            written_by=reader.written_by,
            fingerprint=reader.fingerprint,
            codec=reader.codec,
            num_classes=reader.num_classes,
            crops=reader.crops,
            num_images=len(reader),
            num_crops=reader.trailer.num_crops,
            num_blocks=reader.trailer.num_blocks,
            fewest_crops=int(per_image.min()) if len(per_image) else 0,
            most_crops=int(per_image.max(initial=0)),
            bytes_per_crop=_per_crop(reader, reader.trailer.file_length),
            budget=budget,
            sampled_blocks=sampled,
            metadata=reader.metadata,
            skipped_keys=list(reader.summary.get("skipped_keys", [])),
        )


def _budget(reader: SoftLabelReader, sampled_blocks: int) -> tuple[list[Part], int]:
    trailer = reader.trailer
    columns: dict[str, float] = {}
    sample = np.unique(np.linspace(0, trailer.num_blocks - 1, min(sampled_blocks, trailer.num_blocks)).astype(int)).tolist()
    for number in sample:
        for name, size in _column_sizes(reader, number):
            columns[name] = columns.get(name, 0.0) + size
    payload = trailer.keys_offset - reader.blocks_offset - BLOCK_HEAD.size * trailer.num_blocks
    measured = sum(columns.values())
    parts = {name: round(size * payload / measured) for name, size in columns.items()}
    framing = parts.pop("frame", 0) + parts.pop("fields", 0) + BLOCK_HEAD.size * trailer.num_blocks
    parts["image sizes"] = parts.pop("images", 0)
    parts["block headers"] = framing
    parts["keys"] = parts.get("keys", 0) + trailer.summary_offset - trailer.keys_offset
    parts["index"] = trailer.trailer_offset - trailer.index_offset
    parts["header and trailer"] = reader.blocks_offset + trailer.index_offset - trailer.summary_offset + TRAILER.size
    return [Part(name, size, _per_crop(reader, size)) for name, size in parts.items()], len(sample)


def _column_sizes(reader: SoftLabelReader, number: int) -> Iterator[tuple[str, float]]:
    """Yield name and compressed size of each column of a block, as our writer would compress it.

    Columns that share a group share its bytes by their length: they are noise and hardly compress.
    """
    groups = grouped(reader.block_columns(number))
    parts = [b"".join(column.data for column in group) for group in groups]
    sizes = compressed_sizes(parts)
    for group, part, size in zip(groups, parts, sizes, strict=False):
        yield from ((column.name, size * len(column.data) / len(part)) for column in group)
    yield "frame", sizes[-1]


def _per_crop(reader: SoftLabelReader, size: int) -> float:
    return size / max(1, reader.trailer.num_crops)
