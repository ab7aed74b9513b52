"""`slcodec check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.commands import FileToRead, command, json_option, quiet_option
from softlabel_codec.cli.output import BAD_INPUT, print_json, print_pairs, progress_bar

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.teacher import LabelsCheck


@command("check")
@click.argument("labels", type=FileToRead(folders=True))
@click.option("--images", required=True, help="The labelled images, as for 'slcodec encode'.")
@click.option(
    "--teacher", required=True, multiple=True, help="The teacher that made the labels, as for 'slcodec encode'; of several each, in order."
)
@click.option("--teacher-weights", multiple=True, metavar="FILE|none", help="Its weights, as for 'slcodec encode'.")
@click.option("--sample", type=click.IntRange(1), default=100, show_default=True, help="Number of images to check.")
@click.option("--temperature", type=float, help="T of softmax(logits / T).  [default: from the file, or 1]")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode and crop images.")
@click.option("--device", default="auto", show_default=True)
@quiet_option
@json_option
def check_command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Check that labels, images and teacher belong together.

    Runs the teacher on some stored crops of LABELS and compares its output with the stored labels. Exit code 1 if they differ too much.
    """
    from softlabel_codec.teacher import check_labels  # noqa: PLC0415  imports torch

    with progress_bar("batch", quiet) as progress:
        report = check_labels(**{**options, "teacher_weights": options["teacher_weights"] or None}, progress=progress)
    if as_json:
        print_json(report)
    else:
        _show(report)
    sys.exit(0 if report.found.ok else BAD_INPUT)


def _show(report: LabelsCheck) -> None:
    found = report.found
    weights = {
        True: "the ones that made the labels",
        False: "not the ones that made the labels",
        None: "the file does not record which weights were used",
    }
    pairs: list[tuple[str, object]] = [
        ("labels", report.path),
        ("teacher", f"{report.teacher}; its weights: {weights[report.same_weights]}"),
        ("checked", f"{counted(found.num_crops, 'crop')} of {counted(report.num_images, 'image')}"),
        ("top class agrees", f"{found.agreement:.1%}, within {found.margin:.4f} nats"),
    ]
    if found.difference is not None:
        pairs.append(("its probability", f"differs by {found.difference:.4f} on average, {found.largest_difference:.4f} at most"))
    pairs += [
        ("cross-entropy", f"{found.cross_entropy:.3f} nats; entropy of the labels {found.entropy:.3f}, KL divergence {found.kl:.3f}"),
        *(("worst", f"{crop.key}: {crop.margin:.3f} nats, probability {crop.difference:.3f}") for crop in found.worst if not found.ok),
        ("verdict", f"{'they belong together' if found.ok else 'they do not belong together'}: {found.reason}"),
    ]
    print_pairs(pairs)
