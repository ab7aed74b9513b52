"""From a result to `REPORT.md` and its pictures: python -m benchmarks.report.write [RESULT.json]. Without one, the latest result is taken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import tables
from benchmarks.measure.common import RESULTS
from benchmarks.report import figures

BENCHMARKS = Path(__file__).resolve().parents[1]
REPORT, FIGURES = BENCHMARKS / "REPORT.md", BENCHMARKS / "figures"
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
    REPORT.write_text(render(result, path.name))


def render(result: Result, name: str) -> str:
    """Return the text of the report."""
    parts = [_head(result, name), _goals(result), _storage(result), _distortion(result), _limit(result), _reading(result), _writing(result)]
    parts += [_scale(result), _images(result) if result["images"] else "", _epochs(result.get("epochs"))]
    parts += [f"## 9. Accuracy\n\n{tables.render(tables.load())}", _tried()]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _head(result: Result, name: str) -> str:
    machine, versions = result["machine"], result["versions"]
    return f"""
# Benchmarks

Made by `make bench` from [results/{name}](results/{name}), on {result["date"]}, in {sum(result["seconds"].values()):.0f} seconds.

- Labels: {result["labels"]} ({result["num_crops"]} crops).
- Machine: {machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}, Python {machine["python"]}; it is shared and noisy, so that only ratios within one
  run mean something. Times are medians, with smallest and largest in the result.
- Versions: {", ".join(f"{package} {version}" for package, version in versions.items())}.
- *stored*: exact pixel crops are in the file. *derived*: they come from the specified sampler, and only its parameters are in the file.
"""


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
    return "## Goals\n\n" + table(["what", "goal", "measured", "met"], cells) + "\n\n" + GOALS_TEXT


GOALS_TEXT = """What is missed: a single read of four crops does not become four times faster than `torch.load` in pure Python. About 10 us are the block itself (`pread`, checksum,
zstd); the rest are some three hundred operations of the interpreter and the making of five small arrays. Use `read_batch`, as the dataset does. In the larger set,
where nearly every image of a batch lies in another block, inflating a whole block for four crops costs most of the time: smaller blocks would be faster and larger
(two thirds of the size: -20 % time, +2 to 4 % bytes). We chose bytes, because decoding the JPEG takes a hundred times longer than either."""


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


def _storage(result: Result) -> str:
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
    return f"""
## 1. Storage

Whole files divided by crops, keys and metadata included; the projection to ImageNet-1k ({images:,} images, M crops each) takes the same bytes per crop.
`dense` is measured on the first {storage["dense_images"]} images.

![Bytes per crop](figures/storage.png)

{table(["codec", "stored", "derived", *(f"GB, M={crops}, {kind}" for crops in (200, 500) for kind in ("stored", "derived"))], rows)}

What people use today, holding the top 5 with stored crops: to be compared with the columns *stored*.

{table(["format", "bytes per crop", "GB, M=200", "GB, M=500"], peers)}

FKD's own arithmetic, images * M * (floats + 5) * 4 bytes. (Its paper says 0.9 TB of full labels at M = 200; in binary units that is what comes out here.)

{table(["labels", "bytes per crop", "GB, M=200", "GB, M=500"], arithmetic)}
"""


def _distortion(result: Result) -> str:
    rows: Rows = []
    for family, points in result["distortion"]["families"].items():
        for point in points:
            kl = "-" if point["kl"] is None else f"{point['kl']:.4f}"
            measures = (f"{point['total_variation']:.4f}", f"{point['top1']:.4f}")
            rows.append((f"`{point['codec']}`", family, f"{point['derived']:.2f}", f"{point['stored']:.2f}", kl, *measures))
    return f"""
## 2. Rate against distortion

KL is that of the decoded label from the teacher's, in nats, with targets of at least {result["distortion"]["floor"]:g}; top-1 is the share of crops whose largest target is the teacher's.
marginal_renorm drops the remainder by policy, so that its KL is infinite.

