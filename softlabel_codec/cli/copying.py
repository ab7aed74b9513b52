"""`slcodec copy`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import command, json_option, quiet_option
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar
from softlabel_codec.copying import CopyReport, copy_labels
from softlabel_codec.errors import ArgumentError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class _Size(click.ParamType):  # type: ignore[type-arg]  # no parameter before click 8.3
    """A number of bytes, with a unit or without."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", str(value))
        size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
        if not size:
            self.fail(f"{value!r} is not a size such as 256MB, 1.5GB or 512MiB.", param, ctx)
        return size


class _NameAndValue(click.ParamType):  # type: ignore[type-arg]  # no parameter before click 8.3
    """NAME=VALUE, where the value is JSON, or else text."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, sign, text = str(value).partition("=")
        if not name or not sign:
            self.fail(f"{value!r} is not NAME=VALUE.", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@command("copy")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("path", metavar="DST")
@click.option("--shards", type=click.IntRange(1), metavar="N", help="Write a set of N files with about the same number of images.")
@click.option(
    "--shard-size", "shard_bytes", type=_Size(), metavar="SIZE", help="Write a set of files of at most about SIZE, such as 256MB."
)
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Copy the images whose keys are the lines of FILE.",
)
@click.option("--match", multiple=True, metavar="PATTERN", help="Copy images whose key fits PATTERN, such as 'n01*'; one of several.")
@click.option("--sample", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE", help="Copy about this share of the images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the sample.")
@click.option("--crops", type=click.IntRange(1), metavar="N", help="Copy the first N crops of each image.")
@click.option("--codec", type=CODEC, is_eager=True, help="Store the labels in this codec; 'help' lists the codecs.")
@click.option("--metadata", type=_NameAndValue(), multiple=True, metavar="NAME=VALUE", help="Set metadata; VALUE is JSON, or else text.")
@click.option("--drop-metadata", multiple=True, metavar="NAME", help="Leave out metadata.")
@click.option("--force", is_flag=True, help="Put labels of different teachers together; the copy says so.")
@click.option("--overwrite", is_flag=True, help="Replace DST when finished.")
@quiet_option
@json_option
def copy_command(
    keys_file: str | None, match: tuple[str, ...], metadata: tuple[tuple[str, Any], ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Merge, split, choose from or convert label files.

    Copies the labels of SRC, files or sets (the folder of one, or its index), in this order, to the file DST; with --shards or --shard-size
    to a set in the folder DST. Blocks in which nothing changes are copied as they are, after their checksums were compared; only others are
    decoded. DST appears whole, or not at all.
    """
    names = [name for name, _ in metadata]
    if len(set(names)) < len(names):
        raise ArgumentError(f"--metadata: a name is given twice, of {', '.join(names)}")
    keys = None if keys_file is None else _lines(keys_file)
    with progress_bar("image", quiet) as progress:
        report = copy_labels(keys=keys, match=match or None, metadata=dict(metadata), progress=progress, **options)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _lines(path: str) -> list[str]:
    try:
        return [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path}: expected keys in UTF-8, one on each line: {error}") from None


def _show(report: CopyReport) -> None:
    blocks = f"{counted(report.copied_blocks, 'block')} as they are, {report.decoded_blocks} decoded"
    files = "" if report.num_files == 1 else f" in {counted(report.num_files, 'file')}"
    speed = f", {report.num_bytes / 1e6 / report.seconds:.0f} MB/s" if report.seconds > 0 else ""
    print_pairs(
        [
            ("copied", f"{counted(report.num_images, 'image')}, {counted(report.num_crops, 'crop')}: {blocks}"),
            ("wrote", f"{report.path}: {counted(report.num_bytes, 'byte')}{files}, {report.codec}, in {report.seconds:.1f} s{speed}"),
        ]
    )
