"""What students learn with the loops of others: the tables of `benchmarks.trainers`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.claims import FRESH, LOST, Claim
from benchmarks.accuracy.evidence import Results, interval, mean_of, name_of, number, table
from benchmarks.accuracy.plan import DEFAULT, FEW, ONLINE, TAIL, TRUTH, UNSURE, Row
from benchmarks.accuracy.results import read_results
from benchmarks.measure.common import RESULTS as FOLDER
from softlabel_codec.compare.outcome import Interval

RESULTS = FOLDER / "trainers.jsonl"
STORED = (TAIL, DEFAULT)


def load(path: Path = RESULTS) -> dict[str, Results]:
    """Return the results at hand, by trainer."""
    runs: dict[str, dict[Row, dict[int, float]]] = {}
    found = read_results(path)
    for one in found:
        if one["kind"] == "run":
            runs.setdefault(one["trainer"], {}).setdefault(row_of(one["source"]), {})[one["seed"]] = 100 * one["top1"]
    labels = {row_of(one["source"]): one for one in found if one["kind"] == "labels"}
    circumstances = [one for one in found if one["kind"] == "run"]
    return {trainer: Results("cpu", of_trainer, labels, {}, circumstances) for trainer, of_trainer in sorted(runs.items())}


def row_of(source: str) -> Row:
    """Return the row of a label source."""
    return Row(source, "" if source == TRUTH else UNSURE, FEW, crops_per_image=1)


def render(results: dict[str, Results]) -> dict[str, Any]:
    """Return the tables: accuracies, and claims with their verdicts; and what all runs have in common."""
    if not results:
        return {"known": None}
    rows, claims = [], []
    for trainer, one in results.items():
        for source in (TRUTH, ONLINE, *STORED):
            values, above = list(one.runs.get(row_of(source), {}).values()), one.difference(row_of(source), row_of(ONLINE))
            labels = one.labels.get(row_of(source))
            size = "" if labels is None else number(labels["bytes"] / labels["num_images"], 0)
            rows.append((trainer, name_of(row_of(source)), mean_of(values), len(values), "" if source == ONLINE else interval(above), size))
        for claim in _claims(trainer):
            compared = claim.row, claim.other
            seen = interval(one.difference(*compared)), number(one.seen_from(*compared), 1)
            claims.append((claim.said, one.pairs(*compared), *seen, claim.verdict(one)))
    circumstances = [run for one in results.values() for run in one.circumstances]
    return {
        "known": circumstances[-1],
        "seconds": sum(run["seconds"] for run in next(iter(results.values())).circumstances),
        "accuracy": table(["trainer", "labels", "top-1", "n", "above the teacher in every step", "bytes per image"], rows),
        "claims": table(["claim", "pairs", "difference", "seen from", "verdict"], claims),
    }


def _claims(trainer: str) -> Iterator[Claim]:
    for source in STORED:
        row = row_of(source)
        yield Claim(FRESH, f"{trainer}: `{source}` is above ground truth", row, row_of(TRUTH), _above)
        yield Claim(FRESH, f"{trainer}: `{source}` is within {LOST} of the teacher in every step", row, row_of(ONLINE), _within)


def _above(found: Interval) -> bool | None:
    return True if found.low > 0 else False if found.high < 0 else None


def _within(found: Interval) -> bool | None:
    return True if found.low >= -LOST else False if found.high < -LOST else None
