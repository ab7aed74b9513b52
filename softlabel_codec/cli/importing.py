"""`slcodec import`."""

from __future__ import annotations

from typing import Any

import click

from softlabel_codec.arguments import ON_ERROR
from softlabel_codec.cli.output import continuable, print_json, print_pairs, progress_bar


@click.group("import")
def import_group() -> None:
    """Convert somebody else's label files."""


@import_group.command("fkd")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--label-type", required=True, help="As for FKD's generator: hard, smoothing, marginal_smoothing_k5, marginal_renorm_k5, ...")
@click.option("--num-classes", type=click.IntRange(2), default=1000, show_default=True)
@click.option("--codec", help="Keep the labels in another codec.  [default: values stay exactly what they are]")
@click.option("--images", type=click.Path(exists=True, file_okay=False), help="Image folder: fractions become exact pixels again.")
@click.option("--on-error", type=click.Choice(ON_ERROR), default="fail", show_default=True, help="What an unreadable label file does.")
@click.option("--overwrite", is_flag=True, help="Replace OUT when finished; discard an OUT.partial that was begun otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def import_fkd_command(folder: str, out: str, as_json: bool, **options: Any) -> None:
    """Convert the label files of FKD's generator in FOLDER. No code in them ever runs."""
    from softlabel_codec.fkd import import_fkd  # noqa: PLC0415  imports torch

    with continuable(out), progress_bar("file", quiet=as_json) as progress:
        report = import_fkd(folder, out, progress=progress, **options)
    if as_json:
        print_json(report)
        return
    for key, reason in report.skipped.items():
        print_pairs([("skipped", f"{key}: {reason}")])
    ratio = report.source_bytes / report.file_bytes
    pairs = [
        ("converted", f"{report.num_images} files, {report.num_crops} crops, {len(report.skipped)} skipped, to {report.codec}"),
        ("wrote", f"{report.path}: {report.file_bytes} bytes, {ratio:.1f} times smaller than {report.source_bytes} bytes of label files"),
    ]
    if report.uncertain_crops:
        pairs.append(
            ("note", f"{report.uncertain_crops} crops: float16 fractions of a large image do not determine the pixels; nearest taken")
        )
    print_pairs(pairs)