![Bytes per crop over KL and total variation](figures/distortion.png)

{table(["codec", "family", "derived", "stored", "KL", "total variation", "top-1"], rows)}
"""


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
    return f"""
## 3. Byte budget, and the limit

Bytes per crop of each column (derived crops), beside the code length of an adaptive model of the same symbols: frequencies learnt as it goes, in the best of several contexts
(image, number of classes kept, place, class before). It is a code length only, what an arithmetic coder could reach that decodes one symbol after another. *Indices* include palettes; *the rest* is keys, framing and
image sizes. For stored crops the limit takes all crops of the areas and shapes that occur as equally likely.

![Byte budget by column](figures/budget.png)

{table(["codec", "column", "bytes", "model", "above it"], rows)}
"""


def _reading(result: Result) -> str:
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
        note = (
            f"A batch of {result['reading']['batch']} images touches {blocks['distinct']} blocks of {blocks['blocks_in_file']} (`{K5}`, derived)."
            if blocks
            else ""
        )
        parts.append(f"### {size}\n\n{note}\n\n" + table(["", "us per image", "from, to", "times as fast as FKD", "as LMDB"], rows))
    return f"""
## 4. Reading

{result["reading"]["crops"]} of the crops of a random image, warm cache: coordinates, flips, classes and values. All formats take turns in one process, each returning the same crops, which is checked. `read` takes one image,
`read_batch` {result["reading"]["batch"]}. The larger set is the same labels under other keys.

![Reading](figures/reading.png)

""" + "\n\n".join(parts)


def _writing(result: Result) -> str:
    writer = [
        (f"`{way}`", f"{rate['median']:.0f}", f"{rate['min']:.0f} to {rate['max']:.0f}")
        for way, rate in result["writing"]["writer"].items()
    ]
    loader = result["writing"]["loader"]
    rates = [(way, f"{rate['median']:.0f}", f"{rate['min']:.0f} to {rate['max']:.0f}") for way, rate in loader["crops_per_second"].items()]
    return f"""
## 5. Writing, and a DataLoader

One process, from arrays in memory to a finished file (quantised, packed, compressed, synced):

{table(["input, codec, crops", "crops/s", "from, to"], writer)}

A DataLoader that delivers crops, flips and sparse labels (tensors in the end), {loader["images_per_batch"]} images of {loader["crops_per_image"]} crops per batch, of {loader["images"]} images, `{K5}`:

{table(["", "crops/s", "from, to"], rates)}
"""


def _scale(result: Result) -> str:
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
            *(f"{found[name]:.2f}" for name in ("framing_bytes_per_image", "image_size_bytes_per_image", "key_bytes_per_image")),
            f"{found['read_microseconds_per_image']['median']:.1f}",
        )
        for number, found in over_crops.items()
    ]
    return f"""
## 6. Scale

Synthetic sets of {over_images["crops_per_image"]} crops per image (one real block again and again). Opening and looking up are measured in a fresh process each; `read` takes one random image, and costs the
same in every set. `read_batch` takes 256 at once; its cost follows the number of different blocks that they lie in, which are few in a small set.

![Scale](figures/scale.png)

{table(["images", "MiB on disk", "open, ms", "MiB in memory", "look up a key, us", "read, us", "read_batch, us per image", "blocks per batch"], rows)}

The same {result["num_crops"]} crops as fewer or more images (`{K5}`, derived). Framing is headers, lengths, checksums, index and summary; neighbours in these files are unrelated images, and keys are long and random.

{table(["crops per image", "bytes per crop", "framing per image", "image size per image", "keys per image", "read, us per image"], crops)}
"""


def _images(result: Result) -> str:
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
    return f"""
## 7. The image path

JPEG photographs of about 500 x 375 pixels, 4 crops of 224 pixels each, in milliseconds per image:

{table(["station", "ms"], stations)}

Decoding one image for several crops:

