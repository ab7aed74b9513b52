"""How many seeds show a difference of accuracy: from the spread of students in the committed results.

`python -m benchmarks.accuracy.power` writes the tables of docs/prove.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import variance

from scipy import stats

from benchmarks.accuracy.evidence import POWER, TITLES, Results, load, table
from benchmarks.accuracy.plan import Row
from softlabel_codec.compare.outcome import CONFIDENCE

DIFFERENCES = (2.0, 1.5, 1.0, 0.5, 0.3)
"""In points of accuracy."""
SEEDS = (3, 5, 10, 20, 40)
PAGE = Path(__file__).parents[2] / "docs" / "prove.md"
BEGIN, END = "<!-- by benchmarks/accuracy/power.py -->\n\n", "\n\n<!-- end -->"


@dataclass(frozen=True)
class Spread:
    """How far students vary that differ in their seeds only.

    Attributes
    ----------
    scale : str
        Name of the file of results.
    rows, runs, pairs : int
        Kinds of students of which at least two seeds are known; their students; pairs of kinds that differ in their labels only, and have
        at least two seeds in common.
    one : float
        Standard deviation of one student's accuracy, in points, pooled over the rows.
    paired : float
        That of the difference between two students of the same seed and different labels, pooled over the pairs.
    independent : float
        That of the same differences if seeds meant nothing: the root of the sum of both variances, over the same pairs.
    """

    scale: str
    rows: int
    runs: int
    pairs: int
    one: float
    paired: float
    independent: float


def spread_of(results: Results) -> Spread:
    """Return the spread of the students of one scale."""
    known = {row: by_seed for row, by_seed in results.runs.items() if len(by_seed) > 1}
    alike: dict[Row, list[dict[int, float]]] = defaultdict(list)
    for row, by_seed in known.items():
        alike[replace(row, source="", teacher="", stored=0)].append(by_seed)
    paired, both = [], []
    for one, other in (pair for rows in alike.values() for pair in combinations(rows, 2)):
        seeds = sorted(one.keys() & other.keys())
        if len(seeds) > 1:
            paired.append([one[seed] - other[seed] for seed in seeds])
            both.append(([one[seed] for seed in seeds], [other[seed] for seed in seeds]))
    return Spread(
        scale=results.scale,
        rows=len(known),
        runs=sum(map(len, known.values())),
        pairs=len(paired),
        one=math.sqrt(_pooled([list(by_seed.values()) for by_seed in known.values()])),
        paired=math.sqrt(_pooled(paired)),
        independent=math.sqrt(_pooled([ours for ours, _ in both]) + _pooled([theirs for _, theirs in both])),
    )


def _pooled(samples: Sequence[Sequence[float]]) -> float:
    """Return the mean variance of samples, each counted by its degrees of freedom; NaN without any."""
    freedom = sum(len(sample) - 1 for sample in samples)
    return sum(variance(sample) * (len(sample) - 1) for sample in samples) / freedom if freedom else math.nan


def half_width(spread: float, seeds: int) -> float:
    """Return by how much the interval of a difference reaches to each side, of `seeds` students of each kind.

    `spread` is the standard deviation of one student: Welch's interval for two kinds that spread alike, as `slcodec compare` makes it.
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, 2 * seeds - 2)) * spread * math.sqrt(2 / seeds)


def power(spread: float, difference: float, seeds: int) -> float:
    """Return how often the interval of a difference leaves out 0, if the true one is `difference`."""
    freedom, shift = 2 * seeds - 2, difference / (spread * math.sqrt(2 / seeds))
    limit = stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    return float(stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift))


def seeds_needed(spread: float, difference: float) -> int:
    """Return the least number of seeds with which a difference is seen as often as `POWER` says."""
    seeds = 2
    while power(spread, difference, seeds) < POWER:
        seeds += 1
    return seeds


def tables(results: Sequence[Results]) -> str:
    """Return the tables of the page, in Markdown, of all results with pairs of students."""
    spreads = [spread for spread in map(spread_of, results) if spread.pairs]
    names = [f"{TITLES[one.scale]}, *s* = {one.one:.2f}" for one in spreads]
    known = [
        (TITLES[one.scale], f"{one.runs}, of {one.rows} kinds", f"{one.one:.2f}", f"{one.paired:.2f}", f"{one.independent:.2f}")
        for one in spreads
    ]
    needed = [[seeds_needed(one.one, points) for points in DIFFERENCES] for one in spreads]
    reach = [[f"{half_width(one.one, seeds):.2f}" for seeds in SEEDS] for one in spreads]
    parts = [
        table(["results", "students", "*s*", "of differences, paired by seed", "if seeds meant nothing"], known),
        table(
            ["seeds of each kind to see a difference in points of", *(f"{points:g}" for points in DIFFERENCES)],
            [[name, *row] for name, row in zip(names, needed, strict=True)],
        ),
        table(
            ["the interval reaches to each side, with", *(f"{seeds} seeds" for seeds in SEEDS)],
            [[name, *row] for name, row in zip(names, reach, strict=True)],
        ),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(load()) + END + rest.partition(END)[2])
