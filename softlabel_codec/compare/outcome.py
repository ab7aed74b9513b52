"""The result of a comparison: rows of means, differences with their intervals, and a picture."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

import torch

from softlabel_codec.compare.quality import LabelQuality
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.train import MAPS, STORED, is_stored, kind_of_labels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.version import library_versions

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference of means, and its 95 % confidence interval by Welch's t-test."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A label source (with the options that vary), and the students trained from it.

    Attributes
    ----------
    name, labels : str
        The source.
    codec : str or None
        Codec of a label file or set.
    varied : dict
        Options that differ from row to row.
    seeds : list of int
        One student for each.
    accuracies : list of float
        Top-1 of each on the validation images, in percent.
    mean, standard_deviation : float
        Of the accuracies; the standard deviation is None for one student.
    difference : Interval or None
        Mean accuracy less that of the reference, in points. The interval covers the variation between seeds, not between validation sets.
        None for the reference itself, and if the spread is unknown, as with one student.
    within_margin : bool or None
        Whether the whole interval lies within the margin.
    bytes_per_crop, bytes_per_image : float or None
        File size divided by stored crops, and by their images; for label maps, by those of the first labels that are stored; None if
        nothing is stored.
    kl : float or None
        Mean KL divergence of the labels from the reference's on the same crops, in nats; None where unknown or infinite.
    quality : LabelQuality or None
        Confidence, entropy and fidelity of the labels.
    seconds_per_epoch, data_seconds_per_epoch : float
        Mean time of an epoch, and how much of it the process waited for data.
    """

    name: str
    labels: str
    codec: str | None
    varied: dict[str, Any]
    seeds: list[int]
    accuracies: list[float]
    mean: float
    standard_deviation: float | None
    difference: Interval | None
    within_margin: bool | None
    bytes_per_crop: float | None
    bytes_per_image: float | None
    kl: float | None
    quality: LabelQuality | None
    seconds_per_epoch: float
    data_seconds_per_epoch: float

    @property
    def title(self) -> str:
        """The source with the options that vary."""
        return ", ".join([self.name, *(f"{name}={value}" for name, value in self.varied.items())])


@dataclass(frozen=True)
class CompareReport:
    """The result of a comparison.

    Attributes
    ----------
    date, machine, versions
        When, where and with which libraries it ran.
    options : dict
        Options of all runs.
    reference : str
        Source that the others are compared with.
    margin : float
        In points of accuracy.
    rows : list of Row
        One for each source and variation.
    """

    date: str
    machine: str
    versions: dict[str, str]
    options: dict[str, Any]
    reference: str
    margin: float
    rows: list[Row]


@dataclass(frozen=True)
class Cell:
    """The input of a row: a source, the options that vary, and the results of its runs by seed."""

    name: str
    varied: dict[str, Any]
    results: dict[int, dict[str, Any]]

    @property
    def accuracies(self) -> list[float]:
        """Top-1 of each run in percent."""
        return [100 * float(result["evaluation"]["top1"]) for result in self.results.values()]


def make_report(
    cells: Sequence[Cell],
    sources: Mapping[str, str],
    quality: Mapping[str, LabelQuality],
    options: Mapping[str, Any],
    reference: str,
    margin: float,
) -> CompareReport:
    """Return the report of a comparison whose runs are all finished."""
    of_reference = {str(cell.varied): cell.accuracies for cell in cells if cell.name == reference}
    rows = []
    for cell in cells:
        values, results, said = cell.accuracies, cell.results.values(), quality.get(cell.name)
        difference = None if cell.name == reference else welch(values, of_reference[str(cell.varied)])
        rows.append(
            Row(
                name=cell.name,
                labels=sources[cell.name],
                codec=_codec(sources[cell.name]),
                varied=cell.varied,
                seeds=list(cell.results),
                accuracies=values,
                mean=mean(values),
                standard_deviation=stdev(values) if len(values) > 1 else None,
                difference=difference,
                within_margin=None if difference is None else -margin <= difference.low and difference.high <= margin,
                **_sizes(sources[cell.name], sources),
                kl=None if said is None or reference not in quality else said.kl(reference, quality[reference].entropy),
                quality=said,
                seconds_per_epoch=mean(result["seconds"] / result["epochs"] for result in results),
                data_seconds_per_epoch=mean(result["data_seconds"] / result["epochs"] for result in results),
            )
        )
    versions = {"python": platform.python_version(), **library_versions("softlabel_codec", "numpy", "pillow", "torch", "zstandard")}
    return CompareReport(time.strftime("%Y-%m-%d"), machine(), versions, dict(options), reference, margin, rows)


def need_libraries() -> None:
    """Raise ArgumentError if a library that the report needs is missing. Called before training."""
    try:
        import matplotlib.figure  # noqa: F401, PLC0415
        import scipy.stats  # noqa: F401, PLC0415
    except ImportError as error:
        raise ArgumentError(f"compare: {error.name} is not installed: pip install 'softlabel_codec[compare]'") from None


def welch(values: Sequence[float], others: Sequence[float]) -> Interval | None:
    """Return the mean of `values` minus that of `others`, with its interval; None if their spread is unknown.

    The spread is unknown if either has fewer than two values, or if neither varies at all: two equal results do not prove certainty.
    """
    if len(values) < 2 or len(others) < 2:
        return None
    from scipy.stats import t  # noqa: PLC0415  only here

    found = mean(values) - mean(others)
    one, other = variance(values) / len(values), variance(others) / len(others)
    if one + other == 0:
        return None
    freedom = (one + other) ** 2 / (one**2 / (len(values) - 1) + other**2 / (len(others) - 1))
    half = float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) * math.sqrt(one + other)
    return Interval(found, found - half, found + half)


def _codec(labels: str) -> str | None:
    if not is_stored(labels):
        return None
    with SoftLabelReader(labels) as reader:
        return reader.codec


def _sizes(labels: str, sources: Mapping[str, str]) -> dict[str, float | None]:
    """Return the size of stored labels divided by their crops, and by their images; for label maps, by those of the first stored labels."""
    stored = labels if is_stored(labels) else next(filter(is_stored, sources.values()), None)
    if kind_of_labels(labels) not in (STORED, MAPS) or stored is None:
        return {"bytes_per_crop": None, "bytes_per_image": None}
    with SoftLabelReader(stored) as reader:
        found = reader.container
        num_bytes = found.num_bytes if stored == labels else Path(labels).stat().st_size
        return {"bytes_per_crop": num_bytes / found.total_crops, "bytes_per_image": num_bytes / len(reader)}


def machine() -> str:
    """Return a description of this machine."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def draw_comparison(report: CompareReport, path: str | Path) -> None:
    """Draw accuracy over bytes per crop: each student, and the mean of each row; sources that store nothing are dashed lines."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in report.rows:
        if row.bytes_per_crop is None:
            axes.axhline(row.mean, linestyle="--", linewidth=1, color="grey")
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (3, 2), "fontsize": 8}
            axes.annotate(row.title, (0, row.mean), **place)
            continue
        points = axes.plot([row.bytes_per_crop] * len(row.accuracies), row.accuracies, "o", alpha=0.35, markersize=4)
        axes.plot(row.bytes_per_crop, row.mean, "_", markersize=16, markeredgewidth=2, color=points[0].get_color(), label=row.title)
    if any(row.bytes_per_crop is not None for row in report.rows):
        axes.set_xscale("log")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(xlabel="bytes per crop", ylabel="top-1 accuracy in %", title="Accuracy of students and size of their labels")
    figure.savefig(str(path), dpi=120)
