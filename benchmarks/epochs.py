"""The time of an epoch: plain training, label maps, a teacher in every step, stored labels: python -m benchmarks.epochs [--device cuda].

It needs the photographs and the teacher beside the repository. All epochs take as many crops, of JPEG photographs of about 500 x 375
pixels, and train the same student; contestants take turns, an epoch at a time. Times are those of the clock, and of the processor in this
process and its workers together, which other work on the machine disturbs less. On a CPU the student is a single layer, so that
loading takes most of an epoch, as it does beside a fast GPU. Results go to `results/epochs-DEVICE.json`; `python -m
benchmarks.report.write` fills a section of the report with them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure.common import PHOTOGRAPHS, RESULTS, SAMPLER, SHARED, Labels, circumstances, shared_labels
from softlabel_codec import SoftLabelWriter
from softlabel_codec.checks.arguments import BACKENDS
from softlabel_codec.label_maps import LabelMaps
from softlabel_codec.label_maps.maps import KEPT, SIDE
from softlabel_codec.options.train import ONLINE, TRUTH, TrainConfig
from softlabel_codec.trainer import ImageMemory, train
from softlabel_codec.trainer.batches import Loader
from softlabel_codec.trainer.processes import Processes
from softlabel_codec.trainer.setup import set_up

PACKAGES = ("softlabel_codec", "numpy", "torch", "pillow")
CODEC = "marginal_smoothing:k=5"
CROPS_PER_IMAGE = (1, 4, 8)
WORKERS = (1, 2, 4)
"""Of which it is measured how much faster more of them load."""
PLAIN, MAPS, IN_EVERY_STEP = "ground truth", "label maps", "teacher in every step"
STORED = {number: f"stored labels, {number} crop{'s' * (number > 1)}" for number in CROPS_PER_IMAGE}

Times = dict[str, list[float]]
"""`seconds` of the clock, and `processor_seconds` of this process and its workers, of each round."""


@dataclass(frozen=True)
class Settings:
    """How large the measurement is.

    Attributes
    ----------
    device : str
        Where students are trained.
    student : str
        What is trained.
    batch_size : int
        Crops of a step.
    workers : int
        Processes that load.
    repeated : int
        How often an epoch takes each photograph.
    rounds : int
        How often each contestant has its turn. The median of seven lies between the smallest and the largest with 98 % confidence.
    rounds_of_teacher : int
        In how many of them the teacher in every step takes part, which is much slower.
    """

    device: str
    student: str
    batch_size: int
    workers: int
    repeated: int
    rounds: int = 7
    rounds_of_teacher: int = 3


SETTINGS = {
    "cpu": Settings("cpu", f"{__file__}:linear_student", batch_size=64, workers=2, repeated=3),
    "cuda": Settings("cuda", "resnet18", batch_size=256, workers=os.cpu_count() or 1, repeated=128),
}


def linear_student(num_classes: int) -> nn.Module:
    """Return the student on a CPU, one layer on the means of 14 x 14 parts of a crop: about the smallest that sees all pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(14), nn.Flatten(), nn.Linear(3 * 14 * 14, num_classes))


def measure(settings: Settings, labels: Labels, folder: Path, teacher: str) -> dict[str, Any]:
    """Return the times of all contestants in a folder: loading only, training, and loading with more and more workers."""
    keys = _repeat_photographs(labels, settings.repeated, folder / "train")
    _write_labels(labels, keys, folder / "labels.slc")
    _write_maps(keys, labels.num_classes, folder / "maps.npz")
    ways = dict(_ways(settings, folder, teacher, labels.num_classes))
    loading = {name: way for name, way in ways.items() if not name.startswith(IN_EVERY_STEP)}
    more = {
        f"{name}, {number} worker{'s' * (number > 1)}": TrainConfig.from_mapping({**loading[name].to_mapping(), "workers": number})
        for name in (f"{PLAIN}, pillow", f"{STORED[4]}, pillow")
        for number in WORKERS
    }
    steps = len(keys) // settings.batch_size
    return {
        "settings": {**asdict(settings), "student": settings.student.rpartition(":")[2]},
        "photographs": len(labels.keys),
        "crops_per_epoch": steps * settings.batch_size,
        "codec": CODEC,
        "loading": _in_turns({name: _Loading(way, steps) for name, way in loading.items()}, settings),
        "training": _in_turns({name: _Training(way) for name, way in ways.items()}, settings),
        "workers": _in_turns({name: _Loading(way, steps) for name, way in more.items()}, settings),
    }


