"""From the results of the accuracy experiment to the section of the report; what has not been run is said."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accuracy.plan import CODECS, CROPS_PER_IMAGE, DEFAULT, OTHERS, REFERENCE, SCALES, STORED_CROPS, TAILS, USUAL_CROPS_PER_IMAGE, cells
from softlabel_codec.trainer.files import read_result
from softlabel_codec.trainer.outcome import Interval, welch

RESULTS = Path(__file__).with_name("results")
MARGIN = 0.5
TITLES = {"gpu": "On a GPU", "cpu": "On a CPU: smaller networks and images"}
TAIL_BYTES_PER_CROP = 3.5
"""What the image-tail codec may cost."""
NOT_RUN = {
    "gpu": "**The experiment on a GPU has not been run: none was at hand.** One command does it, in parts: "
    "`python benchmarks/accuracy/experiment.py WORK`.",
    "cpu": "**The smaller experiment on a CPU has not been run.** One command does it, in parts: "
    "`python benchmarks/accuracy/experiment.py WORK --scale cpu`.",
}
NAMES = {"truth": "ground truth", "online": "teacher in every step", "maps": "ReLabel-style maps"}


@dataclass(frozen=True)
class Results:
    """Results of one teacher: facts about labels, and accuracies in percent by source, what varies, and seed."""

    scale: str
    facts: dict[str, Any]
    runs: list[dict[str, Any]]

    def accuracies(self, source: str, **varied: int) -> list[float]:
        """Return the accuracies of the students of a row."""
        return [100 * run["evaluation"]["top1"] for run in self.runs if run["source"] == source and run["varied"] == varied]


def load(results: Path = RESULTS) -> list[Results]:
    """Return the results at hand, of each scale those of the teacher with the most runs."""
    found: dict[str, list[Results]] = defaultdict(list)
    for labels in results.glob("*/labels.json"):
        facts = read_result(labels)
        runs = [read_result(path) for path in sorted(labels.parent.glob("*__seed=*.json"))]
        if facts is not None:
            found[facts["scale"]].append(Results(facts["scale"], facts, [run for run in runs if run is not None]))
    return [max(found[scale], key=lambda one: len(one.runs)) for scale in SCALES if scale in TITLES and scale in found]


def render(results: Sequence[Results]) -> str:
    """Return the section of the report."""
    parts = [_head(results)]
    for one in results:
        parts += [_describe(one), _sources(one), _claims(one), _why(one), _ablations(one), _missing(one)]
    return "\n\n".join(part.strip() for part in parts if part)


def _head(results: Sequence[Results]) -> str:
    scales = {one.scale for one in results}
    absent = " ".join(NOT_RUN[scale] for scale in TITLES if scale not in scales)
    return f"""
100 classes of Tiny-ImageNet. A teacher labels crops of each image once, and the same student is trained from each kind of labels: same images, crops of the same distribution, same recipe, several seeds.
Differences are from `{REFERENCE}`, with 95 % intervals (Welch) of what seeds make of it; that other validation images would give other numbers is not in them. Where no row varies, nothing is known and no interval given.
Accuracy is top-1 in % on 5,000 validation images. {absent}
"""


def _describe(one: Results) -> str:
    facts, runs = one.facts, one.runs
    machines = sorted({run["machine"] for run in runs})
    dates = sorted({run["date"] for run in runs})
    return f"""
### {TITLES[one.scale]}

