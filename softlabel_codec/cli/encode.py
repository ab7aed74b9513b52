"""`slcodec encode`."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import FileToWrite, command, json_option, quiet_option
from softlabel_codec.cli.label_maps import write_label_maps
from softlabel_codec.cli.options import options_of
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar
from softlabel_codec.options.encode import CropOptions, EncodeConfig
from softlabel_codec.padding import Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.views import AllViews

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.teacher import EncodeReport


_SPECIAL: dict[str, dict[str, Any]] = {"codec": {"type": CODEC, "is_eager": True}, "workers": {"default": None}}


@command("encode")
@click.argument("images")
@click.argument("out", type=FileToWrite())
@options_of(EncodeConfig, without=("images", "out"), special=_SPECIAL)
@click.option(
    "--label-maps",
    is_flag=True,
    help="Write ReLabel's label maps to OUT (FILE.npz) instead: one map of logits per image, to compare with. "
    "The teacher's network needs a method logit_map.",
)
@quiet_option
@json_option
def encode_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Label images with a teacher.

    Runs the teacher on random-resized crops of every image in IMAGES and stores its soft labels in OUT. Crops depend only on seed, image
    and crop number. With --all-views and --padding it runs on every view of a recipe that pads, crops and
    mirrors. If the command is interrupted, run it again: it continues where it stopped.

    IMAGES is a folder (also one that Hugging Face 'datasets' saved), WebDataset shards such as 'shards-{000000..000146}.tar' or '*.tar',
    '*.parquet' (or '*.parquet:COLUMN'), FILE.npz with an array 'images', or FILE.py:FACTORY.
    """
    if options.pop("label_maps"):
        write_label_maps(options, as_json, quiet)
        return
    from softlabel_codec.teacher import encode  # noqa: PLC0415  imports torch

    how = {field.name: options.pop(field.name) for field in fields(CropOptions)}
    padding = Padding(options.pop("padding"), options.pop("padding_mode"), options.pop("fill") or 0)
    options["workers"] = _default_workers(options["device"]) if options["workers"] is None else options["workers"]
    options["mean"], options["std"] = options["mean"] or None, options["std"] or None
    config = EncodeConfig(sampler=_sampler(**how), padding=padding, **options)
    with progress_bar("image", quiet) as progress:
        report = encode(config, progress)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _sampler(all_views: int | None, **how: Any) -> CropSampler | AllViews:
    """Return the sampler of random crops, or of all views, which refuses the options of the other."""
    if all_views is None:
        return CropSampler(**how)
    context = click.get_current_context()
    for name in how:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} does not apply to --all-views.", context)
    return AllViews(all_views, all_views)


def _show(report: EncodeReport) -> None:
    if report.other_files:
        first = ", ".join(report.other_files[:3]) + (", ..." if len(report.other_files) > 3 else "")
        are = "file without the extension of an image" if len(report.other_files) == 1 else "files without the extension of an image"
        print_pairs([("ignored", f"{len(report.other_files)} {are}: {first}")])
    for key, reason in report.skipped.items():
        print_pairs([("skipped", f"{key}: {reason}")])
    images, skipped = counted(report.num_images, "image"), f"{len(report.skipped)} skipped"
    per_crop = report.file_bytes / (report.num_images * report.crops_per_image)
    size = f"{report.path}: {counted(report.file_bytes, 'byte')}, {per_crop:.2f} per crop"
    if report.finished_before:
        print_pairs([("finished", f"before, with the same options: {images}, {skipped}; nothing to do"), ("found", size)])
        return
    resumed = f" ({report.resumed_images} of them by an earlier run)" if report.resumed_images else ""
    print_pairs([("labelled", f"{images}{resumed}, {skipped}, in {report.seconds:.1f} s"), ("wrote", size)])


def _default_workers(device: str) -> int:
    import torch  # noqa: PLC0415

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return min(8, processors) if on_gpu else int(processors > 1)
