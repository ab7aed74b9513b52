"""The time of an epoch: the tables of `benchmarks.epochs`, and what is claimed about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.accuracy.claims import FAILS, HOLDS, UNKNOWN
from benchmarks.accuracy.evidence import table
from benchmarks.epochs import BACKENDS, IN_EVERY_STEP, MAPS, PLAIN, SETTINGS, STORED, WORKERS
from benchmarks.measure.common import RESULTS

PEERS = {PLAIN: (0.84, 0.5), MAPS: (0.64, 0.4)}
"""What stored labels are compared with: the share of its time that FKD took (Shen & Xing, 2022), and the goal."""
COMMANDS = {"cpu": "python -m benchmarks.epochs", "cuda": "python -m benchmarks.epochs --device cuda"}
CORES_BESIDE_GPU = 16


def load(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return the results at hand, by device."""
    paths = {device: results / f"epochs-{device}.json" for device in COMMANDS}
    return {device: json.loads(path.read_text()) for device, path in paths.items() if path.exists()}


def shares(found: dict[str, Any], part: str, name: str, peer: str) -> list[float]:
    """Return the time of a contestant as a share of that of a peer with the same backend, of each round that both took part in.

    The time is that of the processor; beside a GPU, where this process waits busily, that of the clock.
    """
    kind = "processor_seconds" if found["settings"]["device"] == "cpu" else "seconds"
    backend = name.rpartition(", ")[2]
    ours, theirs = found[part][name][kind], found[part][f"{peer}, {backend}"][kind]
    return [one / other for one, other in zip(ours, theirs, strict=False)]


def verdict(found: list[float], most: float) -> str:
    """Return whether the median share is at most so large: it lies between the smallest and the largest of seven with 98 % confidence."""
    return HOLDS if max(found) <= most else FAILS if min(found) > most else UNKNOWN


def render(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return for each result its tables, and the commands of what has not been run, with how long the cores take on a GPU machine."""
    rendered = [
        {
            **found,
            "claims": _claims(found),
            "times": _times(found),
            "cores": _cores(found),
            "more_workers": _more_workers(found),
            "teacher_share": _teacher_share(found),
        }
        for found in results.values()
    ]
    crops = SETTINGS["cuda"].repeated * results["cpu"]["photographs"] if "cpu" in results else 0
    minutes = f"{minutes_on_a_gpu(results['cpu'], crops):.0f}" if crops else ""
    return {
        "results": rendered,
        "not_run": [command for device, command in COMMANDS.items() if device not in results],
        "gpu": {"minutes": minutes, "cores": CORES_BESIDE_GPU, "crops": crops},
    }


def _claims(found: dict[str, Any]) -> str:
    rows: list[tuple[object, ...]] = []
    for part, backend, number in _compared():
        cells: list[str] = []
        for peer, limits in PEERS.items():
            ratios = shares(found, part, f"{STORED[number]}, {backend}", peer)
            cells += [_spread(ratios), *(verdict(ratios, most) for most in limits)]
        rows.append((f"{part}, {STORED[number]}", f"`{backend}`", *cells))
    columns = [text for peer, limits in PEERS.items() for text in (f"share of {peer}", *(f"at most {most:g}" for most in limits))]
    return table(["", "backend", *columns], rows)


def _compared() -> Iterator[tuple[str, str, int]]:
    for part in ("loading", "training"):
        for backend in BACKENDS:
            yield from ((part, backend, number) for number in STORED)


def _times(found: dict[str, Any]) -> str:
    rows = []
    for part in ("loading", "training"):
        for name, times in found[part].items():
            rows.append((f"{part}, {name}", *(_spread(times[kind]) for kind in ("processor_seconds", "seconds"))))
    return table(["", "seconds of the processor", "of the clock"], rows)


def _cores(found: dict[str, Any]) -> str:
    """Return how many cores load a thousand crops a second: what workers need that are to keep up with a network of that speed."""
    rows = []
    for name in (PLAIN, MAPS, *STORED.values()):
        cells = [f"{cores(found, f'{name}, {backend}'):.1f}" for backend in BACKENDS]
        rows.append((name, *cells))
    return table(["cores for 1,000 crops a second", *(f"`{backend}`" for backend in BACKENDS)], rows)


def cores(found: dict[str, Any], name: str) -> float:
    """Return how many cores load a thousand crops a second."""
    return 1000 * median(found["loading"][name]["processor_seconds"]) / found["crops_per_epoch"]


def _more_workers(found: dict[str, Any]) -> str:
    rows = []
    for name in dict.fromkeys(one.rpartition(", ")[0] for one in found["workers"]):
        one = [found["workers"][f"{name}, {number} worker{'s' * (number > 1)}"]["seconds"] for number in WORKERS]
        rows.append((name, *(f"{median([found['crops_per_epoch'] / seconds for seconds in times]):.0f}" for times in one)))
    return table(["crops a second, by the clock", *(f"{number} worker{'s' * (number > 1)}" for number in WORKERS)], rows)


def minutes_on_a_gpu(found: dict[str, Any], crops: int) -> float:
    """Return in how many minutes `CORES_BESIDE_GPU` such cores load what the measurement on a GPU takes, `crops` in each epoch."""
    epochs = 1 + 3 * found["settings"]["rounds"]  # loading, once more than counted; training, two at a time
    per_crop = sum(median(times["processor_seconds"]) for times in found["loading"].values()) / found["crops_per_epoch"]
    return epochs * per_crop * crops / CORES_BESIDE_GPU / 60


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def _teacher_share(found: dict[str, Any]) -> str:
    """Return the time of an epoch with a teacher in every step, in times of plain training."""
    name = f"{IN_EVERY_STEP}, {BACKENDS[-1]}"
    ratios = shares(found, "training", name, PLAIN)
    return f"{_spread(ratios)}, n = {len(ratios)}"
