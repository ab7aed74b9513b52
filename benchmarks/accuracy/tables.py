"""From the results of the accuracy experiment to the section of the report; what has not been run is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import mean, median
from typing import Any

from benchmarks.accuracy import budget, claims, prediction
from benchmarks.accuracy.evidence import COMMANDS, TITLES, Results, interval, mean_of, name_of, number, table
from benchmarks.accuracy.plan import (
    ALL,
    DEFAULT,
    FEW,
    FEW_DRAWS,
    FULL,
    HIGH_TEMPERATURE,
    MANY_DRAWS,
    MIXUP,
    SCALES,
    TAIL,
    TRUTH,
    USUAL_CROPS_PER_IMAGE,
    Row,
)

WHAT = {ALL: "", FEW: ", few images (22 of each class)"}


def render(results: Sequence[Results]) -> str:
    """Return the section of the report."""
    parts = [_head(results), claims.render(results), budget.render(results), prediction.render(results)]
    for one in results:
        parts += [_describe(one)]
        parts += [_sources(one, teacher) for teacher in one.teachers]
        parts += [_crops(one, teacher, *kind) for teacher in one.teachers for kind in product((ALL, FEW), (0, FEW_DRAWS, MANY_DRAWS))]
        parts += [_few(one, teacher, temperature) for teacher in one.teachers for temperature in (1.0, HIGH_TEMPERATURE)]
        parts += [_settings(one, teacher, images) for teacher in one.teachers for images in (ALL, FEW)]
        parts += [_missing(one)]
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
A claim is judged from {claims.FEWEST_SEEDS} pairs on, by its interval. {not_run}
"""


def _describe(one: Results) -> str:
    machines = sorted({run["machine"] for run in one.circumstances})
    dates = sorted({run["date"] for run in one.circumstances})
    teachers = [f"`{name}`, {100 * found['evaluation']['top1']:.1f} %" for name, found in one.teachers.items()]
    student = SCALES[one.scale].students["usual"]
    return f"""
### {TITLES[one.scale]}

Teachers: {" and ".join(teachers)}. Student `{student["student"].rpartition(":")[2]}`, {student["epochs"]} draws of each of 22,000 images or {SCALES[one.scale].few_epochs} of each of few, 4 of an image at a time unless said otherwise. {sum(map(len, one.runs.values()))} runs on {" and ".join(machines)}, {" to ".join(dict.fromkeys((dates[0], dates[-1])))}.
"""


def _sources(one: Results, teacher: str) -> str:
    most = one.most_stored(teacher=teacher, images=ALL)
    usual = [row for row in one.runs if row == Row(row.source, row.teacher, stored=row.stored) and row.teacher in (teacher, "")]
    rows = [row for row in usual if row.stored in (most, 0)]
    if not any(row.teacher for row in rows):
        return ""
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
        difference = "" if row == reference else interval(one.difference(row, reference))
        lines.append((name_of(row), mean_of(values), len(values), difference, number(size, 0), number(one.fidelity(row).get("kl"), 3)))
    return table(["labels", "top-1", "n", "above full labels", "bytes per image", "KL"], lines)


def _crops(one: Results, teacher: str, images: str, draws: int) -> str:
    """Return the table of numbers of stored crops: accuracy, and bytes per image."""
    usual = [row for row in one.runs if row == Row(row.source, teacher, images, row.stored, draws=draws)]
    rows = [row for row in usual if row.source in (FULL, TAIL, DEFAULT)]
    numbers = sorted({row.stored for row in rows})
    if len(numbers) < 2:
        return ""
    lines = []
    for source in (FULL, TAIL, DEFAULT):
        cells = []
        for stored in numbers:
            row = Row(source, teacher, images, stored, draws=draws)
            values, known = list(one.runs.get(row, {}).values()), one.known_of(row)
            cells.append(
                f"{mean_of(values)} (n = {len(values)}, {known['bytes'] / known['num_images']:.0f} bytes)" if values and known else ""
            )
        if any(cells):
            lines.append((f"`{source}`", *cells))
    drawn = draws or (SCALES[one.scale].few_epochs if images == FEW else SCALES[one.scale].students["usual"]["epochs"])
    said = f"Stored crops of each image, teacher `{teacher}`{WHAT[images]}, {drawn} draws of each:"
    return f"{said}\n\n" + table(["labels", *map(str, numbers)], lines)


