"""The picture of the demo: a photograph with a labelled piece, the size of label files, and the accuracy of students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.demo.outcome import Outcome
from softlabel_codec.demo.photographs import PHOTOGRAPHS, PIECE_SIDE, photograph, piece_box
from softlabel_codec.labels import ImageLabels
from softlabel_codec.reader import SoftLabelReader

SHOWN = "cat"
"""Class folder of the photograph in the picture."""
COLORS = ("tab:orange", "tab:green", "tab:red")
OURS, STORED, FKDS = "tab:blue", "lightsteelblue", "darkgrey"
WIDTH, HEIGHT, DOTS_PER_INCH = 9, 5.6, 160


def draw(outcome: Outcome, labels: Path, path: Path) -> None:
    """Draw a photograph with a piece and three of its labelled crops, the sizes of files and the accuracy of students."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH, HEIGHT))
    places = [(0.1, 3.0, 2.3, 2.3), (2.9, 3.0, 2.3, 2.3), (6.4, 2.95, 2.5, 2.4), (1.1, 0.4, 3.6, 2.0), (5.1, 0.4, 3.8, 2.0)]
    photo, piece, classes, sizes, students = (
        figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT)) for left, bottom, width, height in places
    )
    _draw_labels(photo, piece, classes, labels)
    _draw_sizes(sizes, outcome)
    _draw_students(students, outcome)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _draw_labels(whole_place: Any, piece_place: Any, label_place: Any, labels: Path) -> None:
    from matplotlib.patches import ConnectionPatch, Rectangle  # noqa: PLC0415

    key, image, chosen = _most_ambiguous(labels)
    left, top, right, bottom = piece_box(Path(key).stem)
    whole = photograph(SHOWN)
    for place, pixels, title in (
        (whole_place, whole, f"{SHOWN}, and a piece of it"),
        (piece_place, whole.crop((left, top, right, bottom)), f"{len(chosen)} of its {len(image.crops)} crops"),
    ):
        place.imshow(pixels, cmap="gray", extent=(0, pixels.width, pixels.height, 0))
        place.set(xticks=[], yticks=[], title=title)
    whole_place.add_patch(Rectangle((left, top), PIECE_SIDE, PIECE_SIDE, fill=False, edgecolor=OURS, linewidth=2))
    for side, y in ((top, 0), (bottom, PIECE_SIDE)):
        line = ConnectionPatch((right, side), (0, y), "data", "data", axesA=whole_place, axesB=piece_place, color=OURS, linewidth=1)
        piece_place.add_artist(line)
    for crop, color in zip(chosen, COLORS, strict=False):
        top, left, height, width = image.crops[crop].tolist()
        piece_place.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, linewidth=2.5))
    _draw_classes(label_place, image.labels.dense()[chosen])


def _most_ambiguous(labels: Path) -> tuple[str, ImageLabels, list[int]]:
    """Return the piece whose crops have the most different top classes, and the most confident crop for each of the most frequent ones."""
    with SoftLabelReader(labels) as reader:
        images = {key: reader[key] for key in reader.keys if key.startswith(f"{SHOWN}/")}
    targets = {key: image.labels.dense() for key, image in images.items()}
    key = max(targets, key=lambda key: len(np.unique(targets[key].argmax(axis=1))))
    classes, counts = np.unique(targets[key].argmax(axis=1), return_counts=True)
    often = classes[np.argsort(-counts, kind="stable")][: len(COLORS)]
    return key, images[key], targets[key][:, often].argmax(axis=0).tolist()


def _draw_classes(axes: Any, targets: NDArray[np.float32]) -> None:
    names, values, places = [], [], []
    for crop, row in enumerate(targets):
        for rank, number in enumerate(np.argsort(-row)[:3]):
            names.append(sorted(PHOTOGRAPHS)[number])
            values.append(float(row[number]))
            places.append(4 * crop + rank)
    bars = axes.barh(places, values, height=0.85, color=np.repeat(COLORS[: len(targets)], 3))
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(places, names)
    axes.set(xlim=(0, 1.2), title="their soft labels")
    _only_bars(axes)


def _draw_sizes(axes: Any, outcome: Outcome) -> None:
    rows = outcome.comparison.rows
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    stored = [outcome.stored_bytes_per_crop.get(row.name, 0.0) for row in rows]
    derived = [row.bytes_per_crop or 0.0 for row in rows]
    theirs = [outcome.fkd_bytes_per_crop.get(row.name) or 0.0 for row in rows]
    bars = axes.barh(np.arange(len(rows)) - 0.2, stored, height=0.4, color=STORED, label="with stored crops")
    axes.bar_label(bars, [f"{ours:.1f}, {more:.1f}" if more else "" for ours, more in zip(derived, stored, strict=True)], padding=3)
    ours = axes.barh(np.arange(len(rows)) - 0.2, derived, height=0.4, color=OURS, label="this format")
    fkds = axes.barh(np.arange(len(rows)) + 0.2, theirs, height=0.4, color=FKDS, label="FKD's files (stored crops)")
    axes.bar_label(fkds, [f"{size:.1f}" if size else "" for size in theirs], padding=3)
    axes.legend(
        handles=[ours, bars, fkds], loc="upper right", bbox_to_anchor=(1.09, 0.02), ncols=3, columnspacing=1, handlelength=1, frameon=False
    )
    axes.set(xlim=(0, 1.15 * max(stored + theirs)), title="bytes per crop")
    _only_bars(axes)


def _draw_students(axes: Any, outcome: Outcome) -> None:
    report = outcome.comparison
    reference = next(row.mean for row in report.rows if row.name == report.reference)
    axes.barh(range(len(report.rows)), [row.mean for row in report.rows], height=0.7, color=OURS)
    axes.axvline(reference, linestyle="--", linewidth=1, color="black")
    for place, row in enumerate(report.rows):
        axes.text(1, place, f"{row.mean:.1f}", color="white", va="center", fontweight="bold")
        if row.difference is not None:
            axes.errorbar(row.mean, place, xerr=row.difference.high - row.difference.mean, color="black", capsize=4)
    axes.set(yticks=[], xlim=(0, 1.05 * reference), title=f"% of test pieces right, mean of {len(report.rows[0].seeds)} students")
    axes.set_xlabel(f"intervals: 95 %, of the difference from {report.reference}")
    _only_bars(axes)


def _only_bars(axes: Any) -> None:
    """Remove the axes that numbered bars do not need, and put the first row at the top."""
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
