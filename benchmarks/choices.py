"""What `auto` chooses, beside fixed codecs, and what the targets for few bytes per image come to: python -m benchmarks.choices WORK.

WORK has the files of `python -m benchmarks.label_files WORK`. It writes `results/choices.json`, from which
`python -m benchmarks.report.frontier` makes sections of `FRONTIER.md`. `--part` measures one part; the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import networks
from benchmarks.accuracy.__main__ import DATA
from benchmarks.accuracy.images import SIDE, unpack
from benchmarks.accuracy.labels import SAMPLER, write_labels
from benchmarks.accuracy.plan import HERE
from benchmarks.frontier import APART, measure, random_labels
from benchmarks.measure.common import RESULTS, Labels, circumstances, labels_of_file, shared_labels
from softlabel_codec import choose_codec
from softlabel_codec.choosing.pilot import Layout, Pilot
from softlabel_codec.choosing.trials import measure as try_codec
from softlabel_codec.codec import Codec
from softlabel_codec.report import inspect
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode

RESULT = RESULTS / "choices.json"
PACKAGES = ("softlabel_codec", "numpy", "zstandard", "torch", "pillow")
CROPS, FIDELITY, PILOT_IMAGES = (5, 10, 20, 50, 200), 0.04, 10
CASES = (*((1.0, crops) for crops in CROPS), (4.0, 20), (4.0, 200))
"""Temperatures and numbers of crops."""
MS = "marginal_smoothing:"
FIXED = (
    *(f"{MS}{options}" for options in ("k=5", "k=10", "k=20", "t=0.05", "t=0.05,tail=100", "t=0.02,tail=100", "t=0.01,tail=100")),
    *(f"{MS}{options},tail=all,mean=log" for options in ("t=0.05", "t=0.01")),
    *("field", "field:cost=0.0001", "dense:values=log8,step=2", "dense:values=log8,step=1", "dense:values=f16"),
)
COSTS = (0.00035, 0.00018)
"""Of fields, about as large as the targets say."""
GAINS = (0.08, 0.06, 0.05, 0.04, 0.03, 0.007, 0.006, 0.005, 0.0045, 0.004, 0.0035)
REFERENCES = f"{MS}t=0.02,tail=99", f"{MS}t=0.05,tail=20"
FEW_CROPS = 10


def chosen(work: Path) -> dict[str, Any]:
    """Return for each teacher, temperature and number of crops what `auto` tried and chose, and what fixed codecs come to."""
    return {name: _of_teacher(labels, sampler) for name, labels, sampler in _teachers(work)}


def _teachers(work: Path) -> Iterator[tuple[str, Labels, CropSampler]]:
    """Yield labels of crops that a sampler gives, as `encode` has them."""
    photographs = labels_of_file(work / "mobilenetv2-500.npz").first(PILOT_IMAGES)
    of_sampler = np.arange(photographs.flips.shape[1]) >= 200  # those before are of another sampler
    yield "MobileNetV2", photographs.some_crops(of_sampler), CropSampler(seed=0)
    yield "Tiny-ImageNet, unsure", labels_of_file(work / "unsure-500.npz").first(5 * PILOT_IMAGES), SAMPLER
    yield "random", random_labels(max(CROPS)), CropSampler(seed=0)


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
    codecs = [Codec.parse(text) for text in FIXED if len(pilot) and _fits(text, num_classes)]
    fixed = [asdict(try_codec(pilot, codec)) for codec in codecs if codec.family != "field" or pilot.fewest_crops >= FEW_CROPS]
    return {**asdict(choice), "fixed": fixed}


def _fits(text: str, num_classes: int) -> bool:
    return Codec.parse(text).tail in (0, "all") or int(Codec.parse(text).tail) <= num_classes


def _pilot(labels: Labels) -> dict[str, Any]:
    names, arrays = ("crops", "flips", "probs"), (labels.crops, labels.flips, labels.probs)
    return {
        key: {"image_size": tuple(size), **dict(zip(names, rows, strict=True))}
        for key, size, *rows in zip(labels.keys, labels.image_sizes.tolist(), *arrays, strict=True)
    }


def fields(_: Path) -> dict[str, Any]:
    """Return bytes and fidelity of fields of the photographs beside the repository, about as large as the targets say.

    Bytes are those of the frontier, and beside them what a file has once, as a share of each image.
    """
    labels = shared_labels()
    assert labels is not None
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for codec in (f"{MS}k=5", *(f"field:cost={cost}" for cost in COSTS)):
            point = measure(labels, codec, Path(folder))
            parts = inspect(Path(folder) / "labels.slc").budget
            once = sum(part.file_bytes for part in parts if part.name in APART and part.name not in ("keys", "crops"))
            points.append({**point, "once_bytes_per_image": once / len(labels.keys)})
            print(codec, points[-1]["bytes_per_image"], point["fidelity"][0]["kl"], flush=True)
    return {"source": labels.source, "images": len(labels.keys), "crops": labels.flips.shape[1], "points": points}


def few_crops(work: Path, per_class: int = 22) -> dict[str, Any]:
    """Return bytes and KL of labels of ten crops of images of Tiny-ImageNet in folder order, whole files with keys and derived crops."""
    os.environ[networks.WORK] = str(work.absolute())
    with tempfile.TemporaryDirectory() as folder:
        unpack(DATA, Path(folder) / "images", 1, per_class)
        logits, path = Path(folder) / "logits.slc", Path(folder) / "labels.slc"
        how: dict[str, Any] = {"crops": FEW_CROPS, "sampler": SAMPLER, "size": SIDE, "batch_size": 1000, "precision": "float32"}
        teacher = f"{HERE / 'networks.py'}:{networks.trained_small_teacher.__name__}"
        images = str(Path(folder) / "images" / "few" / "train")
        encode(EncodeConfig(images=images, out=str(logits), teacher=teacher, codec="dense:values=f16,content=logits", **how))
        points = []
        for codec in (*REFERENCES, *(f"{MS}gain={gain},tail=99" for gain in GAINS)):
            found = write_labels(logits, path, codec, FEW_CROPS, 1.0)
            points.append({"codec": codec, "bytes_per_image": found["bytes"] / found["num_images"], "kl": found["kl"]})
            print(points[-1], flush=True)
    return {"source": f"{found['num_images']:,} images of Tiny-ImageNet in folder order, an unsure teacher", "points": points}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {"auto": chosen, "fields": fields, "few crops": few_crops}


def main() -> None:
    """Measure part by part, and keep what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder with the labels and the weights of the unsure teacher")
    parser.add_argument("--part", action="append", default=[], choices=list(PARTS), help="measure this part only")
    options = parser.parse_args()
    for part in options.part or PARTS:
        measured = PARTS[part](options.work)
        found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        found[part] = {**measured, **circumstances(PACKAGES)} if part != "auto" else {"teachers": measured, **circumstances(PACKAGES)}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
