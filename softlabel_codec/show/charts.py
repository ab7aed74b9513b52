"""Histograms as paths of SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softlabel_codec.show.measures import Floats

WIDTH, HEIGHT = 420, 150
"""Size of the area of a chart in units of its SVG."""
BINS = 40


@dataclass(frozen=True)
class Series:
    """The distribution of a quantity in a label set: the outline of its histogram, and where its mean lies."""

    name: str
    path: str
    mean: float
    mean_x: float


@dataclass(frozen=True)
class Chart:
    """Histograms over the same axis.

    Attributes
    ----------
    title : str
        What is on the axis.
    series : list of Series
        One of each label set.
    ticks : list of (float, str)
        Where on the axis which number stands.
    width, height : int
        Size of the area in which the paths lie.
    """

    title: str
    series: list[Series]
    ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT


def histograms(title: str, values: Sequence[tuple[str, Floats]], end: float, step: float) -> Chart:
    """Return a chart of quantities from 0 to `end`, at least one value of each set, with a number on the axis at each `step`."""
    shares = [np.histogram(one.clip(0, end), BINS, (0, end))[0] / len(one) for _, one in values]
    highest = max(float(share.max()) for share in shares)
    series = [
        Series(name, _outline(share / highest), float(one.mean()), round(WIDTH * float(one.mean()) / end, 1))
        for (name, one), share in zip(values, shares, strict=True)
    ]
    ticks = [(round(WIDTH * at / end, 1), f"{at:g}") for at in np.arange(0, end * 1.001, step).tolist()]
    return Chart(title, series, ticks)


def _outline(heights: Floats) -> str:
    """Return a path around bars of heights from 0 to 1."""
    width, tops = WIDTH / BINS, [round(HEIGHT * (1 - height), 1) for height in heights.tolist()]
    steps = "".join(f"V{top:g}H{round((number + 1) * width, 1):g}" for number, top in enumerate(tops))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}Z"
