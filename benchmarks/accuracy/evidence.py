"""The results of the accuracy experiment by row, and the differences between rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from benchmarks.accuracy.plan import FIELD, MAPS, ONLINE, SCALES, TRUTH, VIEWS, Row
from benchmarks.accuracy.results import read_results
from softlabel_codec.compare.outcome import CONFIDENCE, Interval

RESULTS = Path(__file__).with_name("results")
POWER = 0.8
TITLES = {"gpu": "On a GPU", "cpu": "On a CPU", "settings": "On a CPU, other settings"}
COMMANDS = {scale: f"`python -m benchmarks.accuracy WORK --scale {scale}`" for scale in TITLES}
NAMES = {TRUTH: "ground truth", ONLINE: "teacher in every step", MAPS: "ReLabel-style maps", VIEWS: "all views, stored"}


@dataclass(frozen=True)
class Results:
    """Results of one scale: accuracies in percent by row and seed, what is known of label files by row, and of teachers by name."""

    scale: str
    runs: dict[Row, dict[int, float]]
    labels: dict[Row, dict[str, Any]]
    teachers: dict[str, dict[str, Any]]
    circumstances: list[dict[str, Any]]

    @property
    def planned(self) -> set[Row]:
        """Rows of the plan, whether they have been run or not."""
        return {row for group in SCALES[self.scale].groups for row in group}

    def known_of(self, row: Row) -> dict[str, Any]:
        """Return what is known of the labels of a row."""
        return self.labels.get(Row(row.source, row.teacher, row.images, row.stored, temperature=row.made_at), {})

    def fidelity(self, row: Row) -> dict[str, float | None]:
        """Return how near the labels of a row are to the teacher's at the temperature of its students; nothing if that is not known.

        It is not known of another policy than the codec's, by which labels are not measured here.
        """
        if row.policy:
            return {}
        known = self.known_of(row)
        of_all: dict[float, dict[str, float | None]] = {one["temperature"]: one for one in known.get("fidelity", ())}
        return of_all[row.temperature] if of_all else {"kl": known["kl"]} if "kl" in known else {}

    def difference(self, row: Row, other: Row) -> Interval | None:
        """Return by how much a row is above another, of students with the same seed, and its 95 % interval; None for fewer than two."""
        ours, theirs = self.runs.get(row, {}), self.runs.get(other, {})
        pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        if len(pairs) < 2:
            return None
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1)) * stdev(pairs) / math.sqrt(len(pairs))
        return Interval(mean(pairs), mean(pairs) - reach, mean(pairs) + reach)

    def seen_from(self, row: Row, other: Row) -> float | None:
        """Return the difference that these pairs would show, as one that is not 0, in 80 of 100 experiments; None for fewer than two."""
        found, degrees = self.difference(row, other), self.pairs(row, other) - 1
        if found is None:
            return None
        usual, power = (float(stats.t.ppf(share, degrees)) for share in ((1 + CONFIDENCE) / 2, POWER))
        return (found.mean - found.low) * (1 + power / usual)

    def pairs(self, row: Row, other: Row) -> int:
        """Return how many seeds two rows have in common."""
        return len(self.runs.get(row, {}).keys() & self.runs.get(other, {}).keys())

    def most_stored(self, **fields: Any) -> int:
        """Return the largest number of stored crops of rows with these fields, whether they have been run or are planned."""
        rows = self.runs.keys() | self.planned
        return max((row.stored for row in rows if all(getattr(row, name) == value for name, value in fields.items())), default=0)


def load(results: Path = RESULTS) -> list[Results]:
    """Return the results at hand, by scale."""
    return [load_file(scale, results / f"{scale}.jsonl") for scale in TITLES if (results / f"{scale}.jsonl").exists()]


def load_file(scale: str, path: Path) -> Results:
    """Return the results in a file, none if there is none."""
    runs: dict[Row, dict[int, float]] = {}
    labels, teachers, circumstances = {}, {}, []
    for result in read_results(path):
        if result["kind"] == "run":
            runs.setdefault(Row(**result["row"]), {})[result["seed"]] = 100 * result["result"]["evaluation"]["top1"]
            circumstances.append(result)
        elif result["kind"] == "labels":
            labels[Row(**result["row"])] = result
        elif result["kind"] == "teacher":
            teachers[result["teacher"]] = result
    return Results(scale, runs, labels, teachers, circumstances)


def name_of(row: Row) -> str:
    """Return how the labels of a row are called in tables."""
    name = NAMES.get(row.source, f"`{row.source}`")
    if row.source == FIELD:
        name += ", fitted crops only" if row.fitted_only else ", a new crop in each draw"
    return f"{name}, read with `{row.policy}`" if row.policy else name


def mean_of(values: Sequence[float]) -> str:
    """Return a mean with its standard deviation."""
    return "" if not values else f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def interval(found: Interval | None) -> str:
    """Return a difference with its interval."""
    return "" if found is None else f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def number(value: float | None, digits: int) -> str:
    """Return a number, or nothing."""
    return "" if value is None else f"{value:,.{digits}f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