def _few(one: Results, teacher: str, temperature: float) -> str:
    """Return the table of few images, of which there are many draws each: all codecs at the largest number of stored crops."""
    of_teacher = [row for row in one.runs if row.teacher == teacher and row.temperature == temperature]
    known = [row for row in of_teacher if row == replace(_few_usual(row), temperature=temperature)]
    most = max((row.stored for row in known), default=0)
    rows = [row for row in [*known, Row(TRUTH, images=FEW)] if row in one.runs and row.stored in (most, 0)]
    if not any(row.stored for row in rows):
        return ""
    epochs = SCALES[one.scale].few_epochs
    what = f"Teacher `{teacher}`{WHAT[FEW]}, {epochs} draws of each, {most} crops stored, temperature {temperature:g}"
    return f"{what}:\n\n{_rows(one, rows, Row(FULL, teacher, FEW, most, temperature=temperature))}"


def _few_usual(row: Row) -> Row:
    return Row(row.source, row.teacher, FEW, row.stored, fitted_only=row.fitted_only, policy=row.policy)


def _settings(one: Results, teacher: str, images: str) -> str:
    """Return the tables of a teacher's rows with another setting than usual, each beside its own full labels."""
    settings: dict[str, dict[str, Any]] = {f"Mixup {MIXUP}": {"mixup": MIXUP}, "The larger student": {"student": "large"}}
    if images == ALL:
        settings[f"Temperature {HIGH_TEMPERATURE:g}"] = {"temperature": HIGH_TEMPERATURE}
    parts = []
    for title, fields in settings.items():
        full = Row(FULL, teacher, images, one.most_stored(teacher=teacher, images=images), **fields)
        rows = [row for row in one.runs if row == Row(row.source, teacher, images, row.stored, **fields)]
        if rows and full in one.planned:
            parts.append(f"{title}, teacher `{teacher}`{WHAT[images]}:\n\n{_rows(one, rows, full)}")
    return "\n\n".join([*parts, _at_a_time(one, teacher, images)])


def _at_a_time(one: Results, teacher: str, images: str) -> str:
    """Return the table of numbers of crops of an image that are taken at a time."""
    kinds = [Row(TAIL, teacher, images), Row(TRUTH, images=images)]
    lines, numbers = [], sorted({row.crops_per_image for row in one.runs if replace(row, crops_per_image=USUAL_CROPS_PER_IMAGE) in kinds})
    if len(numbers) < 2 or replace(kinds[0], crops_per_image=1) not in one.planned:
        return ""
    for kind in kinds:
        found = [one.runs.get(replace(kind, crops_per_image=number), {}) for number in numbers]
        if any(found):
            lines.append((name_of(kind), *(f"{mean_of(list(values.values()))} (n = {len(values)})" if values else "" for values in found)))
    what = f"Crops of an image that are taken at a time, teacher `{teacher}`{WHAT[images]}:"
    return f"{what}\n\n{table(['labels', *map(str, numbers)], lines)}"


def _missing(one: Results) -> str:
    missing, planned = _num_missing(one), sum(1 for _ in SCALES[one.scale].runs())
    if not missing:
        return ""
    goes_on = f"{COMMANDS[one.scale]} goes on, if WORK holds the weights of these teachers"
    return f"Not run: {missing} of {planned} planned runs; {goes_on}. {_hours(one, missing)}"


def not_run(results: Sequence[Results]) -> str:
    """Return a row for each scale of which runs are missing: what, the command, where it is tried in small, and the time."""
    tried = "`--scale check`, tests/test_accuracy.py"
    rows = [
        (
            f"Accuracy, {TITLES[one.scale][0].lower()}{TITLES[one.scale][1:]}: {missing} runs",
            COMMANDS[one.scale],
            tried,
            _hours(one, missing),
        )
        for one in results
        if (missing := _num_missing(one))
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _num_missing(one: Results) -> int:
    return sum(seed not in one.runs.get(row, {}) for row, seed in SCALES[one.scale].runs())


def _hours(one: Results, runs: int) -> str:
    """Return how long so many runs take, one after another, by the median time of those that are known on the machine of most of them."""
    machines = [run["machine"] for run in one.circumstances]
    if not machines:
        return ""
    usual = max(sorted(set(machines)), key=machines.count)
    each = median(run["seconds"] for run in one.circumstances if run["machine"] == usual)
    return f"Estimated time: {runs * each / 3600:.1f} hours one after another, at the median of {each:.0f} seconds of the runs on {usual}."
