"""`slcodec encode`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from softlabel_codec.checks.arguments import EXIF_POLICIES, INTERPOLATIONS, ON_ERROR, PRECISIONS, TEACHER_OUTPUTS
from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.codecs import CODEC
from softlabel_codec.cli.commands import FileToWrite, command, json_option, quiet_option
from softlabel_codec.cli.label_maps import write_label_maps
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.teacher import EncodeReport


@command("encode")
@click.argument("images", type=click.Path(exists=True, file_okay=False))
@click.argument("out", type=FileToWrite())
@click.option("--teacher", required=True, help="FILE.py:FACTORY, MODULE:FACTORY, timm:NAME or torchvision:NAME.")
@click.option(
    "--teacher-weights",
    metavar="FILE|none",
    help="For timm:NAME or torchvision:NAME: your own checkpoint or state_dict, or none for an untrained network.  "
    "[default: the library's weights]",
)
@click.option("--teacher-output", type=click.Choice(TEACHER_OUTPUTS), default="logits", show_default=True, help="What the teacher returns.")
@click.option("--crops", type=int, default=200, show_default=True, help="Crops per image.")
@click.option(
    "--codec",
    type=CODEC,
    default="marginal_smoothing:k=5",
    show_default=True,
    is_eager=True,
    help="How labels are stored; 'help' lists the codecs.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the crops.")
@click.option(
    "--scale",
    type=float,
    nargs=2,
    default=(0.08, 1.0),
    show_default=True,
    help="Smallest and largest area of a crop, relative to the image.",
)
@click.option(
    "--ratio", type=float, nargs=2, default=(3 / 4, 4 / 3), show_default="3/4 4/3", help="Smallest and largest width / height of a crop."
)
@click.option("--flip-probability", type=float, default=0.5, show_default=True, help="Probability that a crop is mirrored.")
@click.option(
    "--store-crops", is_flag=True, help="Store the coordinates of every crop, for readers without our crop sampler: 4 bytes per crop."
)
@click.option("--size", type=int, help="Side of the teacher's input in pixels.  [default: INPUT_SIZE of the teacher file, or 224]")
@click.option("--interpolation", type=click.Choice(INTERPOLATIONS), help="How crops are scaled.  [default: the teacher's, or bilinear]")
@click.option("--mean", type=float, nargs=3, help="Mean of RGB in 0..1.  [default: MEAN of the teacher file, or ImageNet's]")
@click.option("--std", type=float, nargs=3, help="Standard deviation of RGB.  [default: STD of the teacher file, or ImageNet's]")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="T of softmax(logits / T).")
@click.option(
    "--num-classes",
    type=click.IntRange(2),
    help="Fail if the teacher has another number of classes; with --teacher-weights, build a network with this number.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Crops per forward pass.  [default: 16 on a CPU, else 256]")
@click.option("--workers", type=click.IntRange(0), help="Processes that decode and crop images.  [default: 1, with a GPU up to 8]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default="float16 on a GPU, else float32",
    help="Arithmetic of the teacher.",
)
@click.option("--on-error", type=click.Choice(ON_ERROR), default="fail", show_default=True, help="What to do with an unreadable image.")
@click.option(
    "--exif",
    "exif_orientation",
    type=click.Choice(EXIF_POLICIES),
    default="ignored",
    show_default=True,
    help="Whether the EXIF orientation of images is applied.",
)
@click.option(
    "--label-maps",
    is_flag=True,
    help="Write ReLabel's label maps to OUT (FILE.npz) instead: one map of logits per image, to compare with. "
    "The teacher's network needs a method logit_map.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace OUT when finished, and discard an OUT.partial that was started with other options."
)
@quiet_option
@json_option
def encode_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Label the images of a folder with a teacher.

    Runs the teacher on random-resized crops of every image in IMAGES and stores its soft labels in OUT. Crops depend only on seed, image
    and crop number. If the command is interrupted, run it again: it continues where it stopped.
    """
    if options.pop("label_maps"):
        write_label_maps(options, as_json, quiet)
        return
    from softlabel_codec.sampler import CropSampler  # noqa: PLC0415
    from softlabel_codec.teacher import EncodeConfig, encode  # noqa: PLC0415  imports torch

    sampler = CropSampler(**{name: options.pop(name) for name in ("seed", "scale", "ratio", "flip_probability")})
    options["workers"] = _default_workers(options["device"]) if options["workers"] is None else options["workers"]
    options["mean"], options["std"] = options["mean"] or None, options["std"] or None
    config = EncodeConfig(sampler=sampler, **options)
    with progress_bar("image", quiet) as progress:
        report = encode(config, progress)
    if as_json:
        print_json(report)
    else:
        _show(report, config.crops)


def _show(report: EncodeReport, crops: int) -> None:
    if report.other_files:
        first = ", ".join(report.other_files[:3]) + (", ..." if len(report.other_files) > 3 else "")
        are = "file without the extension of an image" if len(report.other_files) == 1 else "files without the extension of an image"
        print_pairs([("ignored", f"{len(report.other_files)} {are}: {first}")])
    for key, reason in report.skipped.items():
        print_pairs([("skipped", f"{key}: {reason}")])
    images, skipped = counted(report.num_images, "image"), f"{len(report.skipped)} skipped"
    size = f"{report.path}: {counted(report.file_bytes, 'byte')}, {report.file_bytes / (report.num_images * crops):.2f} per crop"
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
