"""Which number that is known of labels before training predicts how much accuracy they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from benchmarks.accuracy.evidence import TITLES, Results, interval, name_of, number, table
from benchmarks.accuracy.plan import FULL, USUAL_CROPS_PER_IMAGE, Row
from softlabel_codec.compare.outcome import Interval

MEASURES = {
    "kl": "KL from the teacher, nats",
    "lost": "share of KL(teacher, uniform) that is lost",
    "total_variation": "total variation",
}
FEWEST_ROWS = 5
"""Kinds of labels that a correlation is computed from."""
SAMPLES = 2000
FIGURE = "prediction.png"


@dataclass(frozen=True)
class Point:
    """Labels of one kind: what is known of them, and what they cost.

    Attributes
    ----------
    scale : str
        Scale of the experiment.
    row : Row
        Labels and students.
    known : dict of str to float
        The measures, at the temperature of the students.
    cost : float
        By how much students of full labels are above those of these, in points: the mean over pairs.
    pairs : int
        Number of pairs.
    """

    scale: str
    row: Row
    known: dict[str, float]
    cost: float
    pairs: int


def points(results: Sequence[Results]) -> list[Point]:
    """Return all kinds of labels of which every measure and the cost are known; those that lose nothing are the reference."""
    found = []
    for one in results:
        for row, runs in one.runs.items():
            full = replace(row, source=FULL, fitted_only=False)
            known = {name: value for name in MEASURES if (value := one.fidelity(row).get(name)) is not None}
            seeds = runs.keys() & one.runs.get(full, {}).keys()
            if row != full and seeds and len(known) == len(MEASURES):
                cost = mean(one.runs[full][seed] - runs[seed] for seed in seeds)
                found.append(Point(one.scale, row, known, cost, len(seeds)))
    return found


def correlations(found: Sequence[Point]) -> dict[str, Interval]:
    """Return Spearman's rank correlation of each measure with the cost, with a 95 % interval; nothing if there are too few kinds of labels.

    Intervals are from 2,000 bootstrap samples of the kinds of labels.
    """
    if len(found) < FEWEST_ROWS:
        return {}
    costs = np.array([point.cost for point in found])
    drawn = np.random.default_rng(0).integers(len(found), size=(SAMPLES, len(found)))
    drawn = drawn[[len(set(sample)) > 2 for sample in drawn.tolist()]]
    intervals = {}
    for name in MEASURES:
        values = np.array([point.known[name] for point in found])
        of_samples = [_correlation(values[sample], costs[sample]) for sample in drawn]
        intervals[name] = Interval(_correlation(values, costs), *np.nanpercentile(of_samples, [2.5, 97.5]).tolist())
    return intervals


def _correlation(values: NDArray[np.float64], costs: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(stats.rankdata(values), stats.rankdata(costs))[0, 1])


def render(results: Sequence[Results]) -> str:
    """Return what predicts the cost, by scale and temperature and over all, with the picture."""
    found = points(results)
    groups: dict[tuple[str, float], list[Point]] = {(point.scale, point.row.temperature): [] for point in found}
    for point in found:
        groups[point.scale, point.row.temperature].append(point)
    named = [(f"{TITLES[scale]}, T = {temperature:g}", members) for (scale, temperature), members in sorted(groups.items())]
    lines = [
        (title, len(members), *(interval(of_group[name]) for name in MEASURES))
        for title, members in [*named, ("all", found)]
        if (of_group := correlations(members))
    ]
    if not lines:
        return ""
    said = (
        "**Which number predicts the cost?** Spearman's rank correlation, over kinds of labels, of what is known before training with the "
        "points that students lose against full labels (same images, crops and temperature), and its 95 % interval."
    )
    costs = [
        (*_circumstances(point), f"{point.cost:+.2f}", *(number(point.known[name], 3) for name in MEASURES))
        for point in sorted(found, key=lambda point: (point.scale, point.row.temperature, point.cost))
    ]
    columns = ["labels", "on a", "images, teacher", "M", "T", "pairs", "points lost", *MEASURES.values()]
    picture = f"![What is known before training against the points lost](figures/{FIGURE})"
    return "\n\n".join((said, table(["", "kinds of labels", *MEASURES.values()], lines), picture, table(columns, costs)))


def _circumstances(point: Point) -> tuple[object, ...]:
    row = point.row
    images = f"{row.images}, {row.teacher}" + (", mixup" if row.mixup else "") + (", large student" if row.student != "usual" else "")
    images += f", {row.draws} draws" if row.draws else ""
    images += f", {row.crops_per_image} at a time" if row.crops_per_image != USUAL_CROPS_PER_IMAGE else ""
    return name_of(row), TITLES[point.scale].removeprefix("On a "), images, row.stored, f"{row.temperature:g}", point.pairs


def draw(results: Sequence[Results], folder: Path) -> None:
    """Draw each measure against the cost, if there are enough kinds of labels."""
    found = points(results)
    if len(found) < FEWEST_ROWS:
        return
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items(), strict=True):
        for scale, temperature in sorted({(point.scale, point.row.temperature) for point in found}):
            members = [point for point in found if (point.scale, point.row.temperature) == (scale, temperature)]
            values, costs = [point.known[name] for point in members], [point.cost for point in members]
            axes.scatter(values, costs, label=f"{TITLES[scale].removeprefix('On a ')}, T = {temperature:g}", s=28)
        axes.axhline(0, color="silver", linewidth=1, zorder=0)
        axes.set(xlabel=title)
    figure.axes[0].set(ylabel="points lost against full labels")
    figure.axes[0].legend()
    figure.savefig(folder / FIGURE, dpi=110)
