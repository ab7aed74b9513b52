"""What the demo prints, writes and draws at the end."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from softlabel_codec.cli.output import print_table
from softlabel_codec.codec import Codec
from softlabel_codec.demo.digits import IMAGE_SIDE
from softlabel_codec.labelled import ImageLabels
from softlabel_codec.labels import DenseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.trainer.outcome import CompareReport, Row


@dataclass(frozen=True)
class Outcome:
    """What came out of the demo.

    Attributes
    ----------
    teacher_accuracy : float
        Share of the test images.
    fkd_bytes_per_crop : dict
        For each label file, the size of FKD's files with the same labels in float32.
    comparison : CompareReport
        The students.
    """

    teacher_accuracy: float
    fkd_bytes_per_crop: dict[str, float]
    comparison: CompareReport

    @property
    def stored(self) -> list[tuple[Row, float, float]]:
        """Rows of label files, with the bytes per crop of them and of FKD's."""
        rows = [(row, row.bytes_per_crop, self.fkd_bytes_per_crop.get(row.name)) for row in self.comparison.rows]
        return [(row, ours, theirs) for row, ours, theirs in rows if ours is not None and theirs is not None]


def fkd_bytes_per_crop(path: Path, codec: str) -> float:
    """Return how large FKD's files with the labels of a label file are, by crops."""
    with SoftLabelReader(path) as reader:
        sizes = [_fkd_file_bytes(image, Codec.parse(codec), path.with_suffix(".tar")) for image in reader]
        return sum(sizes) / int(reader.num_crops.sum())


def _fkd_file_bytes(image: ImageLabels, codec: Codec, path: Path) -> int:
    """Return the size of the file that FKD's generator would write for an image, by writing it."""
    write_fkd_file(image, codec, path)
    size = path.stat().st_size
    path.unlink()
    return size


def write_fkd_file(image: ImageLabels, codec: Codec, path: Path) -> None:
    """Write an image's labels as FKD's generator does (`generate_soft_label.py`): fractions, flips and float32 labels."""
    labels: NDArray[Any]
    if isinstance(image.labels, DenseLabels):
        labels = image.labels.vectors
    elif codec.name == "hard":
        labels = image.labels.indices[:, 0].astype(np.int64)
    else:
        labels = np.stack([image.labels.indices, image.labels.values], axis=1).astype(np.float32)
        labels = labels[:, :, 0] if codec.name == "smoothing" else labels
    fractions = (image.crops / IMAGE_SIDE).astype(np.float32)
    torch.save([fractions, image.flips, labels], path)


def show_sizes(outcome: Outcome) -> None:
    """Print how large the label files are."""
    rows = [(row.name, row.codec, f"{ours:.2f}", f"{theirs:.1f}", f"{theirs / ours:.1f} x") for row, ours, theirs in outcome.stored]
    click.echo()
    print_table("Bytes per crop", ["labels", "codec", "this format", "FKD's files", "smaller"], rows)


def write_json(outcome: Outcome, path: Path) -> None:
    """Write everything for programs."""
    path.write_text(json.dumps(dataclasses.asdict(outcome), indent=1) + "\n")


def draw(outcome: Outcome, labels: Path, images: Path, path: Path) -> None:
    """Draw an image with its labelled crops, the sizes of files and the accuracy of students."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_crops(left, labels, images)
    _draw_sizes(middle, outcome)
    _draw_accuracies(right, outcome.comparison)
    figure.savefig(path, dpi=120)


def _draw_crops(axes: Any, labels: Path, images: Path) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    with SoftLabelReader(labels) as reader:
        number = min(range(len(reader)), key=lambda image: float(reader[image].labels.dense().max(axis=1).mean()))
        image, key = reader.read(number, crops=[0, 1, 2]), reader.keys[number]
    axes.imshow(Image.open(images / key), extent=(0, IMAGE_SIDE, IMAGE_SIDE, 0))
    lines = []
    for crop, color in enumerate(("tab:orange", "tab:green", "tab:red")):
        top, left, height, width = image.crops[crop].tolist()
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, linewidth=2.5))
        targets = image.labels.dense()[crop]
        lines.append((",  ".join(f"{digit}: {targets[digit]:.2f}" for digit in np.argsort(-targets)[:3]), color))
    axes.set_title(f"{key}: three crops and their labels", fontsize="medium")
    for place, (line, color) in enumerate(lines):
        axes.text(0.5, -0.08 - 0.07 * place, line, color=color, ha="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_sizes(axes: Any, outcome: Outcome) -> None:
    names, ours, theirs = zip(*((row.name, ours, theirs) for row, ours, theirs in outcome.stored), strict=True)
    places = np.arange(len(names))
    axes.barh(places - 0.2, theirs, height=0.4, color="lightgrey", label="FKD files")
    bars = axes.barh(places + 0.2, ours, height=0.4, label="softlabel container")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(title="Bytes per crop", xlabel="bytes", xlim=(0, 1.15 * max(theirs)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.36), ncols=2, frameon=False)


def _draw_accuracies(axes: Any, report: CompareReport) -> None:
    for place, row in enumerate(report.rows):
        axes.plot(row.accuracies, [place] * len(row.accuracies), "o", color="tab:blue", alpha=0.5)
        axes.plot(row.mean, place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(report.rows)), [row.name for row in report.rows])
    axes.invert_yaxis()
    axes.margins(0.12)
    axes.set(title="Accuracy of students (each, and mean)", xlabel="% of test images")
