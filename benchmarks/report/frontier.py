"""From the result of the frontier to `FRONTIER.md` and its pictures: python -m benchmarks.report.frontier."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.measure.common import RESULTS
from benchmarks.report.write import BENCHMARKS, Result, Rows, table

PAGE, FIGURES = BENCHMARKS / "FRONTIER.md", BENCHMARKS / "figures"
TEMPERATURES = (1, 4, 20)
LOST = 5e-4, 1.0
"""Shares that the pictures show; half-precision vectors lose less at T = 1."""


def render() -> str:
    """Return the text of the page: the prose of the template, with the numbers of the result."""
    where = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    found = json.loads((RESULTS / "frontier.json").read_text())
    teachers = [
        {
            "name": name,
            "figure": f"figures/{_figure_name(name)}",
            **result,
            "tables": [(temperature, _table(result, place)) for place, temperature in enumerate(TEMPERATURES)],
        }
        for name, result in found["teachers"].items()
    ]
    return where.get_template("FRONTIER.md.jinja").render(teachers=teachers)


def _figure_name(teacher: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", teacher.lower())
    return f"frontier-{words}.png"


def _table(teacher: Result, place: int) -> str:
    """Return bytes and share lost at one temperature of each codec, for each number of crops; of fields on crops that were not seen."""
    of_crops = {crops: [point for family in families.values() for point in family] for crops, families in teacher["points"].items()}
    rows: Rows = []
    for points in zip(*of_crops.values(), strict=True):
        cells: list[str] = []
        for point in points:
            unseen = "" if point["unseen"] is None else f" ({_share(point['unseen'][place])})"
            cells += [f"{point['bytes_per_image']:.0f}", f"{_share(point['fidelity'][place])}{unseen}"]
        rows.append((f"`{points[0]['codec']}`", *cells))
    columns = [f"{what}, M = {crops}" for crops in of_crops for what in ("bytes per image", "lost")]
    return table(["codec", *columns], rows)


def _share(at: Result) -> str:
    return "-" if at["lost"] is None else f"{at['lost']:.1%}"


def draw(name: str, teacher: Result) -> Figure:
    """Return the picture of a teacher: bytes per image over the share lost, a panel for each temperature and number of crops."""
    crops = list(teacher["points"])
    figure = Figure(figsize=(4.2 * len(TEMPERATURES), 3.4 * len(crops)), layout="constrained")
    panels = figure.subplots(len(crops), len(TEMPERATURES), squeeze=False)
    for row, number in enumerate(crops):
        for place, temperature in enumerate(TEMPERATURES):
            _draw_panel(panels[row][place], teacher["points"][number], place)
            panels[row][place].set_title(f"M = {number}, T = {temperature}", fontsize=10)
    panels[0][0].legend(fontsize=7)
    figure.suptitle(f"{name}: bytes per image (without key and crops), and what is lost of KL(teacher || uniform)", fontsize=11)
    return figure


def _draw_panel(axes: Any, families: Result, place: int) -> None:
    for family, points in families.items():
        which = "unseen" if points and points[0]["unseen"] is not None else "fidelity"
        known = [(point["bytes_per_image"], point[which][place]["lost"]) for point in points if point[which][place]["lost"]]
        if known:
            label = f"{family} (on other crops)" if which == "unseen" else family
            axes.plot(*zip(*sorted(known), strict=True), marker="o", markersize=3, linewidth=1, label=label)
    axes.set(xscale="log", yscale="log", xlabel="bytes per image", ylabel="lost", ylim=LOST)
    axes.grid(visible=True, which="both", linewidth=0.3)


def main() -> None:
    """Write page and pictures."""
    for name, teacher in json.loads((RESULTS / "frontier.json").read_text())["teachers"].items():
        draw(name, teacher).savefig(FIGURES / _figure_name(name), dpi=110)
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
