"""From the results of the accuracy experiment to the section of the report; what has not been run is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

from benchmarks.accuracy import claims, prediction
from benchmarks.accuracy.evidence import COMMANDS, NAMES, TITLES, Results, interval, mean_of, name_of, number, table
from benchmarks.accuracy.plan import ALL, DEFAULT, FEW, FULL, HIGH_TEMPERATURE, MIXUP, SCALES, SURE, TAIL, TRUTH, Row


def render(results: Sequence[Results]) -> str:
    """Return the section of the report."""
    parts = [_head(results), claims.render(results), prediction.render(results)]
    for one in results:
        parts += [_describe(one)]
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
A claim is judged from {claims.FEWEST_SEEDS} pairs on, by its interval. {not_run}
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
                f"{mean_of(values)} (n = {len(values)}, {known['bytes'] / known['num_images']:.0f} bytes)" if values and known else ""
            )
        lines.append((f"`{source}`", *cells))
    what = "few images (22 of each class), many draws of each" if images == FEW else "all images"
    return f"Stored crops of each image, labels of the teacher `{teacher}`, {what}:\n\n" + table(["labels", *map(str, numbers)], lines)


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
    most = one.most_stored(teacher=SURE, images=ALL)
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
            (name, *(f"{mean_of(list(values.values()))} (n = {len(values)})" if values else "" for values in runs))
            for name, runs in zip((f"`{TAIL}`", NAMES[TRUTH]), found, strict=True)
        ]
        parts.append("Crops of an image that are taken at a time:\n\n" + table(["labels", *map(str, numbers)], lines))
    return "\n\n".join(parts)


def _missing(one: Results) -> str:
    planned = list(SCALES[one.scale].runs())
    missing = [(row, seed) for row, seed in planned if seed not in one.runs.get(row, {})]
    if not missing:
        return ""
    goes_on = f"{COMMANDS[one.scale]} goes on, if WORK holds the weights of these teachers"
    return f"Not run: {len(missing)} of {len(planned)} planned runs; {goes_on}. {_hours(one, len(missing))}"


def _hours(one: Results, runs: int) -> str:
    """Return how long so many runs take, one after another, by the median time of those that are known on the machine of most of them."""
    machines = [run["machine"] for run in one.circumstances]
    if not machines:
        return ""
    usual = max(sorted(set(machines)), key=machines.count)
    each = median(run["seconds"] for run in one.circumstances if run["machine"] == usual)
    return f"Estimated time: {runs * each / 3600:.1f} hours one after another, at the median of {each:.0f} seconds of the runs on {usual}."
