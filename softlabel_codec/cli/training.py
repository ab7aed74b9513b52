"""`slcodec train`, `compare` and `evaluate`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from softlabel_codec.checks.arguments import EXIF_POLICIES, INTERPOLATIONS
from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.commands import command, json_option, quiet_option
from softlabel_codec.cli.options import options_of
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar
from softlabel_codec.cli.tables import show_comparison
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.train import TrainConfig, read_options

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.evaluate import FrozenEvaluation

_OF_A_RUN = ("labels", "out", "seed", "resume")


def _given(config: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a configuration file, and over them those that are given on the command line."""
    found = {} if config is None else read_options(config)
    return {**found, **{name: value for name, value in options.items() if value not in (None, ())}}


_config = click.option(
    "--config", type=click.Path(exists=True, dir_okay=False), help="JSON file of options; options on the command line override it."
)


@command("train")
@_config
@quiet_option
@json_option
@options_of(TrainConfig, over_a_file=True)
def train_command(config: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a student.

    Its labels come from a label file, from the class folders of the images, from a teacher that runs in every step, or from label maps.

    On several GPUs: torchrun --nproc-per-node 8 -m softlabel_codec.trainer, with the same options.
    """
    from softlabel_codec.trainer import train  # noqa: PLC0415  imports torch

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    with progress_bar("step", quiet or not first) as progress:
        report = train(TrainConfig.from_mapping(_given(config, options)), progress)
    if not first:
        return
    if as_json:
        print_json(report)
        return
    shares = f"{report.data_seconds / max(report.seconds, 1e-9):.0%} of it waiting for data"
    epochs, steps = counted(report.epochs, "epoch"), counted(report.steps, "step")
    pairs = [("trained", f"{epochs}, {steps} in {report.seconds:.1f} s, {shares}; loss {report.loss:.4f}")]
    if report.evaluation is not None:
        pairs += _evaluation_pairs(report.evaluation)
    print_pairs([*pairs, ("wrote", f"{report.out}: weights.pt, weights.json, checkpoint.pt, log.jsonl, result.json")])


@command("compare")
@click.argument("out", type=click.Path(file_okay=False))
@click.option(
    "--source", "sources", multiple=True, required=True, help="NAME=LABELS, labels as for 'slcodec train'. Give it several times."
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Number of students per source.")
@click.option("--reference", help="NAME of the source that the others are compared with.  [default: the first]")
@click.option("--margin", type=float, default=0.5, show_default=True, help="Difference in accuracy that does not matter, in points.")
@click.option("--vary", multiple=True, help="OPTION=VALUE,VALUE,...: a row for each value, such as crops_per_image=1,2,4,8,16.")
@_config
@quiet_option
@json_option
@options_of(TrainConfig, without=_OF_A_RUN, over_a_file=True)
def compare_command(
    out: str,
    sources: tuple[str, ...],
    seeds: int,
    reference: str | None,
    margin: float,
    vary: tuple[str, ...],
    config: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train students from several label sources and compare them.

    Trains the same student with several seeds from each source, and compares accuracy, size of the labels and time. Runs, table and
    picture are written to OUT. If the command is interrupted, run it again: finished runs are not repeated.
    """
    from softlabel_codec.compare import compare  # noqa: PLC0415  imports torch

    named = _named("source", sources)
    varied = {name: [_value(part) for part in values.split(",")] for name, values in _named("vary", vary).items()}
    given = _given(config, options)
    with progress_bar("step", quiet) as progress:
        report = compare(named, out, given, seeds=range(seeds), reference=reference, margin=margin, vary=varied, progress=progress)
    if as_json:
        print_json(report)
    else:
        show_comparison(report)
        print_pairs([("wrote", f"{out}: compare.json, compare.png, and a folder for each run")])


@command("evaluate")
@click.argument("images")
@click.argument("weights", type=click.Path(exists=True, dir_okay=False))
@click.option("--student", help="Network, as for 'slcodec train'.  [default: from the checkpoint]")
@click.option("--num-classes", type=click.IntRange(2), help="Number of classes.  [default: from the checkpoint]")
@click.option("--size", type=click.IntRange(1), help="Side of its images in pixels.  [default: from the checkpoint, or 224]")
@click.option(
    "--crop", type=click.FloatRange(0, 1, min_open=True), help="Fraction of the shorter side.  [default: from the checkpoint, or 0.875]"
)
@click.option(
    "--interpolation", type=click.Choice(INTERPOLATIONS), help="How images are scaled.  [default: from the checkpoint, or bilinear]"
)
@click.option(
    "--exif-orientation",
    type=click.Choice(EXIF_POLICIES),
    help="Whether the EXIF orientation is applied.  [default: from the checkpoint, or ignored]",
)
@click.option("--mean", type=float, nargs=3, help="Mean of RGB in 0..1.  [default: from the checkpoint; required for other weights]")
@click.option("--std", type=float, nargs=3, help="Standard deviation of RGB, as for --mean.")
@click.option(
    "--classes",
    type=click.Path(exists=True, dir_okay=False),
    help="File that lists the class folders by class number: one per line, or JSON.",
)
@click.option("--knn", is_flag=True, help="Measure what its frozen features are worth instead, by the classes of nearest neighbours.")
@click.option("--linear", is_flag=True, help="Likewise, by a logistic regression on the features.")
@click.option("--train", metavar="IMAGES", help="For --knn and --linear: training images of known classes, named like IMAGES.")
@click.option("--k", type=click.IntRange(1), help="Number of neighbours for --knn.  [default: 20]")
@click.option("--real", type=click.Path(exists=True, dir_okay=False), help="ImageNet ReaL's real.json.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode images.")
@click.option("--device", default="auto", show_default=True)
@json_option
def evaluate_command(images: str, weights: str, student: str | None, num_classes: int | None, as_json: bool, **options: Any) -> None:
    """Measure the accuracy of a student.

    IMAGES is a folder of images, CLASS/NAME: ImageNet's, ImageNetV2's, or your own. WEIGHTS is the checkpoint.pt or weights.pt of a
    run, which describe the student, or a state_dict from elsewhere.

    With --knn and --linear, the network is frozen, as is usual for self-supervised ones: the input of its last linear layer are features,
    by which images are told apart, given the classes of the --train images. Nearest neighbours are those of the largest cosine similarity
    s, and vote with weights exp(s / 0.07).
    """
    from softlabel_codec.evaluate import evaluate, evaluate_frozen, load_student  # noqa: PLC0415  imports torch

    of_frozen = {name: options.pop(name) for name in ("knn", "linear", "train", "k")}
    _check_frozen(of_frozen, options)
    how = {name: options.pop(name) for name in ("size", "crop", "interpolation", "exif_orientation", "mean", "std")}
    found = load_student(weights, student, num_classes, **{name: value for name, value in how.items() if value is not None})
    if of_frozen["knn"] or of_frozen["linear"]:
        del options["real"]
        given = {name: value for name, value in of_frozen.items() if value is not None}
        frozen = evaluate_frozen(found, images, **given, **options)
        if as_json:
            print_json(frozen)
        else:
            print_pairs(_frozen_pairs(frozen))
        return
    report = evaluate(found, images, **options)
    if as_json:
        print_json(report)
    else:
        print_pairs(_evaluation_pairs(vars(report)))


def _check_frozen(of_frozen: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise a usage error unless options of a frozen network are given together, and without those that are not for it."""
    context = click.get_current_context()
    if of_frozen["k"] is not None and not of_frozen["knn"]:
        raise click.UsageError("--k is for --knn.", context)
    if not (of_frozen["knn"] or of_frozen["linear"]):
        if of_frozen["train"] is not None:
            raise click.UsageError("--train is for --knn and --linear.", context)
        return
    if of_frozen["train"] is None:
        raise click.UsageError("--knn and --linear need --train, training images of known classes.", context)
    if options["real"] is not None:
        raise click.UsageError("--real does not apply to --knn and --linear.", context)


def _frozen_pairs(found: FrozenEvaluation) -> list[tuple[str, str]]:
    of = f"of {counted(found.num_images, 'image')}"
    pairs = [("features", f"{found.num_features} numbers, the input of {found.layer!r}; {counted(found.num_train, 'training image')}")]
    if found.knn is not None:
        pairs.append(("k-NN top-1", f"{found.knn:.2%} {of}, k={found.k}, cosine similarity, T={found.temperature:g}"))
    if found.linear is not None:
        pairs.append(("linear top-1", f"{found.linear:.2%} {of}"))
    return pairs


def _evaluation_pairs(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    real = [("ReaL", f"{found['real']:.2%}")] if found["real"] is not None else []
    return [
        ("top-1", f"{found['top1']:.2%} of {counted(found['num_images'], 'image')}"),
        ("top-5", f"{found['top5']:.2%}"),
        *real,
        ("calibration error", f"{found['calibration_error']:.4f}"),
    ]


def _named(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Return the values of an option that is given as NAME=VALUE, several times under other names."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ArgumentError(f"--{option}: expected NAME=VALUE, got {text!r}")
        if name in found:
            raise ArgumentError(f"--{option}: the name {name!r} is given twice, for {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _value(text: str) -> Any:
    """Return a value of an option: a number or truth value as JSON writes it, or else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
