"""Measure labels of few crops per image: python -m benchmarks.few_crops WORK.

WORK has the `teacher-unsure.pt` of `python -m benchmarks.accuracy WORK`. That teacher labels 22 images of each class of Tiny-ImageNet,
which are written in folder order with several codecs, with the first 5 to 200 of their crops; likewise the photographs beside the
repository, which have nothing to do with each other. It writes `results/few-crops.json`, from which
`python -m benchmarks.report.write` makes a section of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import networks
from benchmarks.accuracy.__main__ import DATA
from benchmarks.accuracy.images import SIDE, unpack
from benchmarks.accuracy.labels import SAMPLER, write_labels
from benchmarks.accuracy.plan import HERE
from benchmarks.measure.common import RESULTS, circumstances, shared_labels, spread, time_side_by_side, write_container
from benchmarks.measure.distortion import distortion_of
from softlabel_codec import SoftLabelReader
from softlabel_codec.report import inspect
from softlabel_codec.teacher import EncodeConfig, encode

RESULT = RESULTS / "few-crops.json"
PACKAGES = ("softlabel_codec", "numpy", "zstandard", "torch", "pillow")
IMAGES_PER_CLASS = 22
CROPS = 5, 10, 20, 50, 200
MS = "marginal_smoothing:"
OPTIONS = "k=5", "t=0.05,tail=20", "gain=0.04,tail=99", "gain=0.01,tail=99", "t=0.02,tail=99", "gain=0.005,tail=99"
CODECS = [f"{MS}{options}" for options in OPTIONS]
READ_CROPS, BATCH, BATCHES, ROUNDS = 4, 256, 8, 9


def of_tiny_images(work: Path, folder: Path) -> dict[str, Any]:
    """Return sizes, fidelity and reading times of the labels of 22 images of each class, written to a folder.

    Images and logits stay in the folder `few-crops` of `work`, for another call.
    """
    os.environ[networks.WORK] = str(work.absolute())
    kept = work / "few-crops"
    unpack(DATA, kept / "images", 1, IMAGES_PER_CLASS)
    images, logits = kept / "images" / "few" / "train", kept / "logits.slc"
    how: dict[str, Any] = {"crops": max(CROPS), "sampler": SAMPLER, "size": SIDE, "batch_size": 1024, "precision": "float32"}
    teacher = f"{HERE / 'networks.py'}:{networks.trained_small_teacher.__name__}"
    encode(EncodeConfig(images=str(images), out=str(logits), teacher=teacher, codec="dense:values=f16,content=logits", **how))
    rows: dict[str, Any] = {codec: {} for codec in CODECS}
    for crops in CROPS:
        for codec in CODECS:
            path = _path(folder, codec, crops)
            kl = write_labels(logits, path, codec, crops, 1.0)["kl"]
            rows[codec][str(crops)] = {**_sizes(path), "kl": kl}
    source = f"{IMAGES_PER_CLASS} images of each of 100 classes of Tiny-ImageNet, an unsure teacher"
    return {"source": source, "rows": rows, **_times(folder)}


def of_photographs(folder: Path) -> dict[str, Any]:
    """Return the same of the photographs beside the repository."""
    labels = shared_labels()
    if labels is None:
        sys.exit("There are no photographs beside the repository.")
    rows: dict[str, Any] = {codec: {} for codec in CODECS}
    for crops in CROPS:
        first = {name: getattr(labels, name)[:, :crops] for name in ("crops", "flips", "probs")}
        some = replace(labels, **first)
        for codec in CODECS:
            path = _path(folder, codec, crops)
            write_container(some, path, codec, derived=True)
            rows[codec][str(crops)] = {**_sizes(path), "kl": distortion_of(some, path)["kl"]}
    return {"source": labels.source, "rows": rows, **_times(folder)}


def _path(folder: Path, codec: str, crops: int) -> Path:
    return folder / f"{CODECS.index(codec)}-{crops}.slc"


def _sizes(path: Path) -> dict[str, Any]:
    report = inspect(path, sampled_blocks=10**9)
    return {
        "bytes_per_image": report.bytes_per_image,
        "bytes_per_crop": report.bytes_per_crop,
        "images_per_block": report.num_images / report.num_blocks,
        "parts": {part.name: part.bytes_per_image for part in report.budget},
    }


def _times(folder: Path) -> dict[str, Any]:
    """Return microseconds per image of reading four crops of random images, with 10 crops per image."""
    rng = np.random.default_rng(0)
    readers = {codec: SoftLabelReader(_path(folder, codec, 10)) for codec in CODECS}
    images = [rng.integers(0, len(readers[CODECS[0]]), BATCH) for _ in range(BATCHES)]
    crops = rng.integers(0, 10, (BATCH, READ_CROPS))
    ways = {codec: lambda reader=reader: [reader.read_batch(numbers, crops) for numbers in images] for codec, reader in readers.items()}
    seconds = time_side_by_side(ways, ROUNDS)
    return {"read_batch_microseconds_per_image": {codec: spread(times / (BATCH * BATCHES) * 1e6) for codec, times in seconds.items()}}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder with the weights of the teacher")
    work = parser.parse_args().work
    with tempfile.TemporaryDirectory() as tiny, tempfile.TemporaryDirectory() as photographs:
        sets = {"Tiny-ImageNet": of_tiny_images(work, Path(tiny)), "photographs": of_photographs(Path(photographs))}
    RESULT.write_text(json.dumps({**circumstances(PACKAGES), "sets": sets}, indent=1) + "\n")
    print(RESULT, file=sys.stderr)


if __name__ == "__main__":
    main()
