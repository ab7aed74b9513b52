"""Bytes of an image's labels over what they lose, by codec, teacher, number of crops and temperature: python -m benchmarks.frontier.

Writes `results/frontier.json`, from which `python -m benchmarks.report.frontier` makes `FRONTIER.md`. Further teachers come from files with
the arrays of `shared/data/teacher-logits-100x200.npz`: `--labels NAME=FILE`. What is in the results of other teachers stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.common import RESULTS, Labels, circumstances, labels_of_file, shared_labels, write_container
from softlabel_codec import SoftLabelReader
from softlabel_codec.report import inspect
from softlabel_codec.report.fidelity import FidelityMeter

RESULT = RESULTS / "frontier.json"
CROPS = (10, 20, 50, 200)
FLOOR = 1e-12
APART = ("keys", "crops", "flips", "metadata", "copy of header and metadata", "header and trailer", "summary")
"""What is not counted: names of images, crops, which a sampler gives, and what a file has once."""
MS = "marginal_smoothing:"
FAMILIES = {
    "k": [f"{MS}k={k}" for k in (1, 2, 3, 5, 10, 20)],
    "t": [f"{MS}t={t}" for t in (0.1, 0.05, 0.02, 0.01)],
    "t, tail=30": [f"{MS}t={t},tail=30" for t in (0.2, 0.1, 0.05, 0.02)],
    "t, tail=100": [f"{MS}t={t},tail=100" for t in (0.2, 0.1, 0.05, 0.02, 0.01)],
    "t, tail=all, mean=log": [f"{MS}t={t},tail=all,mean=log" for t in (0.2, 0.1, 0.05, 0.02, 0.01)],
    "field": [f"field:cost={cost}" for cost in (0.002, 0.001, 0.0005, 0.0002, 0.0001)],
    "field, fine": [f"field:step=0.2,cost={cost}" for cost in (0.00005, 0.00002, 0.00001)],
    "dense, log8": [f"dense:values=log8,step={step}" for step in (2, 1, 0.5)],
    "dense, f16": ["dense:values=f16"],
}


def measure(labels: Labels, codec: str, folder: Path) -> dict[str, Any]:
    """Return bytes per image and fidelity at T = 1, 4 and 20 of labels in a codec; of fields also on crops that they were not made from."""
    path = folder / "labels.slc"
    size = write_container(labels, path, codec, derived=False)
    apart = sum(part.file_bytes for part in inspect(path).budget if part.name in APART)
    meter = FidelityMeter()
    with SoftLabelReader(path) as reader:
        for probs, image in zip(labels.probs, reader, strict=True):
            meter.add(probs, np.maximum(image.labels.dense(), FLOOR))
    return {
        "codec": codec,
        "bytes_per_image": (size - apart) / len(labels.keys),
        "bytes_per_crop": (size - apart) / labels.num_crops,
        "fidelity": [asdict(one) for one in meter.result()],
        "unseen": [asdict(one) for one in unseen(labels, codec, folder)] if codec.startswith("field") else None,
    }


def unseen(labels: Labels, codec: str, folder: Path) -> list[Any]:
    """Return the fidelity of fields that are made from four of five crops, on the others."""
    path, last = folder / "fitted.slc", np.arange(labels.flips.shape[1]) % 5 == 4
    write_container(labels.some_crops(~last), path, codec, derived=False)
    meter = FidelityMeter()
    with SoftLabelReader(path) as reader:
        for number, probs in enumerate(labels.probs):
            found = reader.labels_at([number], labels.crops[number, last][None]).labels
            meter.add(probs[last], np.maximum(found.dense(), FLOOR))
    return meter.result()


def teachers(given: list[str]) -> Iterator[tuple[str, Labels]]:
    """Yield names and labels of teachers."""
    photographs = shared_labels()
    if photographs is not None:
        yield "MobileNetV2", photographs
        few, rng = photographs.first(20), np.random.default_rng(0)  # fields list nearly all classes here, which takes time
        logits = rng.normal(0, 2, few.probs.shape).astype(np.float32)
        powers = np.exp(logits)
        random = powers / powers.sum(axis=2, keepdims=True)
        source = f"logits drawn at random, one by one, for {len(few.keys)} images"
        yield "random", replace(few, probs=random, source=source, real=False)
    for one in given:
        name, _, path = one.partition("=")
        yield name, labels_of_file(Path(path))


def main() -> None:
    """Measure, teacher by teacher, and keep what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", action="append", default=[], metavar="NAME=FILE", help="logits of a further teacher")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure these teachers only")
    options = parser.parse_args()
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"teachers": {}}
    for name, labels in teachers(options.labels):
        if options.only and name not in options.only:
            continue
        points = {
            str(crops): {
                family: [one for codec in codecs if labels.possible(codec) for one in [_measured(labels, crops, codec)]]
                for family, codecs in FAMILIES.items()
            }
            for crops in CROPS
            if crops <= labels.flips.shape[1]
        }
        found["teachers"][name] = {
            "source": labels.source,
            "images": len(labels.keys),
            "classes": labels.num_classes,
            "points": points,
            **circumstances(("softlabel_codec", "numpy", "zstandard")),
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


def _measured(labels: Labels, crops: int, codec: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(labels.some_crops(np.arange(labels.flips.shape[1]) < crops), codec, Path(folder))
    print(crops, codec, f"{result['bytes_per_image']:.0f} bytes", [f"{one['lost']:.3f}" for one in result["fidelity"]], flush=True)
    return result


if __name__ == "__main__":
    main()
