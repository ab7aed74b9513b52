"""From the results of many machines to `MANY.md`: python -m benchmarks.report.many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.measure.common import RESULTS
from benchmarks.report.write import BENCHMARKS, Result, Rows, table

PAGE = BENCHMARKS / "MANY.md"


def render() -> str:
    """Return the text of the page: the prose of the template, with the numbers of the results."""
    where = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("engines", "storage", "sets")}
    return where.get_template("MANY.md.jinja").render(
        engines=_engines(results["engines"]), storage=_storage(results["storage"]), sets=_sets(results["sets"])
    )


def _spread(found: Result, digits: int = 2, scale: float = 1.0) -> str:
    low, middle, high = (f"{found[part] * scale:.{digits}f}" for part in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _engines(found: Result) -> dict[str, Any]:
    rows: Rows = []
    for way, rate in found["images_per_second"].items():
        of_plain, processor_of_plain = (_spread(found[of][way]) if way in found[of] else "" for of in ("of_plain", "processor_of_plain"))
        processors = _spread(found["processor_seconds_per_image"][way])
        rows.append((way, _spread(rate), of_plain, processors, processor_of_plain, _spread(found["seconds_to_start"][way], 1)))
    rounds = next(iter(found["images_per_second"].values()))["n"]
    columns = ["workers", "images per second", "of plain", "processor seconds per image", "of plain", "seconds to start"]
    return {**found, "rounds": rounds, "table": table(columns, rows)}


def _storage(found: Result) -> dict[str, Any]:
    rows: Rows = []
    for store, delays in found["stores"].items():
        for delay, ways in delays.items():
            for way, measured in ways.items():
                batch = measured["batch"]
                size = f"{batch['bytes'] / 1e6:.2f}"
                rows.append((f"{store}, {delay}, {way}", f"{batch['requests']:.1f}", size, _spread(batch["seconds"], 1, 1e3)))
    gaps: Rows = [
        (f"{store}, {int(gap) // 1024} KiB", f"{batch['requests']:.1f}", f"{batch['bytes'] / 1e6:.2f}", _spread(batch["seconds"], 1, 1e3))
        for store, of_store in found["gaps"].items()
        for gap, batch in of_store.items()
    ]
    clients: Rows = [(what, *(_spread(client["seconds"], 1, 1e3) for client in both.values())) for what, both in found["clients"].items()]
    names = [f"{name}, ms" for name in next(iter(found["clients"].values()))] if found["clients"] else []
    columns = ["", "requests per batch", "MB per batch", "ms per batch"]
    return {
        **found,
        "local_ms": _spread(found["local"]["seconds"], 1, 1e3),
        "table": table(["store, delay, way", *columns[1:]], rows),
        "gaps_table": table(["ranges joined over", *columns[1:]], gaps),
        "clients_table": table(["delay, ranges", *names], clients),
    }


def _sets(found: Result) -> dict[str, Any]:
    memory, disk = found["copying"]["memory"], found["copying"]["disk"]
    whole: Rows = [(way, *_whole(memory["whole"][way]), _gigabytes(disk["whole"][way])) for way in memory["whole"]]
    parts = {name: f"{seconds['median']:.2f}" for name, seconds in memory["parts"].items()}
    decoded: Rows = [(way, *(_crops(place["decoded"][way]) for place in (memory, disk))) for way in memory["decoded"]]
    batches: Rows = [(name, _spread(seconds, 2, 1e3)) for name, seconds in found["seconds_per_batch"].items()]
    return {
        **found,
        "opening_s": _spread(found["opening"]["seconds"]),
        "rounds": next(iter(memory["whole"].values()))["seconds"]["n"],
        "batches_table": table(["set", "ms per batch"], batches),
        "parts": parts,
        "bare_gb_per_s": 1 / sum(seconds["median"] for seconds in memory["parts"].values()),
        "copy_table": table(["copy", "GB per second, in memory", "time of bare", "processor s per GB", "GB per second, to disk"], whole),
        "decoded_table": table(["copy, thousands of crops per second", "in memory", "to disk, synced"], decoded),
    }


def _whole(measured: Result) -> tuple[str, str, str]:
    """Return rate, time as a multiple of that of a bare copy, and processor time of a way to copy whole blocks."""
    return _gigabytes(measured), _spread(measured["of_bare"]), _spread(measured["cpu_seconds"], 2, 1e9 / measured["bytes"])


def _gigabytes(measured: Result) -> str:
    return _per_second(measured, measured["bytes"] / 1e9, 2)


def _crops(measured: Result) -> str:
    return _per_second(measured, measured["crops"] / 1e3, 0)


def _per_second(measured: Result, amount: float, digits: int) -> str:
    slow, middle, fast = (f"{amount / measured['seconds'][part]:.{digits}f}" for part in ("max", "median", "min"))
    return f"{middle} ({slow} to {fast})"


if __name__ == "__main__":
    PAGE.write_text(render())
