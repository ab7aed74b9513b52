"""`slcodec encode`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import FileToWrite, command, json_option, quiet_option
from softlabel_codec.cli.label_maps import write_label_maps
from softlabel_codec.cli.options import options_of
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar, shared_work, told_by
from softlabel_codec.options.encode import CropOptions, EncodeConfig
from softlabel_codec.padding import Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.storage.location import is_remote
from softlabel_codec.views import AllViews

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.teacher import EncodeReport, SetProgress


_CHOOSING = "softlabel_codec.teacher.choosing"
_OF_SETS = ("label_set.locks", "teacher.pace", "teacher.set_worker", "teacher.remote_set_worker")
_LOGGERS = (_CHOOSING, *(f"softlabel_codec.{name}" for name in _OF_SETS))
_SPECIAL: dict[str, dict[str, Any]] = {
    "codec": {"type": CODEC, "is_eager": True},
    "workers": {"default": None},
}


@command("encode")
@click.argument("images")
@click.argument("out", type=FileToWrite(or_folder=True, or_url=True))
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

    With --shards, any number of processes and machines make a label set together, and OUT is a folder that all share, or a URL such as
    s3://BUCKET/labels. On several GPUs: torchrun --nproc-per-node 8 -m softlabel_codec.teacher, with the same options.
    """
    _check_out(options)
    if options.pop("label_maps"):
        write_label_maps(options, as_json, quiet)
        return
    from softlabel_codec.teacher import encode  # noqa: PLC0415  imports torch

    how = {field.name: options.pop(field.name) for field in fields(CropOptions)}
    padding = Padding(options.pop("padding"), options.pop("padding_mode"), options.pop("fill") or 0)
    options["workers"] = _default_workers(options["device"]) if options["workers"] is None else options["workers"]
    for name in ("mean", "std", "teacher_weights"):
        options[name] = options[name] or None
    config = EncodeConfig(sampler=_sampler(**how), padding=padding, **options)
    if config.shards:
        with shared_work("image", _LOGGERS, quiet) as progress:
            report = encode(config, progress)
    else:
        with told_by([_CHOOSING], quiet), progress_bar("image", quiet) as progress:
            report = encode(config, progress)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _check_out(options: Mapping[str, Any]) -> None:
    context = click.get_current_context()
    if options["shards"] is not None:
        return
    if not is_remote(options["out"]) and Path(options["out"]).is_dir():
        raise click.UsageError(f"OUT: {options['out']!r} is a folder. To make a label set in it, pass --shards.", context)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError("Several processes make a label set, not one file: pass --shards.", context)


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
    if report.codec_choice is not None:
        print_pairs(
            [("codec", f"{report.codec_choice.codec}, chosen by the labels of {counted(report.codec_choice.pilot_images, 'image')}")]
        )
    images, skipped = counted(report.num_images, "image"), f"{len(report.skipped)} skipped"
    if report.label_set is not None:
        _show_set(report, report.label_set, f"{images}, {skipped}")
        return
    per_image = report.file_bytes / report.num_images
    sizes = f"{per_image / report.crops_per_image:.2f} per crop, {per_image:.1f} per image"
    size = f"{report.path}: {counted(report.file_bytes, 'byte')}, {sizes}"
    if report.finished_before:
        print_pairs([("finished", f"before, with the same options: {images}, {skipped}; nothing to do"), ("found", size)])
        return
    resumed = f" ({report.resumed_images} of them by an earlier run)" if report.resumed_images else ""
    print_pairs([("labelled", f"{images}{resumed}, {skipped}, in {report.seconds:.1f} s"), ("wrote", size)])


def _show_set(report: EncodeReport, found: SetProgress, images: str) -> None:
    shards = counted(found.num_shards, "shard")
    if report.finished_before:
        print_pairs([("finished", f"before, with the same options: {shards}, {images}; nothing to do"), ("found", report.path)])
        return
    made = f"{counted(len(found.made), 'shard')} of {found.num_shards}, {images}, {counted(report.file_bytes, 'byte')}"
    print_pairs([("labelled", f"{made}, in {report.seconds:.1f} s")])
    if found.finished:
        print_pairs([("finished", f"{report.path}: all {shards}")])
        return
    print_pairs([("being made", f"shard {number}, by {owner}") for number, owner in found.being_made.items()])
    if found.missing:
        first = ", ".join(map(str, found.missing[:5])) + (", ..." if len(found.missing) > 5 else "")
        which = f"{counted(len(found.missing), 'shard')} of {found.num_shards}: {first}"
        print_pairs([("missing", f"{which}. The same command without --shard makes them")])


def _default_workers(device: str) -> int:
    import torch  # noqa: PLC0415

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processors = max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # torchrun's processes of this machine share them
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return min(8, processors) if on_gpu else int(processors > 1)
