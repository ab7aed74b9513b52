"""The picture that matters: accuracy of students over bytes per image, all codecs and numbers of stored crops in it, with its frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.evidence import NAMES, TITLES, Results, name_of
from benchmarks.accuracy.plan import ALL, FEW, ONLINE, TRUTH, Row

FIGURE = "accuracy.png"
FEWEST_SIZES = 3
"""Label files of different size that make a panel."""


class Point(NamedTuple):
    """Students of one kind: their labels, bytes per image of these, and top-1 of each in percent."""

    row: Row
    size: float
    top1: list[float]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return mean(self.top1)


class Panel(NamedTuple):
    """Students of the same images, temperature and settings; without stored labels they are `lines`."""

    title: str
    points: list[Point]
    lines: dict[str, float]


def panels(results: Sequence[Results]) -> list[Panel]:
    """Return what is compared with each other: one panel for each scale, teacher, set of images and temperature."""
    found = []
    for one in results:
        kinds = dict.fromkeys((row.teacher, row.images, row.temperature) for row in one.runs if row.stored)
        for teacher, images, temperature in kinds:
            rows = [row for row in one.runs if row == Row(row.source, teacher, images, row.stored, temperature=temperature)]
            points = [Point(row, known["bytes"] / known["num_images"], _top1(one, row)) for row in rows if (known := one.known_of(row))]
            others = {ONLINE: Row(ONLINE, teacher, images, temperature=temperature), TRUTH: Row(TRUTH, images=images)}
            lines = {NAMES[name]: mean(_top1(one, row)) for name, row in others.items() if row in one.runs}
            if len(points) >= FEWEST_SIZES and images in (ALL, FEW):
                which = "few images" if images == FEW else "all images"
                title = f"{TITLES[one.scale]}: {which}, teacher `{teacher}`, T = {temperature:g}".replace("`", "")
                found.append(Panel(title, points, lines))
    return found


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points of which none that is as small has a higher mean accuracy, the smallest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size, -point.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best


def render(results: Sequence[Results]) -> str:
    """Return the picture for the report, with its frontiers in words; nothing if there are no panels."""
    lines = []
    for panel in panels(results):
        steps = (f"{_named(point)} {point.size:,.0f} bytes, {point.mean:.1f} %" for point in frontier(panel.points))
        lines.append(f"- {panel.title}: {'; '.join(steps)}.")
    if not lines:
        return ""
    said = (
        "**Accuracy over bytes per image**, and the frontier of the means (smaller differences than the standard deviations mean nothing):"
    )
    return f"{said}\n\n![Accuracy of students over bytes of labels per image](figures/{FIGURE})\n\n" + "\n".join(lines)


def _named(point: Point) -> str:
    return f"`{point.row.source}`, M = {point.row.stored},"


def draw(results: Sequence[Results], folder: Path) -> None:
    """Draw the panels, if there are any."""
    found = panels(results)
    if not found:
        return
    sources = list(dict.fromkeys(point.row.source for panel in found for point in panel.points))
    figure = Figure(figsize=(6.6 * len(found), 5.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _draw_panel(axes, panel, sources)
    figure.savefig(folder / FIGURE, dpi=110)


def _draw_panel(axes: Axes, panel: Panel, sources: Sequence[str]) -> None:
    """Draw a panel, in which the number of a source of labels says its color."""
    for number, source in enumerate(sources):
        of_source = sorted((point for point in panel.points if point.row.source == source), key=lambda point: point.size)
        if not of_source:
            continue
        color, marker = f"C{number}", "os^Dv"[number % 5]
        errors = [stdev(point.top1) if len(point.top1) > 1 else 0 for point in of_source]
        sizes, means = [point.size for point in of_source], [point.mean for point in of_source]
        label = name_of(of_source[0].row).replace("`", "")
        axes.errorbar(sizes, means, errors, color=color, label=label, marker=marker, linestyle="none", capsize=3)
        for point in of_source:
            axes.annotate(f"{point.row.stored}", (point.size, point.mean), (5, 5), textcoords="offset points", fontsize=8, color=color)
    best = frontier(panel.points)
    axes.plot([point.size for point in best], [point.mean for point in best], color="silver", zorder=0, label="frontier of the means")
    for (name, top1), style in zip(panel.lines.items(), ("--", ":"), strict=False):
        axes.axhline(top1, color="grey", linewidth=1, linestyle=style, label=name)
    axes.set(xscale="log", xlabel="bytes per image (numbers: stored crops of each)", ylabel="top-1, % (mean and standard deviation)")
    axes.set_title(panel.title, fontsize=10)
    axes.legend(fontsize=7.5)


def _top1(one: Results, row: Row) -> list[float]:
    return list(one.runs[row].values())
