"""Describes a label set: what the description of a file says, of all shards together, and which shards there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softlabel_codec.errors import FormatError, MismatchError, TruncatedError
from softlabel_codec.label_set.finding import UnfinishedSet
from softlabel_codec.label_set.open_set import OpenSet
from softlabel_codec.report.file_report import SAMPLED_BLOCKS, FileReport, budget_of, describe, how_stored, inspect_file, share
from softlabel_codec.storage.location import Location, Url, joined
from softlabel_codec.storage.objects import names_in

MOST_READ = 256
"""How many shards of a finished set are opened."""


@dataclass(frozen=True)
class SetReport(FileReport):
    """Description of a label set. What a `FileReport` says of a file is that of all shards together.

    The number of blocks, and the bytes of parts and columns, are measured on the shards that were read, and scaled to all. Skipped keys
    are those of the shards that were read.

    Attributes
    ----------
    num_shards : int
        How many shards the set has, or is to have.
    smallest_shard_bytes, largest_shard_bytes : int
        The extremes of their lengths; of an unfinished set, those of the finished ones.
    read_shards : int
        How many shards were read for this: all, or 256 of a set with more.
    begun_shards : list of int
        Of an unfinished set, the shards that are being made or were left unfinished.
    missing_shards : list of int
        Shards that are not there.
    """

    num_shards: int
    smallest_shard_bytes: int
    largest_shard_bytes: int
    read_shards: int
    begun_shards: list[int]
    missing_shards: list[int]


def inspect_set(index: Location, sampled_blocks: int = SAMPLED_BLOCKS) -> SetReport:
    """Return a description of a label set, from its index and up to 256 of its shards.

    Raises
    ------
    FormatError
        If the index is not sound.
    """
    labels = OpenSet(index)
    shards, each = labels.index.shards, labels.index.crops_per_image
    there = _names(index.parent)
    missing = [number for number, shard in enumerate(shards) if there is not None and shard.file not in there]
    problems = [f"{joined(index.parent, shards[number].file)}: shard {number} is not there" for number in missing]
    chosen = _evenly(sorted(set(range(len(shards))) - set(missing)), MOST_READ)
    found: list[FileReport] = []
    for number in chosen:
        try:
            found.append(describe(labels.shards[number], _share(sampled_blocks, chosen)))
        except (FormatError, MismatchError, OSError) as error:
            problems.append(str(error))
    labels.close()
    together = _together(found, labels.num_bytes - labels.index_bytes, labels.num_images, labels.total_crops)
    together["budget"] += budget_of({"index of the set": labels.index_bytes}, labels.num_images, labels.total_crops)
    together["problems"] = problems + together["problems"]
    if each is not None:
        together |= {"fewest_crops": each, "most_crops": each}
    return SetReport(
        path=str(index),
        file_bytes=labels.num_bytes,
        fingerprint=labels.fingerprint,
        **how_stored(labels.description),
        num_images=labels.num_images,
        num_crops=labels.total_crops,
        bytes_per_crop=share(labels.num_bytes, labels.total_crops),
        bytes_per_image=share(labels.num_bytes, labels.num_images),
        metadata=labels.description.metadata,
        finished=True,
        num_shards=len(shards),
        smallest_shard_bytes=min(shard.bytes for shard in shards),
        largest_shard_bytes=max(shard.bytes for shard in shards),
        begun_shards=[],
        missing_shards=missing,
        **together,
    )


def _names(folder: Location) -> set[str] | None:
    """Return the names of all files in a folder; None if it is a prefix of URLs that may not be listed."""
    try:
        return set(names_in(folder))
    except OSError:
        if isinstance(folder, Url):
            return None
        raise


def inspect_unfinished(labels: UnfinishedSet, sampled_blocks: int = SAMPLED_BLOCKS) -> SetReport:
    """Return a description of what there is of an unfinished set: all finished shards, and the whole blocks of those that were begun.

    Raises
    ------
    TruncatedError
        If there is nothing that says what the set is to be.
    """
    files = sorted([*labels.finished.items(), *labels.partial.items()])
    found: list[FileReport] = []
    problems = []
    for _, file in files:
        try:
            found.append(inspect_file(file, _share(sampled_blocks, files)))
        except (FormatError, OSError) as error:
            problems.append(str(error))
    what = f"{labels.folder}: an unfinished label set: {labels}"
    if not found:
        raise TruncatedError(f"{what}, and no shard says what it is to be")
    first, num_crops, num_images = found[0], sum(report.num_crops for report in found), sum(report.num_images for report in found)
    for report in found[1:]:
        if _origin(report) != _origin(first):
            problems.append(
                f"{report.path}: expected the codec and the metadata of {Path(first.path).name}, as in one label set, got others"
            )
    file_bytes = sum(report.file_bytes for report in found)
    together = _together(found, file_bytes, num_images, num_crops)
    unfinished = [problem for report in found if report.finished for problem in report.problems]
    lengths = [report.file_bytes for report in found if report.finished] or [0]
    return SetReport(
        **{
            **vars(first),
            **together,
            "path": str(labels.folder / labels.name),
            "file_bytes": file_bytes,
            "fingerprint": "",
            "num_images": num_images,
            "num_crops": num_crops,
            "bytes_per_crop": share(file_bytes, num_crops),
            "bytes_per_image": share(file_bytes, num_images),
            "finished": False,
            "problems": [what, *problems, *unfinished],
        },
        num_shards=labels.num_shards,
        smallest_shard_bytes=min(lengths),
        largest_shard_bytes=max(lengths),
        begun_shards=sorted(labels.partial),
        missing_shards=labels.missing,
    )


def _origin(report: FileReport) -> tuple[Any, ...]:
    return report.codec, report.num_classes, report.crops, report.sampler, report.padding, report.metadata


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers)))
    return [numbers[place] for place in np.unique(places.astype(int)).tolist()]


def _share(blocks: int, files: Sequence[Any]) -> int:
    return max(1, blocks // max(1, len(files)))


def _together(reports: Sequence[FileReport], file_bytes: int, num_images: int, num_crops: int) -> dict[str, Any]:
    """Return what several files have together: numbers of bytes and blocks scaled to so many bytes, per image and crop of so many."""
    scale = file_bytes / max(1, sum(report.file_bytes for report in reports))
    sizes: dict[str, int] = {}
    for report in reports:
        for part in report.budget:
            sizes[part.name] = sizes.get(part.name, 0) + part.file_bytes
    with_images = [report for report in reports if report.num_images]
    scaled = {name: round(size * scale) for name, size in sizes.items()}
    return {
        "format_version": reports[0].format_version if reports else "",
        "written_by": reports[0].written_by if reports else "unknown",
        "num_blocks": round(sum(report.num_blocks for report in reports) * scale),
        "fewest_crops": min((report.fewest_crops for report in with_images), default=0),
        "most_crops": max((report.most_crops for report in with_images), default=0),
        "budget": budget_of(scaled, num_images, num_crops),
        "sampled_blocks": sum(report.sampled_blocks for report in reports),
        "skipped_keys": [key for report in reports for key in report.skipped_keys],
        "problems": [problem for report in reports for problem in report.problems],
        "read_shards": len(reports),
    }
