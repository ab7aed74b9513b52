"""What a page says of a label set as a whole, from what `inspect` knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from softlabel_codec.report import FileReport, SetReport
from softlabel_codec.storage.location import shown

UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_SMALL_PART = 0.02
"""Parts of a file below this share are shown together."""


@dataclass(frozen=True)
class Facts:
    """What a page says of a label set.

    Attributes
    ----------
    name, codec : str
        Name of its file or folder; its codec.
    figures : list of (str, str)
        Numbers and what they count.
    identity, provenance : list of (str, str)
        What it is, and what its writer says of it.
    budget : list of (str, int, float)
        Its parts with their bytes and their share, the largest first.
    problems : list of str
        What is wrong with it.
    """

    name: str
    codec: str
    figures: list[tuple[str, str]]
    identity: list[tuple[str, str]]
    provenance: list[tuple[str, str]]
    budget: list[tuple[str, int, float]]
    problems: list[str]


def facts_of(report: FileReport) -> Facts:
    """Return what a page says of a label set."""
    crops = str(report.fewest_crops) if report.fewest_crops == report.most_crops else f"{report.fewest_crops} to {report.most_crops}"
    figures = [
        (f"{report.num_images:,}", "images"),
        (f"{report.num_crops:,}", f"crops, {crops} of each image"),
        (f"{report.num_classes:,}", "classes"),
        (size_of(report.file_bytes), "in all"),
        (f"{report.bytes_per_crop:.2f}", "bytes per crop"),
        (f"{report.bytes_per_image:,.0f}", "bytes per image"),
    ]
    identity = [
        ("path", shown(report.path)),
        *([("shards", str(report.num_shards))] if isinstance(report, SetReport) else []),
        ("format", f"softlabel container {report.format_version}, written by {report.written_by}"),
        ("codec", report.codec),
        ("crops", f"stored as {report.crops}"),
        *_flat({"sampler": report.sampler or {}, "padding": report.padding or {}}),
        *([("skipped", f"{len(report.skipped_keys):,} images that could not be labelled")] if report.skipped_keys else []),
        ("fingerprint", report.fingerprint),
    ]
    return Facts(
        PurePosixPath(shown(report.path)).name.removesuffix(".index.json"),
        report.codec,
        figures,
        identity,
        list(_flat(report.metadata)),
        _budget(report),
        report.problems,
    )


def size_of(num_bytes: int) -> str:
    """Return a size in words.

    Examples
    --------
    >>> size_of(950), size_of(142_014), size_of(2_500_000_000)
    ('950 bytes', '142 kB', '2.5 GB')
    """
    for unit, size in UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested maps as pairs with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _budget(report: FileReport) -> list[tuple[str, int, float]]:
    total = sum(part.file_bytes for part in report.budget) or 1
    parts = sorted(((part.name, part.file_bytes, part.file_bytes / total) for part in report.budget), key=lambda part: -part[1])
    large = [part for part in parts if part[2] >= _SMALL_PART]
    small = sum(size for _, size, share in parts if share < _SMALL_PART)
    return [*large, *([("all else", small, small / total)] if small else [])]