def _ways(settings: Settings, folder: Path, teacher: str, num_classes: int) -> Iterator[tuple[str, TrainConfig]]:
    """Yield each contestant with each backend, which is called `NAME, BACKEND`; the teacher only with the faster one."""
    sources: dict[str, dict[str, Any]] = {
        PLAIN: {"labels": TRUTH, "crops_per_image": 1},
        MAPS: {"labels": str(folder / "maps.npz"), "crops_per_image": 1},
        **{name: {"labels": str(folder / "labels.slc"), "crops_per_image": number} for number, name in STORED.items()},
        IN_EVERY_STEP: {"labels": ONLINE, "crops_per_image": 1, "teacher": teacher, "num_classes": num_classes},
    }
    common = {"images": str(folder / "train"), "epochs": 2, "learning_rate": 0.01, "checkpoint_epochs": 2}
    how = {"student": settings.student, "batch_size": settings.batch_size, "workers": settings.workers, "device": settings.device}
    for backend in BACKENDS:
        for name, source in sources.items():
            if name != IN_EVERY_STEP or backend == BACKENDS[-1]:
                own = {"backend": backend, "out": str(folder / f"{name}, {backend}")}
                yield f"{name}, {backend}", TrainConfig.from_mapping({**common, **how, **source, **own})


def _repeat_photographs(labels: Labels, times: int, folder: Path) -> list[tuple[str, int]]:
    """Link each photograph several times into an image folder, and return keys with the number of the photograph."""
    found = []
    for number, key in enumerate(labels.keys):
        for copy in range(times):
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


class _Loading:
    """Takes the batches of one epoch after another, with workers that stay."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        here = Processes(0, 1, torch.device("cpu"))
        self._loader, self._steps, self._epoch = Loader(config, set_up(config), here, ImageMemory()), steps, 0

    def turn(self) -> tuple[float, float]:
        """Take the batches of an epoch, and return the time that took."""
        started = _now()
        steps = sum(1 for _ in self._loader.batches(self._epoch))
        taken = _since(started)
        self._epoch += 1
        if steps != self._steps:
            raise ValueError(f"an epoch took {steps} steps, expected {self._steps}")
        return taken


class _Training:
    """Trains two epochs from the beginning; the first, in which workers start, is not counted."""

    def __init__(self, config: TrainConfig) -> None:
        self._config, self._number = config, 0

    def turn(self) -> tuple[float, float]:
        """Train, and return the time of the second epoch."""
        self._number += 1
        marks: dict[int, tuple[float, float]] = {}

        def progress(done: int, total: int) -> None:
            if done in (total // 2, total):
                if self._config.device != "cpu":
                    torch.cuda.synchronize()
                marks[done] = _now()

        train(TrainConfig.from_mapping({**self._config.to_mapping(), "out": f"{self._config.out}-{self._number}"}), progress)
        first, last = (marks[done] for done in sorted(marks))
        return last[0] - first[0], last[1] - first[1]


def _in_turns(contestants: Mapping[str, _Loading | _Training], settings: Settings) -> dict[str, Times]:
    """Return the times of each contestant, once per round, after a round that is not counted where workers stay."""
    for one in contestants.values():
        if isinstance(one, _Loading):
            one.turn()
    found: dict[str, Times] = {name: {"seconds": [], "processor_seconds": []} for name in contestants}
    for number in range(settings.rounds):
        for name, one in contestants.items():
            if number < settings.rounds_of_teacher or not name.startswith(IN_EVERY_STEP):
                for kind, taken in zip(("seconds", "processor_seconds"), one.turn(), strict=True):
                    found[name][kind].append(round(taken, 4))
        print(f"round {number + 1} of {settings.rounds}", file=sys.stderr)
    return found


def _now() -> tuple[float, float]:
    """Return the clock, and the processor time so far of this process and its workers, in seconds."""
    return time.perf_counter(), time.process_time() + sum(_processor_seconds(worker.pid) for worker in multiprocessing.active_children())


def _since(before: tuple[float, float]) -> tuple[float, float]:
    seconds, processor = _now()
    return seconds - before[0], processor - before[1]


def _processor_seconds(process: int | None) -> float:
    """Return the processor time so far of another process."""
    clock = ctypes.c_int()
    if process is None or ctypes.CDLL(None).clock_getcpuclockid(process, ctypes.byref(clock)):
        raise ProcessLookupError(process)
    return time.clock_gettime(clock.value)


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SETTINGS, default="cpu")
    settings = SETTINGS[parser.parse_args().device]
    labels = shared_labels()
    if labels is None or not PHOTOGRAPHS.is_dir():
        sys.exit("There are no photographs beside the repository.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(settings, labels, Path(folder), f"{SHARED / 'teacher' / 'mobilenet_v2.py'}:build")
    device = torch.cuda.get_device_name() if settings.device == "cuda" else "cpu"
    result = {**circumstances(PACKAGES), "device": device, "threads": 1, **found, "seconds": round(time.perf_counter() - started)}
    path = RESULTS / f"epochs-{settings.device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
