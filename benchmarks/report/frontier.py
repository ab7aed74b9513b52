"""From the results of the frontier to `FRONTIER.md` and its pictures: python -m benchmarks.report.frontier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.frontier import FAMILIES, PEERS
from benchmarks.measure.common import RESULTS
from benchmarks.report import choices
from benchmarks.report.write import BENCHMARKS, Result, Rows, table

PAGE, FIGURES = BENCHMARKS / "FRONTIER.md", BENCHMARKS / "figures"
TEMPERATURES = (1, 4, 20)
SHOWN_CROPS = ("50", "200", "500")
BYTES, LOST = (0.1, 3000), (5e-4, 1.0)
"""Bytes per crop and shares that the pictures show; half-precision vectors lose less at T = 1."""


def render() -> str:
    """Return the text of the page: the prose of the template, with the numbers of the results."""
    where = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    found = json.loads((RESULTS / "frontier.json").read_text())["teachers"]
    teachers = [{"name": name, **_about(teacher)} for name, teacher in found.items()]
    temperatures = [
        {
            "temperature": temperature,
            "figure": f"figures/{_figure_name(temperature)}",
            "tables": [(name, _table(teacher, place)) for name, teacher in found.items()],
        }
        for place, temperature in enumerate(TEMPERATURES)
    ]
    dates = sorted({date for teacher in teachers for date in teacher["dates"]})
    page = where.get_template("FRONTIER.md.jinja")
    return page.render(teachers=teachers, dates=dates, temperatures=temperatures, **choices.tables(found))


def _figure_name(temperature: int) -> str:
    return f"frontier-t{temperature}.png"


def _about(teacher: Result) -> Result:
    """Return what a reader should know of the labels of a teacher."""
    families = [family for of_crops in teacher["crops"].values() for family in of_crops["families"].values()]
    sources = [(source, _numbers(teacher, source)) for source in dict.fromkeys(one["source"] for one in teacher["crops"].values())]
    dates = sorted({family["date"] for family in families})
    versions = {name: version for family in families for name, version in family["versions"].items()}
    return {"classes": teacher["classes"], "sources": sources, "dates": dates, "versions": versions, "machine": families[-1]["machine"]}


def _numbers(teacher: Result, source: str) -> str:
    numbers = [crops for crops, one in teacher["crops"].items() if one["source"] == source]
    return ", ".join(sorted(numbers, key=int))


def _table(teacher: Result, place: int) -> str:
    """Return bytes and share lost at one temperature of each codec, for each number of crops; of fields on crops that were not seen."""
    numbers = sorted(teacher["crops"], key=int)
    cells: dict[tuple[str, str], dict[str, tuple[str, str, str]]] = {}
    for number in numbers:
        for family, found in teacher["crops"][number]["families"].items():
            for point in found["points"]:
                unseen = "" if point["unseen"] is None else f" ({_share(point['unseen'][place])})"
                lost = f"{_share(point['fidelity'][place])}{unseen}"
                sizes = f"{point['bytes_per_crop']:.2f}", f"{point['bytes_per_image']:,.0f}"
                cells.setdefault((family, point["codec"]), {})[number] = *sizes, lost
    rows: Rows = []
    order = list(dict.fromkeys(family for number in numbers for family in teacher["crops"][number]["families"]))
    for family, codec in sorted(cells, key=lambda one: order.index(one[0])):
        of_codec = cells[family, codec]
        name = codec if family == PEERS else f"`{codec}`"
        rows.append((name, *(cell for number in numbers for cell in of_codec.get(number, ("", "", "")))))
    return table(["codec", *(f"{what}, M = {number}" for number in numbers for what in ("bytes per crop", "per image", "lost"))], rows)


def _share(at: Result) -> str:
    return "-" if at["lost"] is None else f"{at['lost']:.1%}"


def draw(teachers: Result, place: int) -> Figure:
    """Return the picture of a temperature: bytes per crop over the share lost, a row per teacher, a column per number of crops."""
    figure = Figure(figsize=(4.4 * len(SHOWN_CROPS), 3.7 * len(teachers)), layout="constrained")
    panels = figure.subplots(len(teachers), len(SHOWN_CROPS), squeeze=False)
    handles: dict[str, Any] = {}
    for row, (name, teacher) in enumerate(teachers.items()):
        for column, number in enumerate(SHOWN_CROPS):
            axes = panels[row][column]
            if number in teacher["crops"]:
                handles |= _draw_panel(axes, teacher["crops"][number]["families"], place)
                axes.set_title(f"{name}, M = {number}, n = {teacher['crops'][number]['images']}", fontsize=9)
            else:
                axes.set_axis_off()
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8)
    title = f"T = {TEMPERATURES[place]}: bytes per crop (without keys and crops), and the share lost of KL(teacher || uniform)"
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_panel(axes: Any, families: Result, place: int) -> dict[str, Any]:
    """Draw the families of a panel and return, by its label, what was drawn for each."""
    handles = {}
    for family, found in families.items():
        points = found["points"]
        which = "unseen" if points and points[0]["unseen"] is not None else "fidelity"
        known = [(point["bytes_per_crop"], point[which][place]["lost"], point["codec"]) for point in points if point[which][place]["lost"]]
        if family == PEERS:
            for marker, (size, lost, name) in zip("xsD^v*P", known, strict=False):
                (handles[name],) = axes.plot([size], [lost], marker, color="black", markersize=6, fillstyle="none", linestyle="none")
        elif known:
            label = f"{family} (on other crops)" if which == "unseen" else family
            sizes, lost_of, _ = zip(*sorted(known), strict=True)
            number = list(FAMILIES).index(family)
            style = "o-" if number < 10 else "o--"  # there are ten colours
            (handles[label],) = axes.plot(sizes, lost_of, style, color=f"C{number % 10}", markersize=3, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="bytes per crop", ylabel="lost", xlim=BYTES, ylim=LOST)
    axes.grid(visible=True, which="both", linewidth=0.3)
    return handles


def main() -> None:
    """Write page and pictures."""
    teachers = json.loads((RESULTS / "frontier.json").read_text())["teachers"]
    for place, temperature in enumerate(TEMPERATURES):
        draw(teachers, place).savefig(FIGURES / _figure_name(temperature), dpi=100)
    PAGE.write_text(render())


if __name__ == "__main__":
    main()
