"""The sections of `FRONTIER.md` on what `auto` chooses and on the targets for few bytes per image."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.measure.common import RESULTS
from benchmarks.report.write import Result, Rows, table

FIDELITY, TRIED_CROPS = 0.04, (10, 200)
MANY = "MobileNetV2, 100 photographs"
FIELD_TARGETS = ((220, "fidelity", 0.287), (330, "fidelity", 0.24), (300, "unseen", 0.30))
"""Bytes per image, which crops, and the KL in nats that is asked for."""
WARM = (330, 0.25)
"""Bytes per image, and the share that may be lost at T = 4."""
FEW_TARGETS = (("marginal_smoothing:t=0.02,tail=99", 120), ("marginal_smoothing:t=0.05,tail=20", 45))
"""Codecs whose KL is asked for, and in how many bytes per image at M = 10."""


def tables(teachers: Result) -> dict[str, Any]:
    """Return what the template shows, given the results of the frontier by teacher."""
    chosen = json.loads((RESULTS / "choices.json").read_text())["teachers"]
    few_crops = json.loads((RESULTS / "few-crops.json").read_text())
    return {
        "auto": [(name, teacher, _chosen(teacher), _tried(teacher)) for name, teacher in chosen.items()],
        "fidelity": f"{FIDELITY:.0%}",
        "num_fixed": max(len(row["fixed"]) for teacher in chosen.values() for row in teacher["rows"]),
        "few_crops": few_crops,
        "targets": _targets(few_crops["sets"]["Tiny-ImageNet"]["rows"], teachers),
    }


def _chosen(teacher: Result) -> str:
    rows: Rows = []
    for row in teacher["rows"]:
        enough = [one for one in row["fixed"] if one["lost"] <= FIDELITY]
        best = min(enough, key=lambda one: one["bytes_per_image"], default=None)
        k5 = next(one for one in row["fixed"] if one["codec"].endswith("k=5"))
        chosen = f"T = {row['temperature']:g}, M = {row['crops']}", f"`{row['codec']}`", *_size(row)
        if best is None:
            rows.append((*chosen, "none", "", "", "", *_size(k5)))
        else:
            ratio = row["bytes_per_image"] / best["bytes_per_image"]
            rows.append((*chosen, f"`{best['codec']}`", *_size(best), f"{ratio:.2f}", *_size(k5)))
    columns = ["bytes", "lost"]
    return table(["", "chosen", *columns, "best fixed codec", *columns, "chosen / fixed", "`k=5`", "lost"], rows)


def _size(one: Result) -> tuple[str, str]:
    return f"{one['bytes_per_image']:,.0f}", f"{one['lost']:.1%}"


def _tried(teacher: Result) -> str:
    """Return what was tried at T = 1, the best of each way to store labels."""
    shown = [row for row in teacher["rows"] if row["temperature"] == 1 and row["crops"] in TRIED_CROPS]
    rows: Rows = [(f"M = {row['crops']}", f"`{one['codec']}`", *_size(one)) for row in shown for one in row["tried"]]
    return table(["", "tried", "bytes", "lost"], rows)


def _targets(few_crops: Result, teachers: Result) -> str:
    rows: Rows = []
    measured = teachers[MANY]["crops"]["200"]["families"]
    fields = [*measured["field"]["points"], *measured["field, fine"]["points"]]
    for size, which, kl in FIELD_TARGETS:
        crops = "on other crops" if which == "unseen" else "on fitted crops"
        points = [(point["bytes_per_image"], point[which][0]["kl"], point["codec"]) for point in fields]
        rows.append(_target(f"field, M = 200, {crops}", "KL", kl, size, points))
    points = [(point["bytes_per_image"], _lost(point, 1), point["codec"]) for one in measured.values() for point in one["points"]]
    rows.append(_target("any codec, M = 200, T = 4", "lost", WARM[1], WARM[0], points))
    small = {codec: sizes["10"] for codec, sizes in few_crops.items()}
    for codec, size in FEW_TARGETS:
        asked = small[codec]["kl"]
        points = [(point["bytes_per_image"], point["kl"], name) for name, point in small.items()]
        rows.append(_target(f"Tiny-ImageNet, M = 10: KL of `{codec.partition(':')[2]}`", "KL", asked, size, points))
    return table(["what", "asked", "nearest within these bytes", "fewest bytes that reach it", "met"], rows)


def _lost(point: Result, place: int) -> float:
    """Return the share lost; of fields on crops that they were not made from."""
    at = (point["unseen"] or point["fidelity"])[place]["lost"]
    return float("inf") if at is None else float(at)


def _target(what: str, measure: str, asked: float, size: float, points: list[tuple[float, float, str]]) -> tuple[str, ...]:
    """Return the row of a target: points are bytes per image, what is lost, and the codec."""

    def said(point: tuple[float, float, str] | None) -> str:
        if point is None:
            return "none was measured"
        return f"`{point[2].removeprefix('marginal_smoothing:')}`: {point[0]:.0f} bytes, {_number(measure, point[1])}"

    within = min((point for point in points if point[0] <= size), key=lambda point: point[1], default=None)
    reaching = min((point for point in points if point[1] <= asked), default=None)
    met = within is not None and within[1] <= asked
    return what, f"{measure} at most {_number(measure, asked)} in {size} bytes", said(within), said(reaching), "yes" if met else "**no**"


def _number(measure: str, value: float) -> str:
    return f"{value:.1%}" if measure == "lost" else f"{value:.3f}"
