"""The tasks of the CIFAR-100 experiment: teachers, their labels of all views of each image, students."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.experiment import LOGITS, run_name
from benchmarks.accuracy.plan import ONLINE, TRUTH, VIEWS, Row
from benchmarks.accuracy.tasks import LABELS, Task, Tasks
from benchmarks.cifar import networks
from benchmarks.cifar.plan import PADDING, RECIPE, SIDE, TRUTH_WEIGHT, Pair, row_of, runs, schedule
from softlabel_codec import AllViews, Padding
from softlabel_codec.container.whole_files import read_result
from softlabel_codec.errors import StateError
from softlabel_codec.evaluate import Student, evaluate
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.trainer import train

NETWORKS = Path(networks.__file__)


class Cifar(Tasks):
    """The experiment in a folder.

    Parameters
    ----------
    images : Path
        Folder with `train.npz` and `test.npz`.
    work, results, minutes
        As for `Tasks`.
    pairs : sequence of Pair
        Teachers and students.
    seeds : int
        Students of each kind.
    epochs : int
        Of teachers and students.
    """

    def __init__(self, images: Path, work: Path, results: Path, minutes: float, pairs: Sequence[Pair], seeds: int, epochs: int) -> None:
        super().__init__(work, results, minutes)
        self._images, self._pairs, self._seeds, self._epochs = images, pairs, seeds, epochs
        os.environ[networks.WORK] = str(work.absolute())

    def begin(self) -> None:
        """Forget what was begun only; StateError if there are results that these do not go with."""
        others = {result["epochs"] for result in self._known.values()} - {self._epochs}
        if others:
            raise StateError(f"{self._results}: has results of {others.pop()} epochs. Take another folder, and another file with --results")
        super().begin()

    def _tasks(self) -> Iterator[Task]:
        for pair in self._pairs:
            yield Task(f"teacher-{pair.teacher}", (), partial(self._train_teacher, pair.teacher))
            yield Task(f"labels-{pair.teacher}", (f"teacher-{pair.teacher}",), partial(self._label, pair))
        for row, seed in runs(self._pairs, self._seeds):
            needs = {TRUTH: (), ONLINE: (f"teacher-{row.teacher}",), VIEWS: (f"labels-{row.teacher}",)}[row.source]
            yield Task(run_name(row, seed), needs, partial(self._train_student, row, seed))

    def _labels(self, teacher: str) -> Path:
        return self._work / LABELS / f"{teacher}.slc"

    def _train(self, row: Row, seed: int) -> Path:
        """Train a network, and return the folder of the run."""
        out = self._work / "runs" / run_name(row, seed)
        options: dict[str, Any] = {"labels": row.source, "all_views": SIDE, "padding": PADDING}
        if row.source == ONLINE:
            options["teacher"] = f"{NETWORKS}:trained_{row.teacher}"
        if row.source == VIEWS:
            options = {"labels": str(self._labels(row.teacher))}
        if row.source != TRUTH:
            options |= {"temperature": row.temperature, "truth_weight": TRUTH_WEIGHT}
        options |= {"images": str(self._images / "train.npz"), "val": str(self._images / "test.npz"), "val_crop": 1.0}
        options |= {"student": f"{NETWORKS}:{row.student}", "num_classes": networks.NUM_CLASSES, "size": SIDE, "in_memory": True}
        options |= {"mean": networks.MEAN, "std": networks.STD, "seed": seed, "out": str(out), "resume": True}
        options |= {"val_epochs": self._epochs, "checkpoint_epochs": 5, **RECIPE, **schedule(self._epochs)}
        train(TrainConfig.from_mapping(options), self._check_time, self._memory)
        return out

    def _train_teacher(self, teacher: str) -> None:
        started, kept = time.monotonic(), self._weights(teacher)
        if not kept.exists():
            out = self._train(row_of(TRUTH, "", teacher), seed=0)
            (out / "weights.pt").replace(kept)
            shutil.rmtree(out)
        found = load_teacher(f"{NETWORKS}:trained_{teacher}")
        student = Student(found.model, networks.NUM_CLASSES, SIDE, found.mean, found.std, crop=1.0)
        evaluation = asdict(evaluate(student, str(self._images / "test.npz")))
        self._write_teacher(teacher, found.model, time.monotonic() - started, evaluation=evaluation, epochs=self._epochs)

    def _label(self, pair: Pair) -> None:
        started = time.monotonic()
        config = EncodeConfig(
            images=str(self._images / "train.npz"),
            out=str(self._labels(pair.teacher)),
            teacher=f"{NETWORKS}:trained_{pair.teacher}",
            codec=LOGITS,
            sampler=AllViews(SIDE, SIDE),
            padding=Padding(PADDING),
            size=SIDE,
            batch_size=1024,
            workers=(os.cpu_count() or 1) // 2 - 1,
            precision="float32",
        )
        report = encode(config, self._check_time)
        found = {"row": asdict(pair.row(VIEWS)), "bytes": report.file_bytes, "num_images": report.num_images, "epochs": self._epochs}
        self._write("labels", f"labels-{pair.teacher}", time.monotonic() - started, **found)

    def _train_student(self, row: Row, seed: int) -> None:
        out = self._train(row, seed)
        result = read_result(out / "result.json") or {}
        shutil.rmtree(out)
        self._write("run", run_name(row, seed), result["seconds"], row=asdict(row), seed=seed, epochs=self._epochs, result=result)
