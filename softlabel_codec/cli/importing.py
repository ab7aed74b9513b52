"""`slcodec import`."""

from __future__ import annotations

from typing import Any

import click

from softlabel_codec.checks.arguments import ON_ERROR
from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import Command, FileToWrite, Group, json_option, quiet_option
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar


@click.group("import", cls=Group)
def import_group() -> None:
    """Convert label files of another project."""


@import_group.command("fkd", cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("out", type=FileToWrite())
@click.option(
    "--label-type",
    required=True,
    help="Label type given to FKD's generator: hard, smoothing, marginal_smoothing_k5, marginal_renorm_k5, ...",
)
@click.option("--num-classes", type=click.IntRange(2), default=1000, show_default=True)
@click.option(
    "--codec", type=CODEC, is_eager=True, help="Keep the labels in another codec.  [default: the codec that keeps the values exactly]"
)
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False), help="Folder of the images; converts fractions back to exact pixels."
)
@click.option(
    "--on-error", type=click.Choice(ON_ERROR), default="fail", show_default=True, help="What to do with an unreadable label file."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace OUT when finished, and discard an OUT.partial that was started with other options."
)
@quiet_option
@json_option
def import_fkd_command(folder: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert the label files in FOLDER, written by FKD's generator. No code in them is run."""
    from softlabel_codec.formats.fkd import import_fkd  # noqa: PLC0415  imports torch

    with progress_bar("file", quiet) as progress:
        report = import_fkd(folder, out, progress=progress, **options)
    if as_json:
        print_json(report)
        return
    for key, reason in report.skipped.items():
        print_pairs([("skipped", f"{key}: {reason}")])
    files, crops, skipped = counted(report.num_images, "file"), counted(report.num_crops, "crop"), len(report.skipped)
    smaller = f"{report.source_bytes / report.file_bytes:.1f} times smaller than {counted(report.source_bytes, 'byte')} of label files"
    pairs = [
        ("converted", f"{files}, {crops}, {skipped} skipped, to {report.codec}"),
        ("wrote", f"{report.path}: {counted(report.file_bytes, 'byte')}, {smaller}"),
    ]
    if report.uncertain_crops:
        uncertain = counted(report.uncertain_crops, "crop")
        pairs.append(("note", f"{uncertain}: float16 fractions of a large image do not determine the pixels; the nearest were taken"))
    print_pairs(pairs)
