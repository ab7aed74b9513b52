"""`slcodec import` and `slcodec export`."""

from __future__ import annotations

from typing import Any

import click

from softlabel_codec.checks.arguments import ON_ERROR
from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import FileToRead, FileToWrite, command, json_option, quiet_option
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar, told_by

IMPORTED = ("fkd", "npz", "safetensors", "parquet", "webdataset", "tinyvit", "sre2l", "ml_dr", "mobileclip_dr", "relabel")
"""What is imported; `softlabel_codec.formats.FORMATS`, without importing it."""
EXPORTED = ("fkd", "npz", "safetensors", "parquet", "webdataset")
_LOGGER = "softlabel_codec.formats"


@command("import")
@click.argument("words", nargs=-1, required=True, metavar="[FORMAT] SOURCE OUT")
@click.option("--from", "format", type=click.Choice(IMPORTED), help="Format of SOURCE; or say it first.  [default: found out]")
@click.option(
    "--label-type",
    help="For fkd: label type given to FKD's generator: hard, smoothing, marginal_smoothing_k5, marginal_renorm_k5, ...  "
    "[default: by the folder's name] For relabel: swapped, to pool maps with axes exchanged, as ReLabel's training code does.",
)
@click.option(
    "--num-classes", type=click.IntRange(2), help="Number of classes, where SOURCE does not say it.  [default for fkd and relabel: 1000]"
)
@click.option(
    "--codec", type=CODEC, is_eager=True, help="Keep the labels in another codec.  [default: the codec that keeps the values exactly]"
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the images; converts fractions back to exact pixels. Needed for sre2l and relabel, and for crops of ml_dr.",
)
@click.option("--crops", type=click.IntRange(1), help="For relabel: crops of each image that get labels.  [default: 200]")
@click.option("--crops-of", type=FileToRead(folders=True), help="For relabel: a label file whose crops get labels, to compare both.")
@click.option(
    "--seed", type=click.IntRange(0), help="For relabel: of the sampler of crops.  [default: 0] For sre2l: of its sampler.  [default: 42]"
)
@click.option("--temperature", type=float, help="For sre2l with the largest logits only: T of softmax(logits / T).  [default: 1]")
@click.option("--on-error", type=click.Choice(ON_ERROR), default="fail", show_default=True, help="What to do with unreadable labels.")
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that convert; OUT is the same for any number."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace OUT when finished, and discard an OUT.partial that was started with other options."
)
@quiet_option
@json_option
@click.pass_context
def import_command(ctx: click.Context, /, words: tuple[str, ...], format: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert label files of another project. No code in them is run.

    SOURCE is a folder of FKD, TinyViT, SRe2L (LPLD, LPQLD), ml-dr or ReLabel; a .npz or .safetensors file; Parquet files, WebDataset
    shards or (mobileclip_dr) shards of MobileCLIP-DR: one, a folder, or a pattern such as 'labels-{000..146}.tar'. What was found, and what
    will be lost, is said before the work begins.
    """
    format, source, out = _named(ctx, words, format)
    from softlabel_codec.formats import import_labels  # noqa: PLC0415  only needed here

    with told_by([_LOGGER], quiet or as_json), progress_bar("image", quiet) as progress:
        report = import_labels(source, out, format=format, progress=progress, **options)
    if as_json:
        print_json(report)
        return
    for key, reason in report.skipped.items():
        print_pairs([("skipped", f"{key}: {reason}")])
    unit = "file" if report.format == "FKD" else "image"
    images, crops, skipped = counted(report.num_images, unit), counted(report.num_crops, "crop"), len(report.skipped)
    smaller = f"{report.source_bytes / report.file_bytes:.1f} times smaller than {counted(report.source_bytes, 'byte')} of label files"
    pairs = [
        ("converted", f"{images}, {crops}, {skipped} skipped, to {report.codec}"),
        ("wrote", f"{report.path}: {counted(report.file_bytes, 'byte')}, {smaller}"),
        *(("lost", line) for line in report.lost),
        *(("note", line) for line in report.notes),
    ]
    if report.uncertain_crops:
        uncertain = counted(report.uncertain_crops, "crop")
        pairs.append(("note", f"{uncertain}: float16 fractions of a large image do not determine the pixels; the nearest were taken"))
    print_pairs(pairs)


def _named(ctx: click.Context, words: tuple[str, ...], format: str | None) -> tuple[str | None, str, str]:
    """Return format, source and output as the words of a command name them."""
    if len(words) == 3:
        if words[0] not in IMPORTED:
            ctx.fail(f"{words[0]!r}: expected a format before SOURCE and OUT, one of {', '.join(IMPORTED)}.")
        if format not in (None, words[0]):
            ctx.fail(f"--from {format} contradicts {words[0]!r} before SOURCE.")
        format, words = words[0], words[1:]
    if len(words) != 2:
        ctx.fail("expected SOURCE and OUT.")
    source, out = words
    return format, source, FileToWrite().convert(out, None, ctx)


@command("export")
@click.argument("labels", type=FileToRead(folders=True))
@click.argument("out", type=FileToWrite(or_folder=True))
@click.option("--to", "format", type=click.Choice(EXPORTED), help="Format of OUT.  [default: by its name]")
@click.option("--dense", is_flag=True, help="Write the targets of all classes, as labels with tails and label fields require.")
@click.option("--overwrite", is_flag=True, help="Replace OUT when finished.")
@quiet_option
@json_option
def export_command(labels: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write labels in a format that others read.

    OUT is a file .npz, .safetensors, .parquet or .tar (a WebDataset shard); 'labels-{000..015}.tar' names several shards. With --to fkd it
    is a folder, named as that of the images (train), with a .tar for each image.
    """
    from softlabel_codec.formats import export_labels  # noqa: PLC0415  only needed here

    with told_by([_LOGGER], quiet or as_json), progress_bar("image", quiet) as progress:
        report = export_labels(labels, out, progress=progress, **options)
    if as_json:
        print_json(report)
        return
    images, crops = counted(report.num_images, "image"), counted(report.num_crops, "crop")
    files = "" if report.num_files == 1 else f" in {counted(report.num_files, 'file')}"
    pairs = [("wrote", f"{report.path}: {images}, {crops}, {counted(report.file_bytes, 'byte')}{files}, as {report.format}")]
    print_pairs([*pairs, *(("lost", line) for line in report.lost)])
