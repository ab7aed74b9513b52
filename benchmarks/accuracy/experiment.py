"""The tasks of the accuracy experiment: teachers, labels, students. Each is done once, by one of several processes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import networks
from benchmarks.accuracy.images import MARGIN, SIDE
from benchmarks.accuracy.labels import SAMPLER, VIEW_SAMPLER, write_labels, write_views
from benchmarks.accuracy.plan import (
    ALL,
    FEW,
    HERE,
    MAPS,
    ONLINE,
    PADDED,
    SCALES,
    SOFTENED,
    TRUTH,
    VIEWS,
    Row,
    Scale,
)
from benchmarks.accuracy.results import add_result, read_results
from softlabel_codec.compare.outcome import machine
from softlabel_codec.container.whole_files import read_result, whole_file
from softlabel_codec.errors import SoftLabelError, StateError
from softlabel_codec.evaluate import Student, evaluate
from softlabel_codec.label_maps import make_label_maps
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.trainer import ImageMemory, train
from softlabel_codec.version import library_versions

LOGITS = "dense:values=f32,content=logits"
SECONDS_BETWEEN_LOOKS = 0.2
BEGUN, DONE, FAILED = "begun", "done", "failed"
"""Folders with an empty file for each task in that state."""
LABELS = "labels"
OTHER_TEACHER = "Put the weights of that teacher there, or take another folder with --results"


class TimeUpError(Exception):
    """The time of this call is over."""


@dataclass(frozen=True)
class Task:
    """Something to be done once.

    Attributes
    ----------
    name : str
        What it is called in the folders of what is begun, done and failed.
    needs : tuple of str
        Tasks that must be done before.
    make : callable
        Does it.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[], None]


