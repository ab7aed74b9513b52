"""From `reading-limits.json` to `READING.md`: python -m benchmarks.report.reading."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.measure.common import RESULTS
from benchmarks.report.write import FKD, LMDB, Result, table

RESULT, PAGE = RESULTS / "reading-limits.json", Path(__file__).resolve().parents[1] / "READING.md"
STORED, DERIVED = "stored", "derived"
GOALS = [
    ("read_batch", DERIVED, FKD, 10.0),
    ("read_batch", DERIVED, LMDB, 1.0),
    ("read_batch", STORED, LMDB, 1.0),
    ("read", STORED, FKD, 4.0),
]
"""How to read, how crops are stored, and how many times as fast as what it shall be."""


def render(result: Result) -> str:
    """Return the text of the page."""
    where = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    tables = {"goals": _goals(result), "where": _where(result), "blocks": _blocks(result), "usual": _usual(result)}
    return where.get_template("READING.md.jinja").render(result=result, times=_times(result), **tables)


def _usual(result: Result) -> str:
    """Return how blocks are called that are as large as usual: those that were measured first."""
    return str(next(iter(result["blocks"])).rpartition(",")[0])


def _times(result: Result) -> dict[str, float]:
    """Return the medians of the usual blocks with stored crops, in microseconds."""
    start = f"{_usual(result)}, {STORED}: "
    return {name.removeprefix(start): found["median"] for name, found in result["microseconds_per_image"].items() if name.startswith(start)}


def _ratio(result: Result, peer: str, name: str) -> dict[str, float]:
    found: dict[str, float] = result["times_faster_than_fkd" if peer == FKD else "times_faster_than_lmdb"][name]
    return found


def _goals(result: Result) -> str:
    rows = []
    for way, crops, peer, wanted in GOALS:
        name = f"{_usual(result)}, {crops}: {way}"
        found = _ratio(result, peer, name)
        limit = _ratio(result, peer, f"{name}, block{'s' if way == 'read_batch' else ''} alone")["median"]
        met = "yes" if found["min"] >= wanted else "**no**" if found["max"] < wanted else "undecided"
        cells = f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})", f"{limit:.2f}", met
        rows.append((f"`{way}`, {crops} crops", f"{wanted:g} times as fast as {peer}", *cells))
    return table(["what", "goal", "got", "if only the blocks were read", "met"], rows)


def _where(result: Result) -> str:
    rows = [
        (name.rpartition(": ")[2], *_spread(found), *(f"{_ratio(result, peer, name)['median']:.2f}" for peer in (FKD, LMDB)))
        for name, found in result["microseconds_per_image"].items()
        if name in (FKD, LMDB) or name.startswith(f"{_usual(result)}, {STORED}: ")
    ]
    return table(["", "us per image", "from, to", "times as fast as FKD", "as LMDB"], rows)


def _spread(found: dict[str, float]) -> tuple[str, str]:
    return f"{found['median']:.1f}", f"{found['min']:.1f} to {found['max']:.1f}"


def _blocks(result: Result) -> str:
    rows = []
    for crops in (STORED, DERIVED):
        usual = result["blocks"][f"{_usual(result)}, {crops}"]["bytes_per_crop"]
        for name, size in result["blocks"].items():
            if name.endswith(f", {crops}"):
                times = [result["microseconds_per_image"][f"{name}: {way}"]["median"] for way in ("read_batch", "read")]
                more = f"{size['bytes_per_crop']:.3f} ({size['bytes_per_crop'] / usual - 1:+.1%})"
                against = (f"{_ratio(result, peer, f'{name}: read_batch')['median']:.2f}" for peer in (FKD, LMDB))
                rows.append((name, f"{size['images_per_block']:.1f}", more, *(f"{one:.1f}" for one in times), *against))
    columns = ["blocks", "images in each", "bytes per crop", "`read_batch`, us", "`read`, us", "`read_batch` / FKD", "/ LMDB"]
    return table(columns, rows)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
