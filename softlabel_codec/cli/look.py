"""`slcodec inspect`, `stats`, `verify` and `recover`."""

from __future__ import annotations

import sys

import click

from softlabel_codec.cli.output import BAD_INPUT, print_json, print_pairs, progress_bar
from softlabel_codec.cli.tables import show_inspection, show_stats
from softlabel_codec.recover import recover
from softlabel_codec.report import inspect, stats, verify
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
    else:
        show_inspection(report)
    sys.exit(BAD_INPUT if report.problems else 0)


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
        show_stats(report)


@click.command("verify")
@click.argument("path", type=_PATH)
@click.option("--deep", is_flag=True, help="Also decode every label and crop, and compare keys.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False),
    help="Also look whether the images in this folder are those that were labelled.",
)
@_json
def verify_command(path: str, deep: bool, images: str | None, as_json: bool) -> None:
    """Check every checksum of a file, with --deep the meaning of everything in it, and with --images that it belongs to them."""
    with progress_bar("block", quiet=as_json) as progress:
        report = verify(path, deep=deep, images=images, progress=progress)
    if as_json:
        print_json(report)
    elif report.ok:
        click.echo(f"{path}: sound: {report.num_images} images in {report.num_blocks} blocks" + (", all decoded" if deep else ""))
        if images is not None:
            what = "sizes and checksums" if report.checksums else "sizes; the labels keep no checksums"
            click.echo(f"{images}: {report.compared_images} images are those that were labelled ({what})")
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
    """Make a finished file OUT of all sound blocks of a damaged file, or of the whole blocks of an UNFINISHED one."""
    result = recover(unfinished, out, overwrite=overwrite)
    if result.lost_keys is None:
        rest = f"{result.unused_bytes} bytes after them were not usable"
    else:
        rest = f"{len(result.lost_keys)} images in damaged blocks ({result.unused_bytes} bytes) are lost"
        for key in result.lost_keys:
            print_pairs([("lost", key)])
    click.echo(f"{out}: {result.num_images} images in {result.num_blocks} blocks; {rest}")
