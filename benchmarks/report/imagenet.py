"""The table of students on ImageNet's validation images, with ReaL's classes too, and on ImageNetV2.

Each result is what `slcodec evaluate --json` prints, in `results/imagenet/STUDENT.IMAGES.json`; the report holds the commands.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure.common import RESULTS

IMAGENET = RESULTS / "imagenet"
STUDENTS = {
    "resnet50-truth": "ground truth",
    "resnet50-online": "teacher in every step",
    "resnet50-k5": "`marginal_smoothing:k=5`",
    "resnet50-tail": "`marginal_smoothing:t=0.05,tail=100`",
}
"""Folders of runs, and what their students learn from."""
COLUMNS = {
    "top-1": ("val", "top1"),
    "ReaL": ("val", "real"),
    "V2, matched frequency": ("v2-matched-frequency", "top1"),
    "V2, threshold 0.7": ("v2-threshold0.7", "top1"),
    "V2, top images": ("v2-top-images", "top1"),
}
"""Images and measure of each column."""
NOT_RUN = "not run"


def rows(results: Path = IMAGENET) -> list[list[str]]:
    """Return a row of cells for each student: its labels, and its accuracies in percent, as far as they are at hand."""
    return [
        [labels, *(_cell(results / f"{student}.{images}.json", what) for images, what in COLUMNS.values())]
        for student, labels in STUDENTS.items()
    ]


def _cell(path: Path, what: str) -> str:
    text = path.read_text() if path.exists() else ""
    value = json.loads(text)[what] if text else None  # a command that failed leaves an empty file
    return NOT_RUN if value is None else f"{100 * value:.2f}"
