"""What the demo found out, as rows of a table, as JSON and as a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
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


@dataclass(frozen=True)
class Row:
    """One source of labels, and what students make of it.

    Attributes
    ----------
    source, codec : str
        Where labels come from and how they are stored.
    bytes_per_crop, fkd_bytes_per_crop : float
        Of our file, and of FKD's files with the same labels in float32.
    accuracies : list of float
        Of students, one per seed.
    """

    source: str
    codec: str
    bytes_per_crop: float
    fkd_bytes_per_crop: float
    accuracies: list[float]


def summarise(source: str, codec: str, path: Path, accuracies: list[float]) -> Row:
    """Return the row of a label file and its students."""
    with SoftLabelReader(path) as reader:
        num_crops = int(reader.num_crops.sum())
        fkd_bytes = sum(_fkd_file_bytes(image, Codec.parse(codec), path.with_suffix(".tar")) for image in reader)
    return Row(source, str(Codec.parse(codec)), path.stat().st_size / num_crops, fkd_bytes / num_crops, accuracies)


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


def show(rows: Sequence[Row], teacher_accuracy: float) -> None:
    """Print the table."""
    click.echo(f"\nThe teacher gets {teacher_accuracy:.1%} right. Its labels, and students trained from them:\n")
    print_table(
        f"{len(rows[0].accuracies)} students each; accuracy in % +- standard deviation",
        ["labels", "codec", "bytes/crop", "FKD files", "smaller", "accuracy"],
        [
            (
                row.source,
                row.codec,
                f"{row.bytes_per_crop:.1f}",
                f"{row.fkd_bytes_per_crop:.1f}",
                f"{row.fkd_bytes_per_crop / row.bytes_per_crop:.1f} x",
                _accuracy_text(row),
            )
            for row in rows
        ],
    )


def _accuracy_text(row: Row) -> str:
    spread = f" +- {100 * stdev(row.accuracies):.1f}" if len(row.accuracies) > 1 else ""
    return f"{100 * mean(row.accuracies):.1f}{spread}"


def write_json(rows: Sequence[Row], teacher_accuracy: float, path: Path) -> None:
    """Write the table for programs."""
    results = {"date": time.strftime("%Y-%m-%d"), "teacher_accuracy": teacher_accuracy, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(results, indent=2) + "\n")


def draw(rows: Sequence[Row], labels: Path, images: Path, path: Path) -> None:
    """Draw an image with its labelled crops, the sizes of files and the accuracy of students."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_crops(left, labels, images)
    _draw_sizes(middle, rows)
    _draw_accuracies(right, rows)
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


def _draw_sizes(axes: Any, rows: Sequence[Row]) -> None:
    places = np.arange(len(rows))
    axes.barh(places - 0.2, [row.fkd_bytes_per_crop for row in rows], height=0.4, color="lightgrey", label="FKD files")
    bars = axes.barh(places + 0.2, [row.bytes_per_crop for row in rows], height=0.4, label="softlabel container")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(places, [row.source for row in rows])
    axes.invert_yaxis()
    axes.set(title="Bytes per crop", xlabel="bytes", xlim=(0, 1.15 * max(row.fkd_bytes_per_crop for row in rows)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.36), ncols=2, frameon=False)


def _draw_accuracies(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        values = 100 * np.array(row.accuracies)
        axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.5)
        axes.plot(values.mean(), place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(rows)), [row.source for row in rows])
    axes.invert_yaxis()
    axes.margins(0.12)
    axes.set(title="Accuracy of students (each, and mean)", xlabel="% of test images")
