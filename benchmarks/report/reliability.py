"""From the results of what was tried to `RELIABILITY.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from benchmarks.measure.common import RESULTS

RESULT, PAGE = RESULTS / "reliability.json", RESULTS.parent / "RELIABILITY.md"
_OUTCOMES = (
    "refused_unfinished",
    "recovered_exactly",
    "resumed_to_same_bytes",
    "failed",
    "succeeded",
    "images_beside",
    "unharmed",
    "most_hours_apart",
)
"""Ways to end that not everything tried can end in: of these no zeros are reported."""


class Section(Protocol):
    """A part of the report: its heading, and what it tries and what must hold."""

    title: str
    text: str


def render(results: Mapping[str, Any], sections: Mapping[str, Section]) -> str:
    """Return the text of the page: the figures of all sections that have been run."""
    parts = [
        "# How it fails\n",
        "Made by `make reliability` (`benchmarks/reliability.py`) from [results/reliability.json](results/reliability.json). The tests do "
        "the same in small; a figure stands here only if everything held that the text above it says.\n",
    ]
    parts += ["\n".join(["| at a glance | figure |", "|---|---|", *_at_a_glance(results), ""])]
    for name, section in sections.items():
        parts.append(f"## {section.title}\n\n{section.text}\n")
        if name not in results:
            parts.append("Not run yet.\n")
            continue
        found = results[name]
        machine = found["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
        parts.append(f"{found['date']}, {where}; {found['seconds']} s.\n")
        rows = [f"| {what} | {value} |" for what, value in rows_of(found["figures"])]
        parts.append("\n".join(["| what | figure |", "|---|---|", *rows, ""]))
    parts += [_wrong_uses()]
    return "\n".join(parts)


SILENT = "trained silently"
FOUND = "`check_against_teacher` finds it"
BY_NAME = f"`after_crop` refuses such transforms by name; {FOUND}"
BY_CHECKSUM = f"the dataset refuses the first such image, by its checksum; for arrays {FOUND}"
WRONG_USES = {
    "right": ("-", "passes"),
    "right, decoded at a part of the size": ("-", "passes"),
    "cropped and mirrored again": (SILENT, BY_NAME),
    "half of the crops mirrored": (SILENT, BY_NAME),
    "the middle cut out": (SILENT, BY_NAME),
    "normalised twice (timm's prefetcher)": (SILENT, FOUND),
    "normalised with ImageNet's mean, said to be the teacher's": (SILENT, f"the dataset warns of its default; {FOUND}"),
    "not normalised, said to be": (SILENT, FOUND),
    "interpolation bicubic": (SILENT, FOUND),
    "interpolation lanczos": (SILENT, FOUND),
    "interpolation hamming": (SILENT, FOUND),
    "interpolation box": (SILENT, FOUND),
    "interpolation nearest": (SILENT, FOUND),
    "another copy of the images, JPEG at quality 75": (SILENT, BY_CHECKSUM),
    "another copy of the images, JPEG at quality 95": (SILENT, BY_CHECKSUM),
    "other images under the same names": (SILENT, BY_CHECKSUM),
    "another temperature, 1.2 for 1": (SILENT, f"{FOUND}, except with `hard`, which does not depend on it"),
}
"""Of each wrong use, what happened before there was a check, and what happens now."""
NOT_SEEN_IN_PIXELS = (
    ("`set_epoch` forgotten, or unreachable", "the same N crops for ever", "other crops in each epoch"),
    ("N crops of an image at a time, where N does not divide M", "samples across a round held a crop twice", "no sample does"),
    ("MixUp or CutMix by rolling the batch", "75 % of the crops mixed with their own image", '`collate_crops(order="crop")`: none'),
    ("`transform=` as for an image folder", "cropped and mirrored twice", "refused, with what to use instead"),
    ("an image drawn twice in an epoch", "the same crops", "other crops"),
)


def _wrong_uses() -> str:
    """Return the section on labels that are used wrongly, from the figures of `wrong_uses.py`."""
    found = json.loads((RESULTS / "wrong-uses.json").read_text())
    codec = "marginal_smoothing:k=5"
    rows = []
    for what, (before, now) in WRONG_USES.items():
        figures = found["uses"][what][codec]
        assert figures["ok"] == what.startswith("right"), f"{what}: the check says {figures['reason']}"
        rows.append(f"| {what} | {before} | {figures['agreement']:.2f} | {figures['margin']:.3f} | {figures['difference']:.3f} | {now} |")
    return "\n".join(
        [
            "## Labels used wrongly\n",
            f"Made by `benchmarks/measure/wrong_uses.py` ([results/wrong-uses.json](results/wrong-uses.json)), {found['date']}: what a "
            f"loader delivers is shown to the teacher of the labels (`{codec}`, {found['num_crops']} crops of photographs). Agreement is "
            "that of the top classes; margin is by how much, in nats, the teacher prefers its own top class to the label's; difference is "
            "that of the top class's probability; means over crops. The tests have the same for other codecs.\n",
            "| use | before | agreement | margin | difference | now |",
            "|---|---|---:|---:|---:|---|",
            *rows,
            "",
            "What pixels and labels cannot show:\n",
            "| use | before | now |",
            "|---|---|---|",
            *(f"| {what} | {before} | {now} |" for what, before, now in NOT_SEEN_IN_PIXELS),
            "",
        ]
    )


_WHOSE_KILLS = {"crashes": "of writers of one file", "workers": "of workers of a label set", "ray": "of drivers and actors of Ray's"}


def _at_a_glance(results: Mapping[str, Any]) -> list[str]:
    """Return the figures that people ask for first, of the sections that have been run."""
    figures = {name: found["figures"] for name, found in results.items()}
    rows = []
    if "damage" in figures:
        damage = figures["damage"]
        total, found = (sum(one[name] for one in damage.values()) for name in ("damaged", "found_by_verify"))
        bits = damage["every single bit flipped"]["damaged"]
        rows.append(("damaged files, of which `verify` found", f"{total:,} ({bits:,} of one flipped bit); {found:,}"))
    if "fuzzing" in figures:
        runs, crashes = (
            sum(found) for found in zip(*((one["runs"], len(one["crashes"])) for one in figures["fuzzing"].values()), strict=True)
        )
        rows.append(("inputs fuzzed; of them crashes, hangs, or beyond the limit of memory", f"{runs:,}; {crashes}"))
    kills = {name: sum(_kills(figures[name])) for name in ("crashes", "workers", "ray") if name in figures}
    if kills:
        each = ", ".join(f"{kills[name]:,} {whose}" for name, whose in _WHOSE_KILLS.items() if name in kills)
        rows.append(("processes killed or interrupted, all survived", f"{sum(kills.values()):,}: {each}"))
    if "storage" in figures:
        storage = figures["storage"]
        reads = [one for one in storage.values() if "right_before" in one]
        refused = sum(sum(one["refused"].values()) for one in reads)
        total, right = (sum(one[name] for one in reads) for name in ("reads", "right"))
        rows.append(("reads through a network that fails: right; refused; wrong", f"{right:,}; {refused:,}; {total - right - refused:,}"))
        damaged = storage["objects damaged in the bucket"]
        rows.append(("objects damaged in a bucket, of which `verify` found", f"{damaged['damaged']:,}; {damaged['found_by_verify']:,}"))
    if "load" in figures:
        workers = [one for one in figures["load"].values() if "growth_bytes" in one]
        growth = [f"{one['growth_bytes'] / 1e6:+.1f} of {one['memory_bytes'][0] / 1e6:.0f} MB ({one['start_method']})" for one in workers]
        rows.append(("memory growth of 16 workers over a million reads", ", ".join(growth)))
    if "mutation" in figures:
        *_, total = figures["mutation"].values()
        rows.append(("mutants killed", f"{total['killed']:,} of {total['mutants']:,} ({total['killed'] / total['mutants']:.1%})"))
    if "coverage" in figures:
        rows.append(("coverage", "; ".join(f"{what}: {value:g}" for what, value in figures["coverage"].items())))
    return [f"| {what} | {value} |" for what, value in rows]


def _kills(figures: Any) -> Iterator[int]:
    """Yield the numbers of killed or interrupted runs, wherever they stand in the figures of a section."""
    for name, found in figures.items():
        if "killed" in name or "interrupted" in name:
            yield from _runs(found)


def _runs(found: Mapping[str, Any]) -> Iterator[int]:
    for name, value in found.items():
        if name in ("runs", "kills"):
            yield value
        elif isinstance(value, Mapping):
            yield from _runs(value)


def rows_of(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and what is to be said of them: one row for each group of figures."""
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            yield before + name, _number(value)
        elif all(isinstance(item, Mapping) for item in value.values()) and "outcome" not in value:
            yield from rows_of(value, f"{before}{name}: ")
        else:
            yield before + name, ", ".join(_said(value))


def _said(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of a group as words; of outcomes only those that there were."""
    for name, value in figures.items():
        words = name.replace("_", " ")
        if name in ("module", "target", "start_method", "signal"):  # said by what stands before
            continue
        if name == "outcome":
            yield from _said(value)
        elif isinstance(value, Mapping):
            yield f"{words}: " + "; ".join(f"{_number(item)} {kind}" for kind, item in value.items() if item)
        elif name == "memory_bytes":
            yield f"{min(value) / 1e6:,.1f} to {max(value) / 1e6:,.1f} MB"
        elif isinstance(value, list):
            yield f"{len(value)} {words}"
        elif isinstance(value, bool | str) or value is None:
            yield words if value is True else f"{words}: {value}"
        elif value or name not in _OUTCOMES:
            yield f"{_number(value)} {words}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
