"""The pictures of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Result = dict[str, Any]
OURS, THEIRS = "tab:blue", "silver"
MS = "marginal_smoothing:"
SHOWN = ["hard", "smoothing", f"{MS}t=0.1,tail=30", f"{MS}t=0.05,tail=100", f"{MS}t=0.02", f"{MS}k=5", f"{MS}k=5,values=f16"]
CURVES = {
    "k": "k = 1 ... 20",
    "t": "t = 0.2 ... 0.005",
    "t, tail=30": "t, tail=30",
    "t, tail=100": "t, tail=100",
    "t, tail=300": "t, tail=300",
}
COLORS = ["tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown"]


def draw(result: Result, folder: Path) -> None:
    """Draw all pictures of a result."""
    for name, picture in (
        ("storage", _storage),
        ("distortion", _distortion),
        ("budget", _budget),
        ("reading", _reading),
        ("scale", _scale),
    ):
        picture(result).savefig(folder / f"{name}.png", dpi=110)


def _storage(result: Result) -> Figure:
    storage = result["storage"]
    bars = [(name, size, THEIRS) for name, size in storage["peers_bytes_per_crop"].items()]
    known = [codec for codec in SHOWN if codec in storage["bytes_per_crop"]]
    bars += [(f"{codec}, {crops}", storage["bytes_per_crop"][codec][crops], OURS) for crops in ("stored", "derived") for codec in known]
    bars.sort(key=lambda bar: -bar[1])
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh([name for name, _, _ in bars], [size for _, size, _ in bars], color=[color for _, _, color in bars])
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set(title="Bytes per crop: what is used today (grey, top 5) and softlabel containers (blue)", xlabel="bytes")
    axes.margins(x=0.08)
    return figure


def _distortion(result: Result) -> Figure:
    families = result["distortion"]["families"]
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, measure, name in zip(
        figure.subplots(1, 2), ("kl", "total_variation"), ("KL from the teacher, nats", "total variation"), strict=True
    ):
        for (family, label), color in zip(CURVES.items(), COLORS, strict=False):
            points = families[family]
            axes.plot(
                [point["derived"] for point in points],
                [point[measure] for point in points],
                "o-",
                color=color,
                label=f"{label} (derived)",
                markersize=4,
            )
            axes.plot([point["stored"] for point in points], [point[measure] for point in points], ":", color=color, linewidth=1)
        exact = next(point for point in families["k=5, other values"] if point["codec"].endswith("values=f16"))
        sizes = [size for name, size in result["storage"]["peers_bytes_per_crop"].items() if "pages" not in name]
        axes.plot(sizes, [exact[measure]] * len(sizes), "x", color="black", label="formats of today, top 5 (stored crops)")
        axes.plot(exact["stored"], exact[measure], "s", color="black", fillstyle="none", label="ours, the same numbers (stored crops)")
        axes.set(xlabel="bytes per crop", ylabel=name, xscale="log", yscale="log")
        ticks = [1, 2, 3, 5, 10, 20, 40, 80]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.suptitle("Rate against distortion (dotted: the same with stored crops)")
    return figure


def _budget(result: Result) -> Figure:
    columns = result["limit"]["columns"]
    names = ["indices", "values", "remainders", "counts", "tails", "the rest"]
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(columns))
    for kind, shift, hatch in (("bytes", -0.2, None), ("model", 0.2, "///")):
        left = np.zeros(len(columns))
        for name, color in zip(names, COLORS, strict=True):
            sizes = np.array([column.get(name, {}).get(kind, 0.0) for column in columns.values()])
            label = name if kind == "bytes" else None
            axes.barh(
                places + shift,
                sizes,
                0.38,
                left,
                color=color,
                label=label,
                alpha=1 if kind == "bytes" else 0.5,
                hatch=hatch,
                edgecolor="white",
            )
            left += sizes
    axes.set_yticks(places, list(columns))
    axes.invert_yaxis()
    axes.set(title="Bytes per crop by column; hatched: code length of an adaptive model", xlabel="bytes")
    axes.legend()
    return figure


def _reading(result: Result) -> Figure:
    sets = {size: found for size, found in result["reading"].items() if size.endswith("images")}
    figure = Figure(figsize=(13, 5), layout="constrained")
    for axes, (size, found) in zip(figure.subplots(1, len(sets)), sets.items(), strict=True):
        times = {way.replace(MS, ""): time["median"] for way, time in found["microseconds_per_image"].items()}
        places = np.arange(len(times))
        colors = [OURS if way.startswith("read") else "black" for way in times]
        axes.scatter(list(times.values()), places, color=colors)
        for place, time in zip(places, times.values(), strict=True):
            axes.annotate(f"{time:.1f}", (time, place), xytext=(7, -3), textcoords="offset points")
        axes.set_yticks(places, list(times))
        axes.invert_yaxis()
        axes.set(title=size, xscale="log", xlabel="microseconds")
        axes.margins(x=0.15)
        axes.grid(axis="x", alpha=0.3, which="both")
    figure.suptitle(f"{result['reading']['crops']} crops of a random image, microseconds per image")
    return figure


def _scale(result: Result) -> Figure:
    over_images, over_crops = result["scale"]["over_images"], result["scale"]["over_crops"]
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    images = sorted(int(size) for size in over_images["read_microseconds_per_image"])
    for name, label in (("single_read_microseconds", "read"), ("read_microseconds_per_image", "read_batch of 256 images")):
        left.plot(images, [over_images[name][str(size)]["median"] for size in images], "o-", label=label)
    left.set(title="Reading 4 crops of random images", xlabel="images in the set", ylabel="us per image", xscale="log", ylim=(0, None))
    left.legend()
    opened = sorted(int(size) for size in over_images["opening"])
    for name, label in (("open_milliseconds", "open, ms"), ("open_megabytes", "memory, MiB")):
        middle.plot(opened, [over_images["opening"][str(size)][name]["median"] for size in opened], "o-", label=label)
    middle.set(title="Opening", xlabel="images in the set", xscale="log", yscale="log")
    middle.legend()
    crops = [int(number) for number in over_crops]
    right.plot(crops, [found["bytes_per_crop"] for found in over_crops.values()], "o-", label="all")
    without_keys = [found["bytes_per_crop"] - found["key_bytes_per_image"] / int(number) for number, found in over_crops.items()]
    right.plot(crops, without_keys, "o-", label="without keys")
    right.set(title="Bytes per crop", xlabel="crops per image", xscale="log", ylim=(0, None))
    right.legend()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return figure