{facts["num_images"]:,} images, {facts["num_crops"]:,} stored crops of {facts["common"]["size"]} pixels. Teacher `{_network(facts["teacher"])}`, {100 * facts["teacher_top1"]:.1f} %; student `{_network(facts["student"])}`,
{facts["student"]["epochs"]} epochs, {USUAL_CROPS_PER_IMAGE} crops of an image at a time. {len(runs)} runs on {" and ".join(machines)}, {" to ".join(dict.fromkeys((dates[0], dates[-1])))}.
"""


def _network(options: dict[str, Any]) -> str:
    return str(options["student"]).rpartition(":")[2]


def _sources(one: Results) -> str:
    reference = one.accuracies(REFERENCE)
    entropy = one.facts["entropy"]
    rows = []
    for source in (*CODECS, *OTHERS):
        values, said = one.accuracies(source), one.facts["quality"].get(source)
        if not values:
            continue
        cross = said and said["cross_entropy"].get(REFERENCE)
        rows.append(
            (
                NAMES.get(source, f"`{source}`"),
                _mean(values),
                len(values),
                "" if source == REFERENCE else _interval(welch(values, reference)),
                _number(one.facts["bytes_per_crop"].get(source), 2),
                "infinite" if said and cross is None else _number(None if cross is None else max(0.0, cross - entropy), 3),
                *(_number(said and said[name], 3) for name in ("confidence", "entropy", "agreement")),
            )
        )
    columns = ["labels", "top-1", "n", "difference", "bytes per crop", "KL", "confidence", "entropy", "agreement"]
    return _table(columns, rows)


def _claims(one: Results) -> str:
    """Return what must hold, and whether it does, as far as the runs at hand tell."""
    k5, full, truth = (one.accuracies(source) for source in (DEFAULT, REFERENCE, "truth"))
    kept, above = welch(k5, full), welch(full, truth)
    good = kept and abs(kept.mean) <= 0.3 and kept.low >= -MARGIN and kept.high <= MARGIN
    rows = [(f"`{DEFAULT}` within 0.3 of `{REFERENCE}`, interval inside +-{MARGIN}", _interval(kept), _yes(good))]
    for tail in TAILS:
        better, size = welch(one.accuracies(tail), k5), one.facts["bytes_per_crop"].get(tail)
        small = None if size is None else size <= TAIL_BYTES_PER_CROP
        good = False if small is False else small and better and better.mean >= 0
        measured = f"{_interval(better)} at {_number(size, 2)} bytes"
        rows.append((f"`{tail}` at least as good as `{DEFAULT}`, at most {TAIL_BYTES_PER_CROP} bytes per crop", measured, _yes(good)))
    ranked = (DEFAULT, "marginal_renorm:k=5", "smoothing", "hard")
    means = {name: mean(one.accuracies(name)) for name in ranked if one.accuracies(name)}
    order = sorted(means, key=lambda name: -means[name])
    good = (order[0] == DEFAULT and order[-1] == "hard") if len(order) == len(ranked) else None
    rows.append(("marginal smoothing best, hard worst", " > ".join(f"`{name}`" for name in order), _yes(good)))
    rows.append(("soft labels above ground truth", _interval(above), _yes(above and above.low > 0)))
    return _table(["what must hold", "measured", "holds"], rows)


def _why(one: Results) -> str:
    """Return what explains a loss with the default codec: how unsure the teacher is, and how far the labels of a codec are from it."""
    quality, entropy = one.facts["quality"], one.facts["entropy"]
    far = {source: quality[source]["cross_entropy"][REFERENCE] - entropy for source in (DEFAULT, *TAILS) if source in quality}
    lost = welch(one.accuracies(DEFAULT), one.accuracies(REFERENCE))
    if lost is None or lost.mean >= -0.3 or len(far) < 3:
        return ""
    smoothing, hard = (one.accuracies(source) for source in ("smoothing", "hard"))
    below = bool(smoothing and hard) and mean(smoothing) < mean(hard)
    even = f" `smoothing` spreads {1 - quality['smoothing']['confidence']:.0%} evenly, and is below `hard`." if below else ""
    return f"""
Why `{DEFAULT}` loses here: this teacher is unsure. Its labels have {entropy:.2f} nats of entropy, as many as {math.exp(entropy):.0f} equally probable classes, so that five classes with an even rest
are {far[DEFAULT]:.2f} nats (KL) from them. Image tails keep more of the rest in the same bytes or fewer: {", ".join(f"`{tail}` is {far[tail]:.2f} nats away" for tail in TAILS)}.{even} (Section 2 has the distances for a teacher of ImageNet.)
"""


def _ablations(one: Results) -> str:
    ways = [
        ("crops_per_image", f"Crops of an image that are taken at a time (`{DEFAULT}`)", CROPS_PER_IMAGE, USUAL_CROPS_PER_IMAGE),
        ("stored_crops", f"Stored crops of an image (`{DEFAULT}`)", STORED_CROPS, SCALES[one.scale].crops),
    ]
    parts = []
    for option, title, numbers, usual in ways:
        found = [(number, one.accuracies(DEFAULT, **({} if number == usual else {option: number}))) for number in numbers]
        rows = [(number, _mean(values), len(values)) for number, values in found if values]
        if len(rows) > 1:
            parts.append(f"{title}:\n\n{_table(['crops', 'top-1', 'n'], rows)}")
    return "\n\n".join(parts)


def _missing(one: Results) -> str:
    names = {(run["source"], tuple(run["varied"].items()), run["seed"]) for run in one.runs}
    missing = [cell for cell in cells(SCALES[one.scale]) if (cell.source, cell.varied, cell.seed) not in names]
    if not missing:
        return "" if SCALES[one.scale].ablations else "The numbers of crops were not varied here."
    return f"Not run: {len(missing)} of {len(missing) + len(names)} runs."


def _mean(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _yes(good: object) -> str:
    """Return whether a claim holds; None: nobody knows."""
    return "not known" if good is None else "yes" if good else "**no**"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
