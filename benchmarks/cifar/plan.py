"""What is trained on CIFAR-100: three pairs of networks, by the recipe of Tian et al. (2020, Contrastive Representation Distillation)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.accuracy.plan import ONLINE, PADDED, TRUTH, VIEWS, Row
from benchmarks.measure.common import RESULTS as FOLDER

RESULTS = FOLDER / "cifar-100.jsonl"
SIDE, PADDING = 32, 4
NUM_VIEWS = 2 * (2 * PADDING + 1) ** 2
EPOCHS, MILESTONES = 240, (150, 180, 210)
TEMPERATURE, TRUTH_WEIGHT = 4.0, 0.1
RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "batch_size": 64,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "crops_per_image": 1,
    "precision": "float32",
}
"""Options of the training of teachers and students."""
SOURCES = (TRUTH, ONLINE, VIEWS)


@dataclass(frozen=True)
class Pair:
    """A teacher and its student, with the published top-1 in percent of both from the classes, and of the student from the teacher."""

    teacher: str
    student: str
    of_teacher: float
    of_classes: float
    of_labels: float

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.teacher}-{self.student}"

    def row(self, source: str) -> Row:
        """Return the row of its students from a source."""
        return row_of(source, self.teacher, self.student)


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("resnet56", "resnet20", of_teacher=72.34, of_classes=69.06, of_labels=70.66),
        Pair("resnet32x4", "resnet8x4", of_teacher=79.42, of_classes=72.50, of_labels=73.33),
        Pair("wrn_40_2", "wrn_16_2", of_teacher=75.61, of_classes=73.26, of_labels=74.92),
    )
}
"""Published: table 1 there."""


def row_of(source: str, teacher: str, student: str) -> Row:
    """Return the row of students from a source."""
    temperature = 1.0 if source == TRUTH else TEMPERATURE
    return Row(source, teacher, PADDED, NUM_VIEWS, crops_per_image=1, temperature=temperature, student=student)


def schedule(epochs: int) -> dict[str, Any]:
    """Return epochs and milestones, these at the same shares of the epochs as in the recipe."""
    milestones = {epochs * milestone // EPOCHS for milestone in MILESTONES} - {0}
    return {"epochs": epochs, "milestones": sorted(milestones) or None}


def runs(pairs: list[Pair], seeds: int) -> Iterator[tuple[Row, int]]:
    """Yield what is trained, seed by seed, so that pairs of students of the same seed grow evenly."""
    for seed in range(seeds):
        yield from ((pair.row(source), seed) for pair in pairs for source in SOURCES)
