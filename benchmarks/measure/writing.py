"""Crops per second of the writer, and of a DataLoader that delivers labels only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure.common import K, Labels, spread, time_side_by_side, top_k, write_container
from softlabel_codec import BatchLabels, SoftLabelReader
from softlabel_codec.crops.choice import choose_crops
from softlabel_codec.torch import to_targets

ROUNDS = 5
IMAGES, CROPS = 256, 4
BATCHES, WARMUP_BATCHES = 120, 10
REPEATED = 40
TOPK_REPEATED = 5
CODEC = f"marginal_smoothing:k={K}"
TOPK_CODECS = CODEC, f"{CODEC},values=f16", "hard"
PROBS_CODECS = CODEC, "marginal_smoothing:t=0.02", "marginal_smoothing:t=0.05,tail=100"


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return crops per second of the writer, and of a DataLoader that delivers labels only."""
    return {"writer": _writing(labels, folder), "loader": _loading(labels, folder)}


def _writing(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return crops per second, everything included: quantising, packing, compressing, writing, finishing."""
    topk = top_k(labels, K).repeated(TOPK_REPEATED)
    sources = [("top-K", topk, codec) for codec in TOPK_CODECS] + [
        ("probs", labels, codec) for codec in PROBS_CODECS if labels.possible(codec)
    ]
    ways, crops_of = {}, {}
    for kind, source, codec in sources:
        for crops in ("stored", "derived"):
            name = f"{kind}, {codec}, {crops}"
            ways[name] = _writer(source, folder / "written.slc", codec, derived=crops == "derived")
            crops_of[name] = source.num_crops
    seconds = time_side_by_side(ways, ROUNDS)
    return {name: spread(crops_of[name] / times) for name, times in seconds.items()}


def _writer(source: Any, path: Path, codec: str, *, derived: bool) -> Any:
    return lambda: write_container(source, path, codec, derived=derived)


class LabelBatches(Dataset[BatchLabels]):
    """Crops, flips and sparse labels of whole batches of images, as arrays: between processes they cost less than tensors."""

    def __init__(self, path: Path) -> None:
        self.reader = SoftLabelReader(path)

    def __getitem__(self, numbers: Any) -> BatchLabels:
        return self.reader.read_batch(numbers, choose_crops(0, 0, numbers, self.reader.num_crops[numbers], CROPS))


def _loading(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return crops per second that one worker delivers, labels only."""
    many = top_k(labels, K).repeated(REPEATED)
    rng = np.random.default_rng(0)
    batches = [rng.choice(len(many.keys), IMAGES, replace=False) for _ in range(BATCHES)]
    result: dict[str, Any] = {
        "images": len(many.keys),
        "images_per_batch": IMAGES,
        "crops_per_image": CROPS,
        "batches": BATCHES - WARMUP_BATCHES,
    }
    files = {crops: folder / f"{crops}.slc" for crops in ("stored", "derived")}
    for crops, path in files.items():
        write_container(many, path, CODEC, derived=crops == "derived")
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for crops, path in files.items():
            for workers in (0, 1):
                rates.setdefault(f"{crops}, num_workers={workers}", []).append(_rate(path, batches, workers))
    return {**result, "crops_per_second": {name: spread(each) for name, each in rates.items()}}


def _rate(path: Path, batches: list[Any], workers: int) -> float:
    loader = DataLoader(LabelBatches(path), sampler=batches, batch_size=None, num_workers=workers)
    start, seen = 0.0, 0
    for number, batch in enumerate(loader):
        targets = to_targets(batch.labels)
        if number == WARMUP_BATCHES - 1:
            start = time.perf_counter()
        elif number >= WARMUP_BATCHES:
            seen += len(targets)
    return seen / (time.perf_counter() - start)
