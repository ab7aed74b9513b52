"""From a result, by default the latest, to `REPORT.md` and its pictures: python -m benchmarks.report.write [RESULT.json]."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.accuracy import budget, evidence, prediction
from benchmarks.accuracy import tables as accuracy
from benchmarks.measure.common import RESULTS
from benchmarks.report import cifar, epochs, figures, imagenet, trainers
from softlabel_codec.report.fidelity import CROPS_OF_A_MEAN

BENCHMARKS = Path(__file__).resolve().parents[1]
REPORT, FIGURES = BENCHMARKS / "REPORT.md", BENCHMARKS / "figures"
PIPELINES, FEW_CROPS, FIELDS = RESULTS / "pipelines.json", RESULTS / "few-crops.json", RESULTS / "fields.json"
MS = "marginal_smoothing:"
K5, K5_F16 = f"{MS}k=5", f"{MS}k=5,values=f16"
T02, SMALL, FAITHFUL = f"{MS}t=0.02", f"{MS}t=0.1,tail=30", f"{MS}t=0.05,tail=100"
FKD, LMDB = "FKD .tar, f16", "LMDB + zstd-3"
SIZE_GOALS = [
    (K5_F16, "stored", 16.6),
    (K5, "stored", 10.3),
    (T02, "stored", 8.7),
    (K5, "derived", 6.3),
    (T02, "derived", 4.7),
    (SMALL, "derived", 2.3),
    (FAITHFUL, "derived", 3.5),
    (FAITHFUL, "stored", 7.4),
]
Result = dict[str, Any]
Rows = list[Sequence[object]]


def latest() -> Path:
    """Return the result that was made last."""
    return max(RESULTS.glob("*-*-*-*.json"))


def write(path: Path) -> None:
    """Write the report and its pictures from a result file."""
    result = json.loads(path.read_text())
    FIGURES.mkdir(exist_ok=True)
    figures.draw(result, FIGURES)
    for picture in (budget, prediction):
        picture.draw(evidence.load(), FIGURES)
    REPORT.write_text(render(result, path.name))


def render(result: Result, name: str) -> str:
    """Return the text of the report: the prose of the template, with the numbers of a result."""
    where = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    tables = {
        "goals": _goals(result),
        **_storage(result),
        "distortion": _distortion(result),
        "temperatures": _temperatures(result),
        "limit": _limit(result),
        "reading": _reading(result),
        **_writing(result),
        **_scale(result),
        "images": _images(result) if result["images"] else None,
        "pipelines": _pipelines(json.loads(PIPELINES.read_text())),
        "epochs": epochs.render(epochs.load()),
        "accuracy": accuracy.render(evidence.load()),
        "not_run": accuracy.not_run(evidence.load()),
        "trainers": trainers.render(trainers.load()),
        "cifar": cifar.render(),
        "imagenet": table(["labels", *imagenet.COLUMNS], imagenet.rows()),
        "fields": _fields(json.loads(FIELDS.read_text())),
        "few_crops": _few_crops(json.loads(FEW_CROPS.read_text())),
    }
    return where.get_template("REPORT.md.jinja").render(result=result, name=name, crops_of_a_mean=CROPS_OF_A_MEAN, **tables)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _goals(result: Result) -> str:
    rows: Rows = []
    if "photographs" in result["labels"]:
        sizes = result["storage"]["bytes_per_crop"]
        rows += [
            (f"`{codec}`, {crops}", f"at most {most} bytes per crop", f"{sizes[codec][crops]:.2f}", sizes[codec][crops] <= most)
            for codec, crops, most in SIZE_GOALS
        ]
        rows += _distortion_goals(result)
    rows += _speed_goals(result)
    cells = [(*row[:3], "yes" if row[3] else "**no**") for row in rows]
    return table(["what", "goal", "measured", "met"], cells)


def _distortion_goals(result: Result) -> Rows:
    points = {point["codec"]: point["kl"] for family in result["distortion"]["families"].values() for point in family}
    exact = points[f"{K5},values=f32"]
    goals = [
        (K5, exact + 0.0006, "exact + 0.0006"),
        (T02, points[K5], "that of k=5"),
        (SMALL, points[K5], "that of k=5"),
        (FAITHFUL, 0.65 * points[K5], "0.65 times that of k=5"),
    ]
    return [(f"`{codec}`", f"KL at most {most:.4f}, {text}", f"{points[codec]:.4f}", points[codec] <= most) for codec, most, text in goals]


def _speed_goals(result: Result) -> Rows:
    rows: Rows = []
    for size, found in result["reading"].items():
        if not size.endswith("images"):
            continue
        fkd = {way: ratio["median"] for way, ratio in found["times_faster_than_fkd"].items()}
        lmdb = {way: ratio["median"] for way, ratio in found["times_faster_than_lmdb"].items()}
        for way, ratios, goal, peer in (
            (f"read_batch, {K5}, derived", fkd, 10, "FKD"),
            (f"read_batch, {K5_F16}, stored", lmdb, 1, "LMDB, which holds the same numbers"),
            (f"read_batch, {K5}, derived", lmdb, 1, "LMDB"),
            (f"read, {K5}, stored", fkd, 4, "FKD"),
        ):
            rows.append((f"`{way}`, {size}", f"{goal} times as fast as {peer}", f"{ratios[way]:.2f}", ratios[way] >= goal))
    writer, loader = result["writing"]["writer"], result["writing"]["loader"]["crops_per_second"]
    rates = [
        (f"writing, top-K, `{K5}`, stored", writer[f"top-K, {K5}, stored"], 500_000),
        (f"writing, probabilities, `{K5}`, derived", writer[f"probs, {K5}, derived"], 60_000),
    ]
    rates += [
        (f"DataLoader, labels only, {crops}, one worker", loader[f"{crops}, num_workers=1"], 200_000) for crops in ("derived", "stored")
    ]
    rows += [(what, f"{goal} crops/s", f"{rate['median']:.0f}", rate["median"] >= goal) for what, rate, goal in rates]
    images = result["scale"]["over_images"]["imagenet_images"]
    imagenet = result["scale"]["over_images"]["opening"][str(images)]
    milliseconds, megabytes = imagenet["open_milliseconds"]["median"], imagenet["open_megabytes"]["median"]
    rows += [
        (f"opening {images:,} images", "under 50 ms", f"{milliseconds:.1f}", milliseconds < 50),
        ("memory for it", "under 64 MiB", f"{megabytes:.1f}", megabytes < 64),
    ]
    framing = {crops: result["scale"]["over_crops"][crops]["framing_bytes_per_image"] for crops in ("1", "5", "20")}
    rows += [
        (f"framing, {crops} crops per image", "at most 4 bytes per image", f"{size:.2f}", size <= 4) for crops, size in framing.items()
    ]
    if result["images"]:
        share = {crops: percent["median"] for crops, percent in result["images"]["labels_share"]["percent"].items()}
        rows += [
            (f"labels beside JPEGs, {crops}", "less than 2 % of the time", f"{percent:.1f} %", percent < 2)
            for crops, percent in share.items()
        ]
    return rows


def _storage(result: Result) -> dict[str, str]:
    storage = result["storage"]
    images = storage["imagenet_images"]
    rows: Rows = []
    for codec, sizes in storage["bytes_per_crop"].items():
        gigabytes = [f"{sizes[kind] * crops * images / 1e9:.2f}" for crops in (200, 500) for kind in ("stored", "derived")]
        rows.append((f"`{codec}`", f"{sizes['stored']:.2f}", f"{sizes['derived']:.2f}", *gigabytes))
    peers: Rows = []
    for name, size in storage["peers_bytes_per_crop"].items():
        peers.append((name, f"{size:.2f}", *(f"{size * crops * images / 1e9:.2f}" for crops in (200, 500))))
    arithmetic = [
        (name, row["bytes_per_crop"], f"{row['GB, M=200']:.1f}", f"{row['GB, M=500']:.1f}")
        for name, row in storage["fkd_arithmetic"].items()
    ]
    sizes = [f"GB, M={crops}, {kind}" for crops in (200, 500) for kind in ("stored", "derived")]
    of_format = ["bytes per crop", "GB, M=200", "GB, M=500"]
    return {
        "codecs": table(["codec", "stored", "derived", *sizes], rows),
        "peers": table(["format", *of_format], peers),
        "fkd_arithmetic": table(["labels", *of_format], arithmetic),
    }


def _distortion(result: Result) -> str:
    rows: Rows = []
    for family, points in result["distortion"]["families"].items():
        for point in points:
            kl = "-" if point["kl"] is None else f"{point['kl']:.4f}"
            measures = (f"{point['total_variation']:.4f}", f"{point['top1']:.4f}")
            rows.append((f"`{point['codec']}`", family, f"{point['derived']:.2f}", f"{point['stored']:.2f}", kl, *measures))
    return table(["codec", "family", "derived", "stored", "KL", "total variation", "top-1"], rows)


def _temperatures(result: Result) -> str:
    points = {point["codec"]: point for family in result["distortion"]["families"].values() for point in family}
    rows: Rows = []
    for codec in sorted(points, key=lambda codec: points[codec]["derived"]):
        found = points[codec]["fidelity"]
        kl = ["-" if at["kl"] is None else f"{at['kl']:.4f}" for at in found]
        lost = ["-" if at["lost"] is None else f"{at['lost']:.1%}" for at in found]
        variation = [f"{at['total_variation']:.4f}" for at in found]
        rows.append((f"`{codec}`", f"{points[codec]['derived']:.2f}", *lost, *kl, *variation, f"{points[codec]['spread']:.6f}"))
    at = [f"T = {one['temperature']:g}" for one in found]
    measures = [f"{what}, {where}" for what in ("lost", "KL", "total variation") for where in at]
    return table(["codec", "derived", *measures, "spread"], rows)


def _limit(result: Result) -> str:
    rows: Rows = []
    for codec, columns in result["limit"]["columns"].items():
        for name, sizes in columns.items():
            if "model" in sizes:
                ratio = sizes["bytes"] / sizes["model"]
                rows.append(
                    (f"`{codec}`" if name == "indices" else "", name, f"{sizes['bytes']:.3f}", f"{sizes['model']:.3f}", f"{ratio - 1:+.0%}")
                )
            else:
                rows.append(("", name, f"{sizes['bytes']:.3f}", "", ""))
    for name, sizes in result["limit"]["crops"].items():
        rows.append(
            (
                "stored crops" if name == "crops" else "",
                name,
                f"{sizes['bytes']:.3f}",
                f"{sizes['model']:.3f}",
                f"{sizes['bytes'] / sizes['model'] - 1:+.0%}",
            )
        )
    return table(["codec", "column", "bytes", "model", "above it"], rows)


def _reading(result: Result) -> list[tuple[str, Result | None, str]]:
    parts = []
    for size, found in result["reading"].items():
        if not size.endswith("images"):
            continue
        rows: Rows = []
        for way, times in found["microseconds_per_image"].items():
            ratios = found["times_faster_than_fkd"][way], found["times_faster_than_lmdb"][way]
            spread = f"{times['min']:.1f} to {times['max']:.1f}"
            rows.append(
                (f"`{way}`" if ":" in way else way, f"{times['median']:.1f}", spread, *(f"{ratio['median']:.2f}" for ratio in ratios))
            )
        blocks = found["distinct_blocks_per_batch"].get(f"{K5}, derived")
        parts.append((size, blocks, table(["", "us per image", "from, to", "times as fast as FKD", "as LMDB"], rows)))
    return parts


def _writing(result: Result) -> dict[str, str]:
    writer = [
        (f"`{way}`", f"{rate['median']:.0f}", f"{rate['min']:.0f} to {rate['max']:.0f}")
        for way, rate in result["writing"]["writer"].items()
    ]
    loader = result["writing"]["loader"]
    rates = [(way, f"{rate['median']:.0f}", f"{rate['min']:.0f} to {rate['max']:.0f}") for way, rate in loader["crops_per_second"].items()]
    columns = ["crops/s", "from, to"]
    return {"writing": table(["input, codec, crops", *columns], writer), "loader": table(["", *columns], rates)}


def _scale(result: Result) -> dict[str, str]:
    over_images, over_crops = result["scale"]["over_images"], result["scale"]["over_crops"]
    rows: Rows = []
    for images, opening in over_images["opening"].items():
        single, read = (over_images[name].get(images) for name in ("single_read_microseconds", "read_microseconds_per_image"))
        blocks = over_images["distinct_blocks_per_batch"].get(images)
        medians = [f"{opening[name]['median']:.1f}" for name in ("open_milliseconds", "open_megabytes", "look_up_microseconds")]
        reading = [f"{single['median']:.1f}", f"{read['median']:.1f}", f"{blocks:.0f}"] if single and read else [""] * 3
        rows.append((f"{int(images):,}", f"{over_images['file_bytes'][images] / 2**20:.1f}", *medians, *reading))
    crops = [
        (
            number,
            f"{found['bytes_per_crop']:.2f}",
            f"{found['bytes_per_crop'] * int(number):.1f}",
            *(f"{found[name]:.2f}" for name in ("framing_bytes_per_image", "image_size_bytes_per_image", "key_bytes_per_image")),
            f"{found['read_microseconds_per_image']['median']:.1f}",
        )
        for number, found in over_crops.items()
    ]
    set_columns = [
        "images",
        "MiB on disk",
        "open, ms",
        "MiB in memory",
        "look up a key, us",
        "read, us",
        "read_batch, us per image",
        "blocks per batch",
    ]
    crop_columns = [
        "crops per image",
        "bytes per crop",
        "bytes per image",
        "framing per image",
        "image size per image",
        "keys per image",
        "read, us per image",
    ]
    return {"over_images": table(set_columns, rows), "over_crops": table(crop_columns, crops)}


def _images(result: Result) -> dict[str, str]:
    images = result["images"]
    stations = [(name, f"{times['median']:.2f}") for name, times in images["stations"].items()]
    decoders = [(name, f"{times['median']:.2f}") for name, times in images["decoders"]["milliseconds_per_image"].items()]
    share = [
        (crops, f"{percent['median']:.2f}", f"{percent['min']:.2f} to {percent['max']:.2f}")
        for crops, percent in images["labels_share"]["percent"].items()
    ]
    crops = [(name, f"{times['median']:.2f}") for name, times in images["crops_per_image"].items()]
    reduced = [
        (
            size,
            f"{found['images_decoded_reduced']:.0%}",
            f"{found['milliseconds_per_image']['whole']['median']:.2f}",
            f"{found['milliseconds_per_image']['reduced']['median']:.2f}",
            f"{found['mean_difference']:.2f}",
            found["largest_difference"],
        )
        for size, found in images["reduced_decoding"].items()
    ]
    return {
        "stations": table(["station", "ms"], stations),
        "crops": table(["crops per image", "ms per crop"], crops),
        "share": table(["crops are", "median", "from, to"], share),
        "decoders": table(["decoder", "ms"], decoders),
        "reduced": table(["output", "images decoded reduced", "whole, ms", "reduced, ms", "mean difference", "largest"], reduced),
    }


def _pipelines(found: Result) -> dict[str, Any]:
    rows = [
        (
            name,
            *(f"{rate[part]:.0f}" for part in ("median", "min", "max")),
            f"{found['times_image_folder'][name]['median']:.2f}",
            f"{found['times_fastest_uint8'][name]['median']:.2f}",
        )
        for name, rate in found["crops_per_second_and_core"].items()
    ]
    columns = ["loader", "crops per second", "min", "max", "times ImageFolder", "times the fastest uint8 of torchvision"]
    turns = next(iter(found["crops_per_second_and_core"].values()))["n"]
    return {**found, "turns": turns, "table": table(columns, rows)}


def _fields(found: Result) -> dict[str, Result]:
    """Return for each device what is known of the speed of label fields, with its tables."""
    parts = {}
    for device, part in found.items():
        of_fit, of_reading = part["fitting"], part["reading"]
        rates: Rows = []
        for way, rate in of_fit["images_per_second"].items():
            quality = of_fit["fields"][way]
            numbers = f"{quality['bytes_per_image']:.0f}", f"{quality['fitted_kl']:.4f}", f"{quality['unseen_kl']:.4f}"
            rates.append((f"`{way}`", f"{rate['median']:.0f}", f"{rate['min']:.0f} to {rate['max']:.0f}", *numbers))
        times = [
            (f"`{way}`", f"{time['median']:.2f}", f"{time['min']:.2f} to {time['max']:.2f}")
            for way, time in of_reading["milliseconds"].items()
        ]
        columns = ["", "images/s", "from, to", "bytes per image", "KL, fitted crops", "KL, unseen crops"]
        tables = {"fitting_table": table(columns, rates), "reading_table": table(["", "ms", "from, to"], times)}
        ratios = {
            "of_tail": {crops: _spread(ratio) for crops, ratio in of_reading["times_tail"].items()},
            "of_add": _spread(of_fit["times_add"]),
        }
        parts[device] = {**part, **tables, **ratios}
    return parts


def _few_crops(found: Result) -> Result:
    tables = {}
    for name, part in found["sets"].items():
        rows: Rows = []
        numbers = list(next(iter(part["rows"].values())))
        for codec, sizes in part["rows"].items():
            cells = [f"{size['bytes_per_image']:.0f} / {size['bytes_per_crop']:.2f} ({size['kl']:.3f})" for size in sizes.values()]
            rows.append((f"`{codec}`", *cells, f"{part['read_batch_microseconds_per_image'][codec]['median']:.0f}"))
        tables[name] = table(["codec", *(f"M = {number}" for number in numbers), "read_batch, us"], rows)
    sources = {name: part["source"] for name, part in found["sets"].items()}
    return {**found, "tables": tables, "sources": sources}


def _spread(found: Result) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else latest())
