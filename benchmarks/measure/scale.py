"""Cost over the number of images, from a thousand to ten million, and over the number of crops per image.

The large sets are synthetic: one real block again and again under other keys, each with a checksum of its own. Opening
and looking up keys are measured in a fresh process for each set: python -m benchmarks.measure.scale FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.common import K, Labels, TopK, spread, time_side_by_side, top_k, write_container
from softlabel_codec import SoftLabelReader
from softlabel_codec.container.builder import Assembly
from softlabel_codec.container.files import FileSource, PartialFile
from softlabel_codec.container.framing import BLOCK_HEAD
from softlabel_codec.container.scan import BlockScan, read_beginning
from softlabel_codec.report import inspect

IMAGES = 10**3, 10**4, 10**5, 10**6, 10**7
IMAGENET_IMAGES = 1_281_167
IMAGES_PER_BLOCK, CROPS = 125, 4
CODEC = f"marginal_smoothing:k={K}"
BATCH, BATCHES, ROUNDS = 256, 4, 7
OPENINGS, LOOK_UPS = 5, 1000
CROPS_PER_IMAGE = 1, 2, 5, 10, 20, 50, 100, 200
FRAMING = "block headers", "index", "summary", "header and trailer"


def measure(labels: Labels, folder: Path, *, images: tuple[int, ...] = IMAGES, imagenet_images: int = IMAGENET_IMAGES) -> dict[str, Any]:
    """Return how size, opening and reading depend on the number of images and of crops."""
    topk = top_k(labels, K)
    return {
        "over_images": _over_images(topk, folder, images, imagenet_images),
        "over_crops": _over_crops(topk, folder),
    }


def _over_images(topk: TopK, folder: Path, sizes: tuple[int, ...], imagenet_images: int) -> dict[str, Any]:
    seed = folder / "seed.slc"
    few_crops = topk.regrouped(CROPS)
    write_container(few_crops.take(few_crops.keys[:IMAGES_PER_BLOCK], np.arange(IMAGES_PER_BLOCK)), seed, CODEC, derived=False)
    paths = {size: folder / f"{size}.slc" for size in (*sizes, imagenet_images)}
    for size, path in paths.items():
        _write_synthetic(seed, path, size)
    readers = {size: SoftLabelReader(paths[size]) for size in sizes}
    seconds = time_side_by_side({str(size): _random_reads(reader) for size, reader in readers.items()}, ROUNDS)
    single = time_side_by_side({str(size): _single_reads(reader) for size, reader in readers.items()}, ROUNDS)
    return {
        "crops_per_image": CROPS,
        "imagenet_images": imagenet_images,
        "codec": CODEC,
        "file_bytes": {str(size): path.stat().st_size for size, path in paths.items()},
        "read_microseconds_per_image": {size: spread(times / (BATCH * BATCHES) * 1e6) for size, times in seconds.items()},
        "single_read_microseconds": {size: spread(times / BATCH * 1e6) for size, times in single.items()},
        "distinct_blocks_per_batch": {str(size): _distinct_blocks(reader) for size, reader in readers.items()},
        "opening": {str(size): _opening(path) for size, path in paths.items()},
    }


def _write_synthetic(seed: Path, path: Path, num_images: int) -> None:
    """Write a set of so many images that repeats the only block of another file."""
    source = FileSource(seed)
    beginning = read_beginning(source)
    (block,) = BlockScan(source, beginning).all()
    payload, counts = block.data[BLOCK_HEAD.size :], block.images.num_crops.tolist()
    with PartialFile(path) as file:
        assembly = Assembly(file)
        assembly.begin(beginning.data)
        for number in range(num_images // IMAGES_PER_BLOCK):
            first = number * IMAGES_PER_BLOCK
            keys = [f"n{image // 1300:08d}/n{image // 1300:08d}_{image}.JPEG" for image in range(first, first + IMAGES_PER_BLOCK)]
            assembly.add_payload(payload, beginning.metadata_crc32, keys, counts)
        assembly.finish([])
    source.close()


def _random_batches(reader: SoftLabelReader) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, len(reader), BATCH) for _ in range(BATCHES)]


def _random_reads(reader: SoftLabelReader) -> Any:
    images = _random_batches(reader)
    crops = np.random.default_rng(1).integers(0, CROPS, (BATCH, CROPS))
    return lambda: [reader.read_batch(numbers, crops) for numbers in images]


def _single_reads(reader: SoftLabelReader) -> Any:
    images = _random_batches(reader)[0].tolist()
    return lambda: [reader.read(image, [3, 1, 2, 0]) for image in images]


def _distinct_blocks(reader: SoftLabelReader) -> float:
    return float(
        np.mean([len({reader.container.index.locate(number)[0] for number in numbers.tolist()}) for numbers in _random_batches(reader)])
    )


def _opening(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.measure.scale", str(path)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(OPENINGS)]
    return {name: spread([run[name] for run in runs]) for name in runs[0]}


def _open_here(path: str) -> dict[str, float]:
    """Return what opening a file takes in this process, and looking up keys."""
    before = _resident_bytes()
    start = time.perf_counter()
    reader = SoftLabelReader(path)
    opened = time.perf_counter()
    opened_bytes = _resident_bytes() - before
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, len(reader), LOOK_UPS).tolist()
    reader.read_batch(numbers[:BATCH])
    keys = [reader.keys[number] for number in numbers]
    looking = time.perf_counter()
    assert [reader.keys.index(key) for key in keys] == numbers
    looked = time.perf_counter()
    return {
        "open_milliseconds": (opened - start) * 1e3,
        "open_megabytes": opened_bytes / 2**20,
        "used_megabytes": (_resident_bytes() - before) / 2**20,
        "look_up_microseconds": (looked - looking) / LOOK_UPS * 1e6,
    }


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _over_crops(topk: TopK, folder: Path) -> dict[str, Any]:
    """Return bytes and reading times of the same crops, as many images of few crops or few images of many."""
    result: dict[str, Any] = {}
    readers = {}
    for crops in CROPS_PER_IMAGE:
        if crops > topk.flips.shape[1]:
            continue
        path = folder / f"{crops}-crops.slc"
        write_container(topk.regrouped(crops), path, CODEC, derived=True)
        report = inspect(path, sampled_blocks=10**9)
        parts = {part.name: part.file_bytes for part in report.budget}
        result[str(crops)] = {
            "images": report.num_images,
            "bytes_per_crop": report.bytes_per_crop,
            "framing_bytes_per_image": sum(parts[name] for name in FRAMING) / report.num_images,
            "image_size_bytes_per_image": parts["image sizes"] / report.num_images,
            "key_bytes_per_image": parts["keys"] / report.num_images,
        }
        readers[crops] = SoftLabelReader(path)
    seconds = time_side_by_side({str(crops): _read_all_crops(reader, crops) for crops, reader in readers.items()}, ROUNDS)
    for crops, times in seconds.items():
        result[crops]["read_microseconds_per_image"] = spread(times / BATCH * 1e6)
    return result


def _read_all_crops(reader: SoftLabelReader, crops: int) -> Any:
    rng = np.random.default_rng(0)
    images = rng.integers(0, len(reader), BATCH)
    chosen = rng.integers(0, crops, (BATCH, min(crops, CROPS)))
    return lambda: reader.read_batch(images, chosen)


if __name__ == "__main__":
    print(json.dumps(_open_here(sys.argv[1])))
