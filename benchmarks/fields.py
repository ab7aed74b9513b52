"""How fast label fields are made and read: OMP_NUM_THREADS=1 python -m benchmarks.fields [--device cuda].

Writes the part of this device in `results/fields.json`; what other devices are said to do stays. Times on a CPU are those of the processor,
in one thread, which other work on the machine disturbs less than those of a clock. On a GPU they are those of a clock, until it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.frontier import APART
from benchmarks.measure.common import RESULTS, Labels, circumstances, copied, shared_labels, spread, write_container
from softlabel_codec import SoftLabelReader, SoftLabelWriter
from softlabel_codec.report import inspect
from softlabel_codec.sampler import CropSampler
from softlabel_codec.torch import LabelFields, add_fields

RESULT = RESULTS / "fields.json"
PACKAGES = ("softlabel_codec", "numpy", "torch")
CODEC, TAIL = "field", "marginal_smoothing:t=0.05,tail=100"
ADD, ADD_FIELDS, READ_TAIL = "SoftLabelWriter.add", "add_fields", f"read_batch, {TAIL}"
TURNS, READING_TURNS = 7, 51
COPIES = {"cpu": 1, "cuda": 10}
"""How often all images are fitted in a turn, under other keys."""
TOGETHER = 256
"""Images that `add_fields` takes at once, as `encode` gives them to it."""
BATCH, CROPS = 256, 4
Ways = Mapping[str, Callable[[], object]]


def measure(labels: Labels, device: str, folder: Path) -> dict[str, Any]:
    """Return what is found on a device."""
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device == "cuda" else "one thread"
    images, crops, classes = labels.probs.shape
    said = {"labels": labels.source, "images": images, "crops_per_image": crops, "classes": classes, "codec": CODEC}
    return {
        **circumstances(PACKAGES),
        "device": name,
        **said,
        "fitting": fitting(labels, device, folder),
        "reading": reading(labels, device, folder),
    }


def fitting(labels: Labels, device: str, folder: Path) -> dict[str, Any]:
    """Return how many images per second become fields in a file, from arrays and from tensors, and how good these are."""
    copies = COPIES[device]
    tensors = torch.from_numpy(labels.probs).to(device)
    paths = {way: folder / f"{way}.slc" for way in (ADD, ADD_FIELDS)}
    ways = {
        ADD: lambda: write_container(labels, paths[ADD], CODEC, derived=False),
        ADD_FIELDS: lambda: _write_together(labels, tensors, paths[ADD_FIELDS], copies),
    }
    seconds = _turns(ways, TURNS, device)
    num_images = len(labels.keys)
    rates = {ADD: num_images / seconds[ADD], ADD_FIELDS: copies * num_images / seconds[ADD_FIELDS]}
    return {
        "together": TOGETHER,
        "images_per_second": {way: spread(rate) for way, rate in rates.items()},
        "times_add": spread(rates[ADD_FIELDS] / rates[ADD]),
        "fields": {way: _quality(path, num_images) for way, path in paths.items()},
    }


def _write_together(labels: Labels, probs: torch.Tensor, path: Path, copies: int) -> None:
    with SoftLabelWriter(path, labels.num_classes, CODEC, {}, overwrite=True) as writer:
        for images in _parts(len(labels.keys) * copies, TOGETHER):
            of_image = [divmod(image, len(labels.keys)) for image in images]
            add_fields(
                writer,
                {
                    labels.keys[image] if copies == 1 else copied(labels.keys[image], number): {
                        "image_size": tuple(labels.image_sizes[image].tolist()),
                        "crops": labels.crops[image],
                        "flips": labels.flips[image],
                        "probs": probs[image],
                    }
                    for number, image in of_image
                },
            )


def _parts(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _quality(path: Path, num_images: int) -> dict[str, float]:
    """Return the mean KL on crops that the fields were made from, and on others; and the bytes of an image's field, as in `frontier`."""
    fields = path.stat().st_size - sum(part.file_bytes for part in inspect(path).budget if part.name in APART)
    with SoftLabelReader(path) as reader:
        fitted, unseen = reader.field_kl(range(num_images))
        kls = {"fitted_kl": float(fitted.mean()), "unseen_kl": float(np.nanmean(unseen))}
        return {**kls, "unseen_images": int(np.isfinite(unseen).sum()), "bytes_per_image": fields / len(reader)}


def reading(labels: Labels, device: str, folder: Path) -> dict[str, Any]:
    """Return what labels of a batch of crops take: of fields and of a tail codec, and of fields on the device."""
    rng, sampler = np.random.default_rng(0), CropSampler(seed=1)
    images = rng.integers(0, len(labels.keys), BATCH)
    numbers = rng.integers(0, labels.flips.shape[1], (BATCH, CROPS))
    boxes = np.stack([sampler.sample(labels.keys[image], tuple(labels.image_sizes[image].tolist()), range(CROPS))[0] for image in images])
    fractions = torch.from_numpy(boxes / np.tile(labels.image_sizes[images], 2)[:, None]).float().to(device)
    write_container(labels, folder / "field.slc", CODEC, derived=False)
    for crops in ("stored", "derived"):
        write_container(labels, folder / f"{crops}.slc", TAIL, derived=crops == "derived")
    with ExitStack() as files:
        fields, stored, derived = (files.enter_context(SoftLabelReader(folder / f"{name}.slc")) for name in ("field", "stored", "derived"))
        here = LabelFields.read(fields, images).to(device)
        ways = {
            f"{READ_TAIL}, stored": lambda: stored.read_batch(images, numbers),
            f"{READ_TAIL}, derived": lambda: derived.read_batch(images, numbers),
            "labels_at": lambda: fields.labels_at(images, boxes),
            "LabelFields.read": lambda: LabelFields.read(fields, images).to(device),
            "LabelFields.at": lambda: here.at(fractions),
        }
        seconds = _turns(ways, READING_TURNS, device)
    return {
        "images": BATCH,
        "crops": CROPS,
        "tail": TAIL,
        "milliseconds": {way: spread(times * 1000) for way, times in seconds.items()},
        "times_tail": {crops: spread(seconds["labels_at"] / seconds[f"{READ_TAIL}, {crops}"]) for crops in ("stored", "derived")},
    }


def _turns(ways: Ways, turns: int, device: str) -> dict[str, NDArray[np.float64]]:
    """Return the seconds that each way takes, once per turn, after one that does not count."""
    on_gpu = device == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            started = clock()
            way()
            if on_gpu:
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - started)
    return {name: np.array(times) for name, times in seconds.items()}


def main() -> None:
    """Measure on a device, and keep what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=COPIES, default="cpu")
    device = parser.parse_args().device
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1, as rates are those of one core")
    labels = shared_labels()
    if labels is None:
        parser.error("needs the teacher's labels beside the repository")
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        found[device] = measure(labels, device, Path(folder))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULT, file=sys.stderr)


if __name__ == "__main__":
    main()
