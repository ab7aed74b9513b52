"""Bytes of an image's labels over what they lose, by codec, teacher, number of crops and temperature: python -m benchmarks.frontier.

Writes `results/frontier.json`, from which `python -m benchmarks.report.frontier` makes `FRONTIER.md`. Without `--labels NAME=FILE`, labels
are those of the photographs beside the repository, and random ones; such files are written by `python -m benchmarks.label_files`. `--only`,
`--crops` and `--family` measure a part. All other results stay as they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import label_peers
from benchmarks.measure.common import RESULTS, Labels, circumstances, labels_of_file, shared_labels, write_container
from softlabel_codec import SoftLabelReader
from softlabel_codec.report import inspect
from softlabel_codec.report.fidelity import FidelityMeter
from softlabel_codec.sampler import CropSampler

RESULT = RESULTS / "frontier.json"
CROPS = (50, 200, 500)
MOBILENET, PACKAGES = "MobileNetV2", ("softlabel_codec", "numpy", "zstandard", "pyarrow", "safetensors", "torch")
RANDOM_IMAGES, SIZE, CLASSES = 20, (375, 500), 1000
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
    "gain, tail=100": [f"{MS}gain={gain},tail=100" for gain in (0.1, 0.04, 0.02, 0.01, 0.005)],
    "k, read by neighbours": ["smoothing", *(f"{MS}k={k}" for k in (2, 5, 10))],
    "field": [f"field:cost={cost}" for cost in (0.002, 0.001, 0.0005, 0.0002, 0.0001)],
    "field, fine": [f"field:step=0.2,cost={cost}" for cost in (0.00005, 0.00002, 0.00001)],
    "dense, log8": [f"dense:values=log8,step={step}" for step in (2, 1, 0.5)],
    "dense, f16": ["dense:values=f16"],
}
POLICIES = {"k, read by neighbours": "neighbours"}
"""Families that are read with another policy than the codec's own."""
PEERS = "formats of others"


def measure(labels: Labels, codec: str, folder: Path, policy: str | None = None) -> dict[str, Any]:
    """Return bytes per image and fidelity at T = 1, 4 and 20 of labels in a codec; of fields also on crops that they were not made from."""
    path = folder / "labels.slc"
    size = write_container(labels, path, codec, derived=False)
    apart = sum(part.file_bytes for part in inspect(path).budget if part.name in APART)
    with SoftLabelReader(path, policy=policy) as reader:
        fidelity = label_peers.fidelity_of(labels, (image.labels.dense() for image in reader))
    return {
        "codec": codec if policy is None else f"{codec}, policy={policy}",
        "bytes_per_image": (size - apart) / len(labels.keys),
        "bytes_per_crop": (size - apart) / labels.num_crops,
        "fidelity": fidelity,
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
    for one in given:
        name, _, path = one.partition("=")
        yield name, labels_of_file(Path(path))
    photographs = None if given else shared_labels()
    if photographs is not None:
        yield f"{MOBILENET}, {len(photographs.keys)} photographs", photographs
    if not given:
        yield "random", random_labels(max(CROPS))


def random_labels(crops: int, images: int = RANDOM_IMAGES) -> Labels:
    """Return labels that have nothing to do with each other, nor with the crops: the worst case."""
    keys, rng, sampler = [f"{number:02d}.jpg" for number in range(images)], np.random.default_rng(0), CropSampler(seed=0)
    geometry = [sampler.sample(key, SIZE, range(crops)) for key in keys]
    powers = np.exp(rng.normal(0, 2, (images, crops, CLASSES)).astype(np.float32))
    probs = powers / powers.sum(axis=2, keepdims=True)
    places, flips = (np.stack(arrays) for arrays in zip(*geometry, strict=True))
    source = f"logits drawn at random, one by one, for {images} images"
    return Labels(source, keys, np.tile(SIZE, (images, 1)), places, flips, probs, real=False)


def main() -> None:
    """Measure, teacher by teacher, and keep what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", action="append", default=[], metavar="NAME=FILE", help="measure the labels in this file")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure these teachers only")
    parser.add_argument("--crops", action="append", type=int, default=[], metavar="M", help="measure these numbers of crops only")
    parser.add_argument("--family", action="append", default=[], choices=[*FAMILIES, PEERS], help="measure these families only")
    options = parser.parse_args()
    for name, labels in teachers(options.labels):
        if options.only and name not in options.only:
            continue
        for crops in options.crops or CROPS:
            if crops <= labels.flips.shape[1]:
                part = labels.some_crops(np.arange(labels.flips.shape[1]) < crops)
                for family in options.family or [*FAMILIES, PEERS]:
                    _keep(name, part, family, _points(name, part, family))


def _points(name: str, labels: Labels, family: str) -> list[dict[str, Any]]:
    """Return what is measured of a family."""
    if family != PEERS:
        return [_measured(labels, codec, POLICIES.get(family)) for codec in FAMILIES[family] if labels.possible(codec)]
    with tempfile.TemporaryDirectory() as folder:
        found = label_peers.measure(labels, Path(folder))
        return found + ([label_peers.measure_maps(labels, Path(folder))] if name == MOBILENET else [])


def _keep(name: str, labels: Labels, family: str, points: list[dict[str, Any]]) -> None:
    """Add the points of a family to the results."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"teachers": {}}
    teacher = found["teachers"].setdefault(name, {"classes": labels.num_classes, "crops": {}})
    number = str(labels.flips.shape[1])
    of_crops = teacher["crops"].setdefault(number, {"families": {}})
    of_crops |= {"source": labels.source, "images": len(labels.keys)}
    of_crops["families"][family] = {"points": points, **circumstances(PACKAGES)}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def _measured(labels: Labels, codec: str, policy: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(labels, codec, Path(folder), policy)
    lost = [f"{one['lost']:.3f}" for one in result["fidelity"]]
    print(labels.flips.shape[1], result["codec"], f"{result['bytes_per_image']:.0f} bytes", lost, flush=True)
    return result


if __name__ == "__main__":
    main()
