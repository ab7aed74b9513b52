"""From the results of the accuracy experiment to the section of the report; what has not been run is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from benchmarks.accuracy.plan import (
    ALL,
    DEFAULT,
    FEW,
    FIELD,
    FULL,
    HIGH_TEMPERATURE,
    MAPS,
    MIXUP,
    ONLINE,
    PADDED,
    SCALES,
    SURE,
    TAIL,
    TRUTH,
    VIEWS,
    Row,
)
from benchmarks.accuracy.results import read_results
from softlabel_codec.compare.outcome import CONFIDENCE, Interval

RESULTS = Path(__file__).with_name("results")
TITLES = {"gpu": "On a GPU", "cpu": "On a CPU"}
COMMANDS = {scale: f"`python -m benchmarks.accuracy WORK --scale {scale}`" for scale in TITLES}
NAMES = {TRUTH: "ground truth", ONLINE: "teacher in every step", MAPS: "ReLabel-style maps", VIEWS: "all 50 views, stored"}
FEWEST_SEEDS = 5
"""Pairs of students that a verdict needs."""
KEPT, LOST = 0.3, 0.5
"""What a codec may cost in points, and how far its interval may reach."""
HOLDS, FAILS, UNKNOWN = "holds", "**does not hold**", "not yet known"


@dataclass(frozen=True)
class Results:
    """Results of one scale: accuracies in percent by row and seed, what is known of label files by row, and of teachers by name."""

    scale: str
    runs: dict[Row, dict[int, float]]
    labels: dict[Row, dict[str, Any]]
    teachers: dict[str, dict[str, Any]]
    circumstances: list[dict[str, Any]]

    def known_of(self, row: Row) -> dict[str, Any]:
        """Return what is known of the labels of a row."""
        return self.labels.get(Row(row.source, row.teacher, row.images, row.stored, temperature=row.made_at), {})

    def kl(self, row: Row) -> float | None:
        """Return the KL of the labels of a row at the temperature of its students, in nats; None if it is infinite, or not known."""
        known = self.known_of(row)
        of_all = {one["temperature"]: one["kl"] for one in known.get("fidelity", ())}
        kl: float | None = of_all[row.temperature] if of_all else known.get("kl")
        return kl

    def difference(self, row: Row, other: Row) -> Interval | None:
        """Return by how much a row is above another, of students with the same seed, and its 95 % interval; None for fewer than two."""
        ours, theirs = self.runs.get(row, {}), self.runs.get(other, {})
        pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        if len(pairs) < 2:
            return None
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1)) * stdev(pairs) / math.sqrt(len(pairs))
        return Interval(mean(pairs), mean(pairs) - reach, mean(pairs) + reach)

    def pairs(self, row: Row, other: Row) -> int:
        """Return how many seeds two rows have in common."""
        return len(self.runs.get(row, {}).keys() & self.runs.get(other, {}).keys())


def load(results: Path = RESULTS) -> list[Results]:
    """Return the results at hand, by scale."""
    return [_load(scale, results / f"{scale}.jsonl") for scale in TITLES if (results / f"{scale}.jsonl").exists()]


def _load(scale: str, path: Path) -> Results:
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


def render(results: Sequence[Results]) -> str:
    """Return the section of the report."""
    parts = [_head(results)]
    for one in results:
        parts += [_describe(one), _claims(one)]
        parts += [_sources(one, teacher) for teacher in one.teachers]
        parts += [_crops(one, teacher, images) for teacher in one.teachers for images in (ALL, FEW)]
        parts += [_few(one, temperature) for temperature in (1.0, HIGH_TEMPERATURE)]
        parts += [_settings(one), _missing(one)]
    return "\n\n".join(part.strip() for part in parts if part)


def _head(results: Sequence[Results]) -> str:
    absent = [scale for scale in TITLES if scale not in {one.scale for one in results}]
    not_run = " ".join(
        f"**Not run: the experiment {TITLES[scale][0].lower()}{TITLES[scale][1:]}.** {COMMANDS[scale]} runs it, in parts."
        for scale in absent
    )
    return f"""
100 classes of Tiny-ImageNet, crops of 32 pixels. A teacher labels crops of each image once, and students are trained from each kind of labels: same images, crops of the same distribution, same recipe, several seeds.
Accuracy is top-1 in % on 5,000 validation images, with its standard deviation over seeds. Differences are means over pairs of students with the same seed, with 95 % intervals (t distribution); that other validation images would give other numbers is not in them.
A claim is judged from {FEWEST_SEEDS} pairs on, by its interval. {not_run}
"""


def _describe(one: Results) -> str:
    machines = sorted({run["machine"] for run in one.circumstances})
    dates = sorted({run["date"] for run in one.circumstances})
    teachers = [f"`{name}`, {100 * found['evaluation']['top1']:.1f} %" for name, found in one.teachers.items()]
    student = SCALES[one.scale].students["usual"]
    return f"""