class Experiment:
    """The experiment in a folder.

    Parameters
    ----------
    scale_name : str
        One of `SCALES`.
    work : Path
        Folder of images, teachers, labels and runs.
    results : Path
        Folder of the results: all of a scale go to one file, a JSON object to a line.
    minutes : float
        After so long, TimeUpError is raised between two steps.
    workers : int
        Processes that cut images for each teacher.
    """

    def __init__(self, scale_name: str, work: Path, results: Path, minutes: float, workers: int = 1) -> None:
        self.scale: Scale = SCALES[scale_name]
        self._work, self._results, self._workers = work, results / f"{scale_name}.jsonl", workers
        self._end = time.monotonic() + 60 * minutes
        self._memory = ImageMemory()
        self._known = {result["name"]: result for result in read_results(self._results)}
        os.environ[networks.WORK] = str(work.absolute())

    def begin(self) -> None:
        """Forget what was begun only, or failed; before any process works.

        Raises
        ------
        StateError
            If there are results of a teacher whose weights are not in the folder: those of another do not belong to them.
        """
        for state in (BEGUN, FAILED):
            shutil.rmtree(self._work / state, ignore_errors=True)
        for folder in (BEGUN, FAILED, DONE, LABELS):
            (self._work / folder).mkdir(parents=True, exist_ok=True)
        self._results.parent.mkdir(parents=True, exist_ok=True)
        for marked in (self._work / DONE).iterdir():
            if marked.name not in self._known:  # its result was lost, or goes to another file now
                marked.unlink()
        for name, result in self._known.items():
            trained = result["kind"] == "teacher" and self._is_trained(result["teacher"])
            if trained and not self._weights(result["teacher"]).exists():
                raise StateError(f"{self._results}: has results of a teacher that is not in {self._work}. {OTHER_TEACHER}")
            if result["kind"] == "run":
                self._mark(DONE, name)

    def work(self) -> None:
        """Do what nobody has begun until nothing is left.

        Raises
        ------
        TimeUpError
            If time ends before that.
        StateError
            If a task failed here, or in another process one that a task here needs. The others were done nevertheless.
        """
        left, failed = [task for task in self._tasks() if not self._is(DONE, task.name)], []
        while left:
            self._check_time()
            task = next((task for task in left if all(self._is(DONE, name) for name in task.needs)), None)
            if task is None:
                hopeless = [task.name for task in left if any(self._is(FAILED, name) for name in task.needs)]
                for name in hopeless:
                    self._mark(FAILED, name)
                failed += hopeless
                left = [task for task in left if task.name not in hopeless]
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                left.remove(task)
                failed += [] if self._do(task) else [task.name]
        if failed:
            raise StateError(f"{len(failed)} tasks failed: {', '.join(failed)}")

    def _do(self, task: Task) -> bool:
        """Do a task that nobody has begun; return whether it went well, or another process looks after it."""
        if self._is(DONE, task.name) or not self._claim(task):
            return True
        try:
            task.make()
        except TimeUpError:
            raise
        except Exception as error:  # whatever it is: what does not need this task goes on
            said = [str(error)] if isinstance(error, SoftLabelError) else traceback.format_exception(error)
            print(f"{task.name}: {''.join(said)}", file=sys.stderr)
            self._mark(FAILED, task.name)
            return False
        self._mark(DONE, task.name)
        return True

    def _is(self, state: str, name: str) -> bool:
        return (self._work / state / name).exists()

    def _mark(self, state: str, name: str) -> None:
        (self._work / state / name).touch()

    def _claim(self, task: Task) -> bool:
        try:
            (self._work / BEGUN / task.name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _check_time(self, *progress: Any) -> None:
        if time.monotonic() > self._end:
            raise TimeUpError

    def _write(self, kind: str, name: str, seconds: float, **found: Any) -> None:
        """Add a result to the file, unless it is there already."""
        if name in self._known:
            return
        versions = library_versions("softlabel_codec", "numpy", "pillow", "torch", "zstandard")
        where = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions, "seconds": round(seconds, 1)}
        add_result(self._results, {"kind": kind, "name": name, **where, **found})
        print(f"{time.strftime('%H:%M:%S')}  {name}  {seconds:.1f} s", file=sys.stderr, flush=True)

    def _tasks(self) -> Iterator[Task]:
        for teacher in self.scale.teachers:
            yield Task(f"teacher-{teacher}", (), partial(self._train_teacher, teacher))
        made: set[Path] = set()
        for row, seed in self.scale.runs():
            needs = [f"teacher-{row.teacher}"] if row.source == ONLINE else []
            for path, labels in self._files(row):
                logits = self._logits(labels)
                if labels.source not in (MAPS, VIEWS) and logits not in made:
                    yield Task(f"logits-{logits.stem}", (f"teacher-{row.teacher}",), partial(self._label, labels, logits))
                    made.add(logits)
                if path not in made:
                    yield Task(_label_name(path), self._needs_of_labels(labels), partial(self._write_labels, path, labels))
                made.add(path)
                needs.append(_label_name(path))
            yield Task(run_name(row, seed), tuple(needs), partial(self._train_student, row, seed))

    def _images(self, name: str, split: str) -> Path:
        return self._work / "images" / (ALL if (name, split) == (FEW, "val") else name) / split

    def _weights(self, teacher: str) -> Path:
        return self._work / f"teacher-{teacher}.pt"

    def _logits(self, row: Row) -> Path:
        return self._work / LABELS / f"{row.teacher}-{row.images}.slc"

    def _is_trained(self, teacher: str) -> bool:
        return "epochs" in self.scale.teachers[teacher]

    def _network(self, teacher: str) -> str:
        if not self._is_trained(teacher):
            return str(self.scale.teachers[teacher]["student"])
        return f"{HERE / 'networks.py'}:trained_{self.scale.teachers[teacher]['student'].rpartition(':')[2]}"

    def _files(self, row: Row) -> Iterator[tuple[Path, Row]]:
        """Yield the label file of a row, if it has one, with the row reduced to what the file depends on."""
        if row.source not in (TRUTH, ONLINE):
            reduced = Row(row.source, row.teacher, row.images, row.stored, temperature=row.made_at)
            suffix = ".npz" if row.source == MAPS else ".slc"
            yield self._work / LABELS / f"{run_name(reduced)}{suffix}", reduced

    def _needs_of_labels(self, row: Row) -> tuple[str, ...]:
        return (f"teacher-{row.teacher}" if row.source in (MAPS, VIEWS) else f"logits-{self._logits(row).stem}",)

    def _options(self, out: Path, images: str, **more: Any) -> dict[str, Any]:
        folders = {"images": str(self._images(images, "train")), "val": str(self._images(images, "val"))}
        val_crop = SIDE / (SIDE + 2 * MARGIN) if images == PADDED else 1.0
        how = {"mean": networks.MEAN, "std": networks.STD, "device": self.scale.device, "resume": True, "val_crop": val_crop}
        return {**folders, "out": str(out), **how, **self.scale.common, **more}

    def _train_teacher(self, teacher: str) -> None:
        started, kept = time.monotonic(), self._weights(teacher)
        if self._is_trained(teacher) and not kept.exists():
            crops = {"scale": SAMPLER.scale, "ratio": SAMPLER.ratio, "flip_probability": SAMPLER.flip_probability}
            options = self.scale.teachers[teacher]
            more = {"labels": TRUTH, "crops_per_image": 1, "val_epochs": options["epochs"], **crops, **options}
            train(TrainConfig.from_mapping(self._options(self._work / "runs" / teacher, ALL, **more)), self._check_time, self._memory)
            weights = torch.load(self._work / "runs" / teacher / "weights.pt", map_location="cpu", weights_only=True)
            with whole_file(kept) as file:
                torch.save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, file)
        found = load_teacher(self._network(teacher))
        student = Student(found.model, networks.NUM_CLASSES, found.input_size, found.mean, found.std, crop=1.0)
        evaluation = dataclasses.asdict(evaluate(student, str(self._images(ALL, "val")), device=self.scale.device))
        about = {"teacher": teacher, "weights_sha256": weights_sha256(found.model), "options": self.scale.teachers[teacher]}
        known = self._known.get(f"teacher-{teacher}", about)
        if known.get("weights_sha256") != about["weights_sha256"]:
            raise StateError(f"{self._results}: has results of another teacher than {kept}. {OTHER_TEACHER}")
        self._write("teacher", f"teacher-{teacher}", time.monotonic() - started, **about, evaluation=evaluation)

    def _label(self, row: Row, path: Path) -> None:
        """Run a teacher once over all crops of the images of a row, keeping its logits."""
        started, crops = time.monotonic(), self._most_stored(row)
        if not path.exists():
            config = EncodeConfig(
                images=str(self._images(row.images, "train")),
                out=str(path),
                teacher=self._network(row.teacher),
                codec=LOGITS,
                crops=crops,
                sampler=SAMPLER,
                batch_size=1024 if self.scale.device == "cuda" else 256,
                workers=self._workers,
                device=self.scale.device,
                precision="float32",
            )
            encode(config, self._check_time)
        found = {"teacher": row.teacher, "images": row.images, "crops": crops}
        self._write("encode", f"logits-{path.stem}", time.monotonic() - started, **found)

    def _most_stored(self, row: Row) -> int:
        """Return how many crops the students of a teacher need of each of these images."""
        rows = [planned for group in self.scale.groups for planned in group]
        return max(planned.stored for planned in rows if (planned.teacher, planned.images) == (row.teacher, row.images))

    def _write_labels(self, path: Path, row: Row) -> None:
        started = time.monotonic()
        unfinished = path.with_name("unfinished-" + path.name)
        if row.source == MAPS:
            images = self._images(row.images, "train")
            maps = make_label_maps(images, self._network(row.teacher), size=self.scale.common["size"], device=self.scale.device)
            maps.save(unfinished)
            found: dict[str, Any] = {"bytes": unfinished.stat().st_size, "num_images": len(maps.numbers)}
        elif row.source == VIEWS:
            found = write_views(self._images(row.images, "train"), unfinished, self._network(row.teacher), self.scale.device)
        else:
            found = write_labels(self._logits(row), unfinished, row.source, row.stored, row.temperature)
        self._write("labels", _label_name(path), time.monotonic() - started, row=dataclasses.asdict(row), **found)
        unfinished.replace(path)

    def _train_student(self, row: Row, seed: int) -> None:
        out = self._work / "runs" / run_name(row, seed)
        options = {**self.scale.students[row.student], "crops_per_image": row.crops_per_image, "mixup": row.mixup, "seed": seed}
        options["epochs"] = {ALL: options["epochs"], FEW: self.scale.few_epochs, PADDED: self.scale.padded_epochs}[row.images]
        options["epochs"] = row.draws or options["epochs"]
        options["val_epochs"] = options["epochs"]
        files = [str(path) for path, _ in self._files(row)]
        options["labels"] = files[0] if files else row.source
        if row.source in (TRUTH, ONLINE, MAPS):
            sampler = VIEW_SAMPLER if row.images == PADDED else SAMPLER
            options |= {"scale": sampler.scale, "ratio": sampler.ratio, "flip_probability": sampler.flip_probability}
        if row.source == ONLINE:
            options["teacher"] = self._network(row.teacher)
        if row.fitted_only:
            options["stored_crops"] = row.stored
        if row.policy:
            options["policy"] = row.policy
        if row.source in (ONLINE, MAPS, *SOFTENED):
            options["temperature"] = row.temperature
        report = train(TrainConfig.from_mapping(self._options(out, row.images, **options)), self._check_time, self._memory)
        result = read_result(out / "result.json") or {}
        shutil.rmtree(out)
        self._write("run", run_name(row, seed), report.seconds, row=dataclasses.asdict(row), seed=seed, result=result)


def run_name(row: Row, seed: int | None = None) -> str:
    """Return what the runs of a row, or one of them, are called."""
    usual = Row(row.source)
    parts = [row.source.replace(":", "-").replace(",", "-")]
    parts += [f"{name}={value}" for name, value in dataclasses.asdict(row).items() if value != getattr(usual, name)]
    return "__".join([*parts, *([] if seed is None else [f"seed={seed}"])])


def _label_name(path: Path) -> str:
    return f"labels__{path.name}"
