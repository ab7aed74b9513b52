"""Reports as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from softlabel_codec.cli.output import print_pairs, print_table
from softlabel_codec.report import FileReport, StatsReport

MOST_SKIPPED = 10


def show_inspection(report: FileReport) -> None:
    """Print what `inspect` found: identity, provenance and where the bytes go."""
    print_pairs(_identity(report))
    if report.metadata:
        click.echo("\nProvenance")
        print_pairs((f"  {name}", value) for name, value in _flatten(report.metadata))
    click.echo()
    _show_budget(report)


def show_stats(report: StatsReport) -> None:
    """Print what `stats` found: how sure the teacher is, what is kept of its labels, and where the bytes go."""
    sample = f"{report.sampled_crops} crops of {report.sampled_images} of {report.num_images} images"
    click.echo(f"{report.codec}, {report.num_classes} classes: {sample}\n")
    quantities = {
        "confidence (top class)": report.confidence,
        "entropy in nats": report.entropy,
        "classes kept": report.kept_classes,
        "remainder": report.remainder,
        "top classes per image": report.top1_classes_per_image,
        "agreement on the top class": report.top1_agreement,
        "crop area / image area": report.crop_area,
    }
    levels = list(report.confidence.quantiles)
    rows = [(name, f"{values.mean:.3f}", *(f"{values.quantiles[level]:.3f}" for level in levels)) for name, values in quantities.items()]
    print_table("Per crop, or per image", ["quantity", "mean", *levels], rows)
    on_top = f"{report.top1_classes_seen} of {report.num_classes} classes are on top of some crop"
    click.echo(f"{on_top}; {report.flipped:.1%} of the crops are mirrored")
    click.echo(f"{sum(part.bytes_per_crop for part in report.budget):.2f} bytes per crop ('slcodec inspect' says where they go)")


def _identity(report: FileReport) -> list[tuple[str, Any]]:
    crops = str(report.fewest_crops) if report.fewest_crops == report.most_crops else f"{report.fewest_crops} to {report.most_crops}"
    skipped = f" ({len(report.skipped_keys)} more could not be labelled)" if report.skipped_keys else ""
    return [
        ("file", report.path),
        ("format", f"softlabel container {report.format_version}, written by {report.written_by}"),
        ("codec", report.codec),
        ("classes", report.num_classes),
        ("images", f"{report.num_images}{skipped}" + ("" if report.finished else " in the whole blocks at the beginning of the file")),
        ("crops", f"{report.num_crops} ({crops} per image), as {report.crops}"),
        ("size", f"{report.file_bytes} bytes, {report.bytes_per_crop:.2f} per crop, in {report.num_blocks} blocks"),
        *(("skipped", key) for key in report.skipped_keys[:MOST_SKIPPED]),
        *([("fingerprint", report.fingerprint)] if report.finished else []),
        *(("problem", problem) for problem in report.problems),
        *([] if report.problems else [("health", "header, metadata, index and trailer are sound ('slcodec verify' checks the rest)")]),
    ]


def _show_budget(report: FileReport) -> None:
    total = sum(part.file_bytes for part in report.budget) or 1
    rows = [(part.name, part.file_bytes, f"{part.bytes_per_crop:.3f}", f"{part.file_bytes / total:.1%}") for part in report.budget]
    rows.sort(key=lambda row: -row[1])
    per_crop = sum(part.bytes_per_crop for part in report.budget)
    print_table("Where the bytes go", ["column", "bytes", "per crop", "share"], [*rows, ("together", total, f"{per_crop:.3f}", "100.0%")])


def _flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield nested maps as pairs with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