{table(["crops per image", "ms per crop"], crops)}

What labels take of the time of images and labels together, in percent:

{table(["crops are", "median", "from, to"], share)}

Another decoder, simplejpeg (libjpeg-turbo by itself), gives the same pixels ({images["decoders"]["differing_samples"]} samples differ in {images["decoders"]["images"]} photographs), since Pillow's wheels hold the same library.
Including the image that crops are cut from, it is not worth another dependency:

{table(["decoder", "ms"], decoders)}

`SoftLabelDataset(..., reduced_decoding=True)` decodes at a half, a quarter or an eighth where all crops that are due are at least as many times larger than the output. It is off by default, because pixels
differ; differences are of the 8-bit samples of the crops of images that were decoded reduced.

{table(["output", "images decoded reduced", "whole, ms", "reduced, ms", "mean difference", "largest"], reduced)}
"""


def _epochs(epochs: Result | None) -> str:
    if not epochs:
        return EPOCHS_NOT_RUN
    plain, maps = epochs["published"]
    goals = f"{epochs['published'][plain]} of plain training and {epochs['published'][maps]} of ReLabel"
    parts = [
        table(
            [title, "seconds per epoch", "share of plain training", "share of label maps"],
            [
                (
                    name,
                    f"{times['median']:.2f} ({times['min']:.2f} to {times['max']:.2f})",
                    *(_share(epochs[what]["share_of"][peer][name]) for peer in (plain, maps)),
                )
                for name, times in epochs[what]["seconds_per_epoch"].items()
            ],
        )
        for what, title in (("loading", "loading only"), ("training", f"training `{epochs['student']}`"))
    ]
    return f"""
## 8. Time per epoch

{epochs["images"]} photographs, as many crops of 224 pixels per epoch, {epochs["workers"]} workers on {epochs["workers"]} cores, {epochs["loading"]["seconds_per_epoch"][plain]["n"]} rounds. FKD's published time of an epoch is {goals}. On two cores without a GPU
the network takes most of an epoch, whatever the labels are; the smaller the share of computing, the closer training comes to loading.

{parts[0]}

{parts[1]}
"""


EPOCHS_NOT_RUN = """
## 8. Time per epoch

**Not run**: this result holds no times of epochs of ground truth, ReLabel-style maps and stored labels on photographs. `make bench` measures them where the photographs are at hand.
"""


def _share(found: Result) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def _tried() -> str:
    return """
## 10. Tried, and left out

On the same labels, before the layout was settled; figures are bytes per crop of whole files or columns.

- **Several tails** by class or by a profile of the whole file, tails in a basis of 64 or 128 directions, choosing classes by what they gain over the tail: the same or worse from 30 listed classes on, at most 2 % better below.
- **An adaptive entropy coder** (interleaved rANS in numpy): 4 to 5 % smaller, 6 to 30 times slower to decode. Prefix codes with tables per file in slices of 8 crops: 0 to 5 % smaller.
- **Dictionaries** for zstd: 0.08 to 0.14 smaller, but they take more than that themselves in a set of this size, and force a frame per column.
- **Other orders of palettes** (move to front, recency, first occurrence, successor lists): worse by up to 0.4, or better by less than 0.02.
- **Classes in ascending order** with values by class: worse by 0.3. Bitmaps for palettes: the same. The end of a palette in Elias-Fano code: 0.02 to 0.07 smaller, left out for its complexity.
- **Crops in height buckets** with bits of their own: 0.13 to 0.17 of 4.05 smaller, at three times the decoding; derived crops take nothing at all.
- **Number of classes and remainder in one column**: 0.07 to 0.12 smaller; remainders of crops with one class apart bring half of it at no cost.
- **One zstd block for all columns**: 11 to 16 % larger. One frame per column: about the same, more framing.
- **Smaller blocks**: see the goals. Blocks of twice the size are 1 to 2 % smaller and 60 % slower to read at random.
"""


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else latest())
