"""The time of an epoch on photographs: plain training, ReLabel-style maps, and stored labels of several crops per image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure.common import PHOTOGRAPHS, SAMPLER, Labels, spread, time_side_by_side
from softlabel_codec import SoftLabelWriter
from softlabel_codec.label_maps import LabelMaps
from softlabel_codec.label_maps.maps import KEPT, SIDE
from softlabel_codec.options.train import TRUTH, TrainConfig
from softlabel_codec.trainer import ImageMemory, train
from softlabel_codec.trainer.batches import Loader
from softlabel_codec.trainer.processes import Processes
from softlabel_codec.trainer.setup import set_up

CODEC = "marginal_smoothing:k=5"
REPEATED = 4
ROUNDS = 3
WORKERS = 2
BATCH_SIZE = 64
STUDENT = "small"
PLAIN, MAPS = "ground truth, 1 crop", "label maps, 1 crop"
PUBLISHED = {PLAIN: 0.84, MAPS: 0.64}
"""Time of an epoch of FKD as a share of that of plain training and of ReLabel (Shen & Xing, 2022)."""


def measure(labels: Labels, folder: Path) -> dict[str, Any] | None:
    """Return seconds per epoch and their ratios; None without photographs."""
    if not PHOTOGRAPHS.is_dir() or not labels.real:
        return None
    ways = _ways(labels, folder)
    loading = time_side_by_side({name: _loading(config) for name, config in ways.items()}, ROUNDS)
    training = _training(ways)
    return {
        "images": len(labels.keys) * REPEATED,
        "student": STUDENT,
        "workers": WORKERS,
        "published": PUBLISHED,
        "loading": _compared(loading),
        "training": _compared(training),
    }


def _compared(seconds: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return seconds of each way, and its share of those of plain training and of label maps in the same round."""
    shares = {peer: {name: spread(times / seconds[peer]) for name, times in seconds.items()} for peer in PUBLISHED}
    return {"seconds_per_epoch": {name: spread(times) for name, times in seconds.items()}, "share_of": shares}


def _ways(labels: Labels, folder: Path) -> dict[str, TrainConfig]:
    keys = _repeat_photographs(labels, folder / "train")
    _write_labels(labels, keys, folder / "labels.slc")
    _write_maps(keys, labels.num_classes, folder / "maps.npz")
    common = {"images": str(folder / "train"), "student": STUDENT, "batch_size": BATCH_SIZE, "workers": WORKERS, "device": "cpu"}

    def way(number: int, source: str, crops: int) -> TrainConfig:
        own = {"labels": source, "crops_per_image": crops, "out": str(folder / f"run{number}"), "epochs": 1000}
        return TrainConfig.from_mapping({**common, **own})

    stored = str(folder / "labels.slc")
    return {
        PLAIN: way(0, TRUTH, 1),
        MAPS: way(1, str(folder / "maps.npz"), 1),
        **{f"stored labels, {crops} crop{'s' * (crops > 1)}": way(2 + crops, stored, crops) for crops in (1, 4, 8)},
    }


def _repeat_photographs(labels: Labels, folder: Path) -> list[tuple[str, int]]:
    """Link each photograph several times into an image folder, and return keys with the number of the photograph."""
    found = []
    for number, key in enumerate(labels.keys):
        for copy in range(REPEATED):
            path = folder / Path(key).parent / f"{copy}-{Path(key).name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(PHOTOGRAPHS / key)
            found.append((path.relative_to(folder).as_posix(), number))
    return sorted(found)


def _write_labels(labels: Labels, keys: list[tuple[str, int]], path: Path) -> None:
    with SoftLabelWriter(path, labels.num_classes, CODEC, {}, crops="derived", sampler=SAMPLER) as writer:
        for key, number in keys:
            writer.add(key, image_size=tuple(labels.image_sizes[number].tolist()), probs=labels.probs[number])


def _write_maps(keys: list[tuple[str, int]], num_classes: int, path: Path) -> None:
    """Write label maps of random numbers, which take as long as others."""
    rng = np.random.default_rng(0)
    shape = (len(keys), SIDE, SIDE, KEPT)
    indices = rng.integers(0, num_classes, shape).astype(np.uint16)
    logits = rng.normal(5, 2, shape).astype(np.float16)
    LabelMaps({key: place for place, (key, _) in enumerate(keys)}, indices, logits, num_classes).save(path)


def _loading(config: TrainConfig) -> Callable[[], object]:
    """Return what takes the batches of one epoch after another, with workers that stay."""
    loader = Loader(config, set_up(config), Processes(0, 1, torch.device("cpu")), ImageMemory())
    epochs = iter(range(config.epochs))

    def epoch() -> None:
        for _ in loader.batches(next(epochs)):
            pass

    return epoch


def _training(ways: dict[str, TrainConfig]) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of the second epoch of runs of two, so that starting workers does not count; one run of each way per round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, config in ways.items():
            out = Path(f"{config.out}-{number}")
            train(TrainConfig.from_mapping({**config.to_mapping(), "epochs": 2, "out": str(out)}))
            seconds[name].append(json.loads((out / "log.jsonl").read_text().splitlines()[-1])["seconds"])
    return {name: np.array(times) for name, times in seconds.items()}
