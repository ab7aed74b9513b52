"""The tasks of the accuracy experiment: teachers, labels, students."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
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
from benchmarks.accuracy.tasks import LABELS, Task, Tasks
from softlabel_codec.container.whole_files import read_result, whole_file
from softlabel_codec.evaluate import Student, evaluate
from softlabel_codec.label_maps import make_label_maps
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.teacher import EncodeConfig, encode, load_teacher
from softlabel_codec.trainer import train

LOGITS = "dense:values=f32,content=logits"


class Experiment(Tasks):
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
        super().__init__(work, results / f"{scale_name}.jsonl", minutes)
        self.scale: Scale = SCALES[scale_name]
        self._workers = workers
        os.environ[networks.WORK] = str(work.absolute())

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
        seconds, options = time.monotonic() - started, self.scale.teachers[teacher]
        self._write_teacher(teacher, found.model, seconds, options=options, evaluation=evaluation)

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
