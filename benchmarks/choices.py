"""What `auto` tries and chooses, beside fixed codecs: python -m benchmarks.choices WORK.

WORK has the files of `python -m benchmarks.label_files WORK`. It writes `results/choices.json`, from which
`python -m benchmarks.report.frontier` makes a section of `FRONTIER.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.labels import SAMPLER
from benchmarks.frontier import random_labels
from benchmarks.measure.common import RESULTS, Labels, circumstances, labels_of_file
from softlabel_codec import choose_codec
from softlabel_codec.choosing.pilot import Layout, Pilot
from softlabel_codec.choosing.trials import measure as try_codec
from softlabel_codec.codec import Codec
from softlabel_codec.sampler import CropSampler

RESULT = RESULTS / "choices.json"
PACKAGES = ("softlabel_codec", "numpy", "zstandard")
CROPS, FIDELITY, PILOT_IMAGES = (5, 10, 20, 50, 200), 0.04, 10
RANDOM_IMAGES = 5
"""Few, as each is like any other, and fields list nearly all classes there, which takes time."""
CASES = (*((1.0, crops) for crops in CROPS), (4.0, 20), (4.0, 200))
"""Temperatures and numbers of crops."""
MS = "marginal_smoothing:"
FIXED = (
    *(f"{MS}{options}" for options in ("k=5", "k=10", "k=20", "t=0.05", "t=0.05,tail=100", "t=0.02,tail=100", "t=0.01,tail=100")),
    *(f"{MS}{options},tail=all,mean=log" for options in ("t=0.05", "t=0.01")),
    *("field", "field:cost=0.0001", "dense:values=log8,step=2", "dense:values=log8,step=1", "dense:values=f16"),
)


def _teachers(work: Path) -> Iterator[tuple[str, Labels, CropSampler]]:
    """Yield labels of crops that a sampler gives, as `encode` has them."""
    photographs = labels_of_file(work / "mobilenetv2-500.npz").first(PILOT_IMAGES)
    of_sampler = np.arange(photographs.flips.shape[1]) >= 200  # those before are of another sampler
    yield "MobileNetV2", photographs.some_crops(of_sampler), CropSampler(seed=0)
    yield "Tiny-ImageNet, unsure", labels_of_file(work / "unsure-500.npz").first(5 * PILOT_IMAGES), SAMPLER
    yield "random", random_labels(max(CROPS), RANDOM_IMAGES), CropSampler(seed=0)


def _of_teacher(labels: Labels, sampler: CropSampler) -> dict[str, Any]:
    rows = []
    for temperature, crops in CASES:
        images = _pilot(labels.some_crops(np.arange(labels.flips.shape[1]) < crops))
        rows.append({"temperature": temperature, "crops": crops, **_row(images, labels.num_classes, temperature, sampler)})
        print(crops, temperature, rows[-1]["codec"], f"{rows[-1]['bytes_per_image']:.0f} {rows[-1]['lost']:.3f}", flush=True)
    return {"source": labels.source, "images": len(labels.keys), "classes": labels.num_classes, "rows": rows}


def _row(images: dict[str, Any], num_classes: int, temperature: float, sampler: CropSampler) -> dict[str, Any]:
    how: dict[str, Any] = {"crops": "derived", "sampler": sampler}
    choice = choose_codec(images, num_classes, fidelity=FIDELITY, train_temperature=temperature, **how)
    pilot = Pilot.of(images, num_classes, Layout(**how), 1 / temperature)
    codecs = [Codec.parse(text) for text in FIXED]
    fixed = [asdict(try_codec(pilot, codec)) for codec in codecs if codec.family != "field" or pilot.fewest_crops >= 10]
    return {**asdict(choice), "fixed": fixed}


def _pilot(labels: Labels) -> dict[str, Any]:
    names, arrays = ("crops", "flips", "probs"), (labels.crops, labels.flips, labels.probs)
    return {
        key: {"image_size": tuple(size), **dict(zip(names, rows, strict=True))}
        for key, size, *rows in zip(labels.keys, labels.image_sizes.tolist(), *arrays, strict=True)
    }


def main() -> None:
    """Measure teacher by teacher, and keep what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder with the labels")
    for name, labels, sampler in _teachers(parser.parse_args().work):
        found = json.loads(RESULT.read_text()) if RESULT.exists() else {"teachers": {}}
        found["teachers"][name] = {**_of_teacher(labels, sampler), **circumstances(PACKAGES)}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
