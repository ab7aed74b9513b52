"""`slcodec inspect`, `stats`, `verify` and `recover`."""

from __future__ import annotations

import sys
from typing import Any

import click

from softlabel_codec.cli.output import BAD_INPUT, flatten, print_json, print_pairs, print_table, progress_bar
from softlabel_codec.recover import recover
from softlabel_codec.report import FileReport, StatsReport, inspect, stats, verify
from softlabel_codec.report.stats import plot_stats

_PATH = click.Path(exists=True, dir_okay=False)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


@click.command("inspect")
@click.argument("path", type=_PATH)
@_json
def inspect_command(path: str, as_json: bool) -> None:
    """Say what a file is: identity, codec, provenance, and where its bytes go."""
    report = inspect(path)
    if as_json:
        print_json(report)
        return
    print_pairs(_identity(report))
    if report.metadata:
        click.echo("\nProvenance")
        print_pairs((f"  {name}", value) for name, value in flatten(report.metadata))
    click.echo()
    _print_budget(report)


@click.command("stats")
@click.argument("path", type=_PATH)
@click.option(
    "--plot", "picture", type=click.Path(dir_okay=False), help="Draw confidence, kept classes and bytes by column (PNG, PDF, SVG)."
)
@click.option("--images", "max_images", type=click.IntRange(1), default=2000, show_default=True, help="Look at no more images than this.")
@_json
def stats_command(path: str, picture: str | None, max_images: int, as_json: bool) -> None:
    """Say what is in a file: confidence, entropy, classes kept, crops."""
    report = stats(path, max_images=max_images)
    if picture:
        plot_stats(report, picture)
    if as_json:
        print_json(report)
    else:
        _print_stats(report)


@click.command("verify")
@click.argument("path", type=_PATH)
@click.option("--deep", is_flag=True, help="Also decode every label and crop, and compare keys.")
@_json
def verify_command(path: str, deep: bool, as_json: bool) -> None:
    """Check every checksum of a file, and with --deep the meaning of everything in it."""
    with progress_bar("block", quiet=as_json) as progress:
        report = verify(path, deep=deep, progress=progress)
    if as_json:
        print_json(report)
    elif report.ok:
        click.echo(f"{path}: sound: {report.num_images} images in {report.num_blocks} blocks" + (", all decoded" if deep else ""))
    else:
        for problem in report.problems:
            print_pairs([(problem.error, problem.message)])
        click.echo(f"{path}: {len(report.problems)} problem(s); {report.num_images} images in {report.num_blocks} blocks looked at")
    sys.exit(0 if report.ok else BAD_INPUT)


@click.command("recover")
@click.argument("unfinished", type=_PATH)
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def recover_command(unfinished: str, out: str, overwrite: bool) -> None:
    """Make a finished file OUT of what an UNFINISHED or damaged one holds up to its last whole block."""
    result = recover(unfinished, out, overwrite=overwrite)
    click.echo(f"{out}: {result.num_images} images in {result.num_blocks} blocks; {result.unused_bytes} bytes after them were not usable")


def _identity(report: FileReport) -> list[tuple[str, Any]]:
    crops = str(report.fewest_crops) if report.fewest_crops == report.most_crops else f"{report.fewest_crops} to {report.most_crops}"
    skipped = f" ({len(report.skipped_keys)} more could not be labelled)" if report.skipped_keys else ""
    return [
        ("file", report.path),
        ("format", f"softlabel container {report.format_version}, written by {report.written_by}"),
        ("codec", report.codec),
        ("classes", report.num_classes),
        ("images", f"{report.num_images}{skipped}"),
        ("crops", f"{report.num_crops} ({crops} per image), as {report.crops}"),
        ("size", f"{report.file_bytes} bytes, {report.bytes_per_crop:.2f} per crop, in {report.num_blocks} blocks"),
        ("fingerprint", report.fingerprint),
        ("health", "header, metadata, index and trailer are sound ('slcodec verify' checks the rest)"),
    ]


def _print_budget(report: FileReport | StatsReport) -> None:
    total = sum(part.file_bytes for part in report.budget) or 1
    rows = [(part.name, part.file_bytes, f"{part.bytes_per_crop:.3f}", f"{part.file_bytes / total:.1%}") for part in report.budget]
    rows.sort(key=lambda row: -row[1])
    per_crop = sum(part.bytes_per_crop for part in report.budget)
    print_table("Where the bytes go", ["column", "bytes", "per crop", "share"], [*rows, ("together", total, f"{per_crop:.3f}", "100.0%")])


def _print_stats(report: StatsReport) -> None:
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
    click.echo(f"{on_top}; {report.flipped:.1%} of the crops are mirrored\n")
    _print_budget(report)
