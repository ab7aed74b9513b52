"""`slcodec inspect`, `stats`, `verify` and `recover`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.commands import FileToRead, FileToWrite, command, quiet_option
from softlabel_codec.cli.output import BAD_INPUT, print_json, print_pairs, printable, progress_bar
from softlabel_codec.cli.tables import show_against, show_inspection, show_stats
from softlabel_codec.container.recovery import recover
from softlabel_codec.label_set.index_file import SUFFIX
from softlabel_codec.report import inspect, stats, stats_against, verify
from softlabel_codec.report.stats_report import plot_stats
from softlabel_codec.storage.location import shown

_PATH = FileToRead(folders=True)
_FILE = FileToRead()
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")


@command("inspect")
@click.argument("path", type=_PATH)
@_json
def inspect_command(path: str, as_json: bool) -> None:
    """Show what labels are: codec, origin, bytes by column.

    PATH is a label file; or the folder of a label set, or its index. A set that is being made is shown as far as it is.
    """
    report = inspect(path)
    if as_json:
        print_json(report)
    else:
        show_inspection(report)
    sys.exit(BAD_INPUT if report.problems else 0)


@command("stats")
@click.argument("path", type=_PATH)
@click.option("--against", metavar="OTHER", type=_PATH, help="Show what differs from the labels in OTHER instead.")
@click.option("--plot", "picture", type=FileToWrite(), help="Draw confidence, kept classes and bytes by column (PNG, PDF, SVG).")
@click.option("--images", "max_images", type=click.IntRange(1), default=2000, show_default=True, help="Largest number of images to read.")
@click.option("--temperature", type=float, help="T of softmax(logits / T) to read the labels at.  [default: that of the labels]")
@_json
def stats_command(path: str, against: str | None, picture: str | None, max_images: int, temperature: float | None, as_json: bool) -> None:
    """Show what the labels say: confidence, entropy, classes.

    With --against: what differs between PATH and OTHER. Images in only one of them, provenance, crops, and how far the labels of the crops
    that both have lie apart, at T = 1, 4 and 20.
    """
    if against is not None:
        if temperature is not None:
            raise click.UsageError("--temperature does not apply to --against.", click.get_current_context())
        _show_against(path, against, picture, max_images, as_json)
        return
    report = stats(path, max_images=max_images, temperature=temperature)
    if picture:
        plot_stats(report, picture)
    if as_json:
        print_json(report)
    else:
        show_stats(report)


def _show_against(path: str, against: str, picture: str | None, max_images: int, as_json: bool) -> None:
    if picture:
        raise click.UsageError("--plot does not apply to --against.", click.get_current_context())
    report = stats_against(path, against, max_images=max_images)
    if as_json:
        print_json(report)
    else:
        show_against(report)


@command("verify")
@click.argument("path", type=_PATH)
@click.option("--deep", is_flag=True, help="Also decode every label and crop, and compare the keys.")
@click.option("--images", help="Also check that these images, named as for 'slcodec encode', are the ones that were labelled.")
@quiet_option
@_json
def verify_command(path: str, deep: bool, images: str | None, as_json: bool, quiet: bool) -> None:
    """Check a label file or set for damage.

    Compares every checksum, of a set also those in its index; with --deep also decodes every label and crop; with --images also checks
    that these images were labelled.
    """
    with progress_bar("image" if Path(path).is_dir() or path.endswith(SUFFIX) else "block", quiet) as progress:
        report = verify(path, deep=deep, images=images, progress=progress)
    labelled = f"{counted(report.num_images, 'image')} in {counted(report.num_blocks, 'block')}"
    if report.num_shards:
        labelled += f" of {counted(report.num_shards, 'shard')}"
    if as_json:
        print_json(report)
    elif report.ok:
        click.echo(f"{shown(path)}: sound: {labelled}" + (", all decoded" if deep else ""))
        if images is not None:
            what = "sizes and checksums" if report.checksums else "sizes only; the labels hold no checksums"
            same = "image is the one that was" if report.compared_images == 1 else "images are the ones that were"
            click.echo(f"{images}: {report.compared_images} {same} labelled ({what})")
    else:
        for problem in report.problems:
            print_pairs([(problem.error, problem.message)])
        bad = f" in {counted(len(report.bad_shards), 'shard')}: {', '.join(map(printable, report.bad_shards))}" if report.bad_shards else ""
        click.echo(f"{shown(path)}: {counted(len(report.problems), 'problem')}{bad}; {labelled} checked")
    sys.exit(0 if report.ok else BAD_INPUT)


@command("recover")
@click.argument("unfinished", type=_FILE)
@click.argument("out", type=FileToWrite())
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def recover_command(unfinished: str, out: str, overwrite: bool) -> None:
    """Save the sound blocks of a damaged or unfinished file.

    Writes all sound blocks of the damaged file, or all complete blocks of the UNFINISHED file, to a finished file OUT.
    """
    result = recover(unfinished, out, overwrite=overwrite, empty=False)
    if result.lost_keys is None:
        were = "was" if result.unused_bytes == 1 else "were"
        rest = f"{counted(result.unused_bytes, 'byte')} after them {were} not usable"
    else:
        are = "is" if len(result.lost_keys) == 1 else "are"
        rest = f"{counted(len(result.lost_keys), 'image')} in damaged blocks ({counted(result.unused_bytes, 'byte')}) {are} lost"
        for key in result.lost_keys:
            print_pairs([("lost", key)])
    click.echo(f"{out}: {counted(result.num_images, 'image')} in {counted(result.num_blocks, 'block')}; {rest}")
