"""What students of CIFAR-100 learn: the tables of `benchmarks.cifar`, beside what is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.claims import FRESH, Claim, no_loss
from benchmarks.accuracy.evidence import Results, interval, load_file, mean_of, name_of, number, table
from benchmarks.accuracy.plan import ONLINE, TRUTH, VIEWS
from benchmarks.cifar.plan import NUM_VIEWS, PAIRS, RESULTS, SOURCES, Pair

NOT_RUN = "not run"


def render(path: Path = RESULTS) -> dict[str, Any]:
    """Return the tables: accuracies, and claims with their verdicts; and the last run, None if there is none."""
    one = load_file("cifar", path)
    return {
        "known": one.circumstances[-1] if one.circumstances else None,
        "accuracy": table(
            ["network", "trained from", "published", "top-1", "n", "above the teacher in every step"],
            (row for pair in PAIRS.values() for row in _rows(one, pair)),
        ),
        "claims": table(["claim", "pairs", "difference", "seen from", "verdict"], (_judged(one, pair) for pair in PAIRS.values())),
    }


def _rows(one: Results, pair: Pair) -> Iterator[tuple[object, ...]]:
    """Yield a row of cells for the teacher, and one for its students from each source."""
    known = one.teachers.get(pair.teacher)
    top1 = NOT_RUN if known is None else f"{100 * known['evaluation']['top1']:.2f}"
    yield f"`{pair.teacher}`, teacher", name_of(pair.row(TRUTH)), f"{pair.of_teacher:.2f}", top1, 1 if known else 0, ""
    published = {TRUTH: f"{pair.of_classes:.2f}", ONLINE: f"{pair.of_labels:.2f}"}
    for source in SOURCES:
        row, reference = pair.row(source), pair.row(ONLINE)
        values = list(one.runs.get(row, {}).values())
        above = "" if source == ONLINE else interval(one.difference(row, reference))
        yield f"`{pair.student}`", name_of(row), published.get(source, ""), mean_of(values) or NOT_RUN, len(values), above


def _judged(one: Results, pair: Pair) -> tuple[object, ...]:
    said = f"`{pair.student}`: all {NUM_VIEWS} views, stored, are as good as `{pair.teacher}` in every step"
    claim = Claim(FRESH, said, pair.row(VIEWS), pair.row(ONLINE), no_loss)
    compared = claim.row, claim.other
    return said, one.pairs(*compared), interval(one.difference(*compared)), number(one.seen_from(*compared), 1), claim.verdict(one)