### {TITLES[one.scale]}

Teachers: {" and ".join(teachers)}. Student `{student["student"].rpartition(":")[2]}`, {student["epochs"]} crops of each of 22,000 images, 4 of an image at a time unless said otherwise. {sum(map(len, one.runs.values()))} runs on {" and ".join(machines)}, {" to ".join(dict.fromkeys((dates[0], dates[-1])))}.
"""


def _planned(one: Results) -> set[Row]:
    return {row for group in SCALES[one.scale].groups for row in group}


def _most(one: Results, **fields: Any) -> int:
    """Return the largest number of stored crops of rows with these fields, whether they have been run or are planned."""
    return max(
        (row.stored for row in one.runs.keys() | _planned(one) if all(getattr(row, name) == value for name, value in fields.items())),
        default=0,
    )


def _claims(one: Results) -> str:
    """Return what is claimed, and whether it holds, as far as the runs at hand tell."""
    rows: list[tuple[str, ...]] = []
    not_run: list[str] = []
    planned = _planned(one)

    def judge(claim: str, row: Row, other: Row, verdict: Callable[[Interval], bool | None]) -> None:
        found, pairs = one.difference(row, other), one.pairs(row, other)
        if not pairs:
            if {row, other} <= planned:
                not_run.append(claim)
            return
        said = UNKNOWN
        if found is not None and pairs >= FEWEST_SEEDS:
            said = {True: HOLDS, False: FAILS, None: UNKNOWN}[verdict(found)]
        rows.append((claim, str(pairs), _interval(found), said))

    for teacher in one.teachers:
        most = _most(one, teacher=teacher, images=ALL)
        full, k5, tail = (Row(source, teacher, stored=most) for source in (FULL, DEFAULT, TAIL))
        online, truth = Row(ONLINE, teacher), Row(TRUTH)
        judge(f"{teacher}: {most} stored crops with full labels are as good as the teacher in every step", full, online, _no_loss)
        judge(f"{teacher}: full labels are above ground truth", full, truth, _above)
        judge(f"{teacher}: `{DEFAULT}` is within {KEPT} of full labels", k5, full, _small_loss)
        judge(f"{teacher}: `{TAIL}` is within {KEPT} of full labels", tail, full, _small_loss)
        judge(f"{teacher}: `{TAIL}` is at least as good as `{DEFAULT}`", tail, k5, _not_below)
        most = _most(one, teacher=teacher, images=FEW)
        for temperature in (1.0, HIGH_TEMPERATURE) if most else ():
            full, fresh, k5, tail, field = (
                Row(source, teacher, FEW, most, temperature=temperature) for source in (FULL, ONLINE, DEFAULT, TAIL, FIELD)
            )
            about = f"{teacher}, few images, T = {temperature:g}:"
            judge(f"{about} {most} stored crops with full labels are as good as the teacher in every step", full, fresh, _no_loss)
            for row in (k5, tail, field):
                judge(f"{about} `{row.source}` is within {KEPT} of full labels", row, full, _small_loss)
        views, fresh = (Row(source, teacher, PADDED, stored=0, crops_per_image=1) for source in (VIEWS, ONLINE))
        judge(f"{teacher}: all 50 views of a padded image, stored, are as good as the teacher in every step", views, fresh, _no_loss)
        for images in (ALL, FEW):
            most = _most(one, teacher=teacher, images=images)
            for stored in sorted(
                {row.stored for row in one.runs if (row.teacher, row.images) == (teacher, images) and row.stored} - {most}
            ):
                few, many = Row(FULL, teacher, images, stored), Row(FULL, teacher, images, most)
                judge(f"{teacher}: {stored} crops with full labels are as good as {most} ({images} images)", few, many, _no_loss)
    judged = _table(["claim", "pairs", "difference", "verdict"], rows) if rows else ""
    return judged + (f"\n\nNothing has been run yet on these claims: {'; '.join(not_run)}." if not_run else "")


def _no_loss(found: Interval) -> bool | None:
    return True if found.low >= -LOST else False if found.high < 0 else None


def _small_loss(found: Interval) -> bool | None:
    return found.mean >= -KEPT and found.low >= -LOST if found.high >= -KEPT else False


def _not_below(found: Interval) -> bool | None:
    return True if found.low >= -KEPT else False if found.high < 0 else None


def _above(found: Interval) -> bool | None:
    return True if found.low > 0 else False if found.high < 0 else None


def _sources(one: Results, teacher: str) -> str:
    most = _most(one, teacher=teacher, images=ALL)
    usual = [row for row in one.runs if row == Row(row.source, row.teacher, stored=row.stored) and row.teacher in (teacher, "")]
    rows = [row for row in usual if row.stored in (most, 0)]
    entropy = one.known_of(Row(FULL, teacher, stored=most)).get("entropy")
    sure = (
        ""
        if entropy is None
        else f" Its labels have {entropy:.2f} nats of entropy, as many as {math.exp(entropy):.0f} equally probable classes."
    )
    return f"Labels of the teacher `{teacher}`.{sure}\n\n" + _rows(one, rows, Row(FULL, teacher, stored=most))


def _rows(one: Results, rows: Sequence[Row], reference: Row) -> str:
    """Return a table of rows of one teacher, the best first."""
    lines = []
    for row in sorted(rows, key=lambda row: -mean(one.runs[row].values())):
        values, known = list(one.runs[row].values()), one.known_of(row)
        size = known["bytes"] / known["num_images"] if known else None
        difference = "" if row == reference else _interval(one.difference(row, reference))
        lines.append((_name(row), _mean(values), len(values), difference, _number(size, 0), _number(one.kl(row), 3)))
    return _table(["labels", "top-1", "n", "above full labels", "bytes per image", "KL"], lines)


def _crops(one: Results, teacher: str, images: str) -> str:
    """Return the table of numbers of stored crops: accuracy, and bytes per image."""
    rows = [row for row in one.runs if row == Row(row.source, teacher, images, row.stored) and row.source in (FULL, TAIL, DEFAULT)]
    numbers = sorted({row.stored for row in rows})
    if len(numbers) < 2:
        return ""
    lines = []
    for source in (FULL, TAIL, DEFAULT):
        cells = []
        for stored in numbers:
            row = Row(source, teacher, images, stored)
            values, known = list(one.runs.get(row, {}).values()), one.known_of(row)
            cells.append(
                f"{_mean(values)} (n = {len(values)}, {known['bytes'] / known['num_images']:.0f} bytes)" if values and known else ""
            )
        lines.append((f"`{source}`", *cells))
    what = "few images (22 of each class), many draws of each" if images == FEW else "all images"
    return f"Stored crops of each image, labels of the teacher `{teacher}`, {what}:\n\n" + _table(["labels", *map(str, numbers)], lines)


def _few(one: Results, temperature: float) -> str:
    """Return the table of few images, of which there are many draws each: all codecs at the largest number of stored crops."""
    rows = [row for row in one.runs if row.images == FEW and (row.temperature == temperature or row.source == TRUTH)]
    most = max((row.stored for row in rows), default=0)
    rows = [row for row in rows if row.stored in (most, 0)]
    teacher = next((row.teacher for row in rows if row.teacher), "")
    if not any(row.stored for row in rows):
        return ""
    epochs = SCALES[one.scale].few_epochs
    what = (
        f"Few images (22 of each class) and {epochs} draws of each, {most} crops stored, temperature {temperature:g}, teacher `{teacher}`"
    )
    return f"{what}:\n\n{_rows(one, rows, Row(FULL, teacher, FEW, most, temperature=temperature))}"


def _settings(one: Results) -> str:
    """Return the tables of rows with another setting than usual, each beside its own full labels."""
    most = _most(one, teacher=SURE, images=ALL)
    settings: dict[str, dict[str, Any]] = {
        f"Temperature {HIGH_TEMPERATURE:g}": {"temperature": HIGH_TEMPERATURE},
        f"Mixup {MIXUP}": {"mixup": MIXUP},
        "The larger student": {"student": "large"},
    }
    parts = []
    for title, fields in settings.items():
        rows = [row for row in one.runs if row == replace(Row(row.source, row.teacher, stored=row.stored), **fields)]
        if rows:
            parts.append(f"{title}:\n\n{_rows(one, rows, Row(FULL, stored=most, **fields))}")
    numbers = sorted({row.crops_per_image for row in one.runs if row.images == ALL})
    if len(numbers) > 1:
        found = [[one.runs.get(Row(source, stored=most, crops_per_image=number), {}) for number in numbers] for source in (TAIL, TRUTH)]
        lines = [
            (name, *(f"{_mean(list(values.values()))} (n = {len(values)})" if values else "" for values in runs))
            for name, runs in zip((f"`{TAIL}`", NAMES[TRUTH]), found, strict=True)
        ]
        parts.append("Crops of an image that are taken at a time:\n\n" + _table(["labels", *map(str, numbers)], lines))
    return "\n\n".join(parts)


def _missing(one: Results) -> str:
    planned = list(SCALES[one.scale].runs())
    missing = [(row, seed) for row, seed in planned if seed not in one.runs.get(row, {})]
    return (
        f"Not run: {len(missing)} of {len(planned)} planned runs; {COMMANDS[one.scale]} goes on, if WORK holds the weights of these teachers."
        if missing
        else ""
    )


def _name(row: Row) -> str:
    name = NAMES.get(row.source, f"`{row.source}`")
    if row.source == FIELD:
        name += ", fitted crops only" if row.fitted_only else ", a new crop in each draw"
    return name


def _mean(values: Sequence[float]) -> str:
    return "" if not values else f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
