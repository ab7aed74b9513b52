"""The accuracy experiment on 100 classes of Tiny-ImageNet: python benchmarks/accuracy/experiment.py WORK [--scale gpu|cpu|check].

Trains a teacher, labels 100 crops of each image, writes the labels in all codecs, and trains students from each. It stops after
--minutes and continues from what is there: run it again until it says that everything is done (exit code 0; 3: there is more to
do). Results, one JSON file per run, go to `results/SCALE-TEACHER/`, where TEACHER is the beginning of the fingerprint of the full
labels, since runs of different teachers do not belong into one table. On another machine, put `teacher-f16.pt` into an empty WORK
to go on with the same teacher. `tables.py` makes the tables of the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from PIL import Image
from plan import CODECS, HERE, REFERENCE, SCALES, Cell, Scale, cells

from softlabel_codec import SoftLabelReader, SoftLabelWriter
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.train_config import ONLINE, TRUTH, TrainConfig
from softlabel_codec.trainer import ImageMemory, make_label_maps, train
from softlabel_codec.trainer.files import read_result, whole_file, write_json
from softlabel_codec.trainer.outcome import machine
from softlabel_codec.trainer.quality import label_quality
from softlabel_codec.version import library_versions

DATA = HERE.parents[2] / "shared" / "data" / "tiny-imagenet-100.npz"
SAMPLER = CropSampler(seed=0, scale=(0.25, 1.0))
MORE_TO_DO = 3
TEACHERS = {"resnet34": "trained_resnet34", "small_teacher": "trained_small_teacher"}


class TimeUpError(Exception):
    """The time of this call is over."""


class Experiment:
    """The experiment in a folder, step by step; each step is left out if what it makes is there."""

    def __init__(self, scale_name: str, work: Path, results: Path, data: Path, minutes: float) -> None:
        self.scale: Scale = SCALES[scale_name]
        self._name, self._work, self._results, self._data = scale_name, work, results, data
        self._end = time.monotonic() + 60 * minutes
        self._memory = ImageMemory()
        work.mkdir(parents=True, exist_ok=True)
        os.environ[networks.WORK] = str(work.absolute())

    def run(self) -> None:
        """Do what is left; TimeUpError if time ends before that."""
        self._unpack()
        self._train_teacher()
        self._label()
        folder = self._results / f"{self._name}-{self._fingerprint()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._describe(folder / "labels.json")
        for cell in cells(self.scale):
            self._train_student(cell, folder / f"{cell.name}.json")

    def _check_time(self, *progress: Any) -> None:
        if time.monotonic() > self._end:
            raise TimeUpError

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    def _unpack(self) -> None:
        """Write the images as folders of PNG files, which decode fast and lose nothing."""
        done = self._work / "images" / "done"
        if done.exists():
            return
        self._say("unpacking images")
        with np.load(self._data) as data:
            for split, per_class in (("train", self.scale.images_per_class), ("val", self.scale.images_per_class)):
                _unpack(data, split, per_class, self._work / "images" / split)
        done.touch()

    def _options(self, out: Path, **more: Any) -> dict[str, Any]:
        images = {"images": str(self._work / "images" / "train"), "val": str(self._work / "images" / "val")}
        how = {"mean": networks.MEAN, "std": networks.STD, "device": self.scale.device, "resume": True}
        return {**images, "out": str(out), **how, **self.scale.common, **more}

    def _train_teacher(self) -> None:
        kept = self._work / "teacher-f16.pt"
        if kept.exists():
            return
        self._say("training the teacher")
        crops = {"scale": SAMPLER.scale, "ratio": SAMPLER.ratio, "flip_probability": SAMPLER.flip_probability}
        options = self._options(self._work / "teacher", labels=TRUTH, crops_per_image=1, val_epochs=10, **crops, **self.scale.teacher)
        report = train(TrainConfig.from_mapping(options), self._check_time, self._memory)
        weights = torch.load(self._work / "teacher" / "weights.pt", map_location="cpu", weights_only=True)
        with whole_file(kept) as file:
            torch.save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, file)
        self._say(f"teacher: {(report.evaluation or {})['top1']:.2%}")

    @property
    def _teacher(self) -> str:
        return f"{HERE / 'networks.py'}:{TEACHERS[self.scale.teacher['student'].rpartition(':')[2]]}"

    def _labels(self, codec: str) -> Path:
        return self._work / "labels" / f"{codec.replace(':', '-').replace(',', '-')}.slc"

    def _label(self) -> None:
        """Run the teacher once, keeping all probabilities; then write every other codec from those, and label maps."""
        full = self._labels(REFERENCE)
        full.parent.mkdir(exist_ok=True)
        if not full.exists():
            self._say(f"labelling {self.scale.crops} crops of each image")
            size, on_gpu = self.scale.common["size"], self.scale.device == "cuda"
            config = EncodeConfig(
                images=str(self._work / "images" / "train"),
                out=str(full),
                teacher=self._teacher,
                codec=REFERENCE,
                crops=self.scale.crops,
                sampler=SAMPLER,
                size=size,
                batch_size=1024 if on_gpu else 256,
                workers=min(16, os.cpu_count() or 1) if on_gpu else 1,
                device=self.scale.device,
                precision="float32",
            )
            encode(config, self._check_time)
        for codec in CODECS:
            if not self._labels(codec).exists():
                self._check_time()
                self._say(f"writing {codec}")
                _copy_labels(full, self._labels(codec), codec)
        maps = self._work / "labels" / "maps.npz"
        if not maps.exists():
            self._check_time()
            self._say("making label maps")
            found = make_label_maps(
                self._work / "images" / "train", self._teacher, size=self.scale.common["size"], device=self.scale.device
            )
            found.save(maps)

    def _fingerprint(self) -> str:
        with SoftLabelReader(self._labels(REFERENCE)) as reader:
            return reader.fingerprint[:8]

    def _sources(self) -> dict[str, str]:
        stored = {codec: str(self._labels(codec)) for codec in CODECS}
        return {**stored, "maps": str(self._work / "labels" / "maps.npz"), "truth": TRUTH, "online": ONLINE}

    def _describe(self, path: Path) -> None:
        """Write down what is known of the labels before any student."""
        if read_result(path) is not None:
            return
        sources = self._sources()
        images = str(self._work / "images" / "train")
        quality = label_quality(sources, images)
        with SoftLabelReader(sources[REFERENCE]) as reader:
            num_images, num_crops, num_classes = len(reader), int(reader.num_crops.sum()), reader.num_classes
        sizes = {name: Path(labels).stat().st_size / num_crops for name, labels in sources.items() if Path(labels).is_file()}
        teacher = TrainConfig.from_mapping(self._options(Path("teacher"), labels=ONLINE, teacher=self._teacher, epochs=1))
        facts = {
            "scale": self._name,
            "num_images": num_images,
            "num_crops": num_crops,
            "teacher": self.scale.teacher,
            "teacher_top1": _evaluate_teacher(teacher, num_classes),
            "student": self.scale.student,
            "common": self.scale.common,
            "bytes_per_crop": sizes,
            "entropy": quality[REFERENCE].entropy,
            "quality": {name: dataclasses.asdict(said) for name, said in quality.items()},
        }
        write_json(path, _portable(facts))

    def _train_student(self, cell: Cell, path: Path) -> None:
        if read_result(path) is not None:
            return
        self._check_time()
        labels = self._sources()[cell.source]
        fresh = {"scale": SAMPLER.scale, "ratio": SAMPLER.ratio, "flip_probability": SAMPLER.flip_probability}
        more: dict[str, Any] = {} if labels.endswith(".slc") else fresh
        if labels == ONLINE:
            more["teacher"] = self._teacher
        often = {"val_epochs": self.scale.student["epochs"], "checkpoint_epochs": 5, "seed": cell.seed}
        out = self._work / "runs" / cell.name
        options = self._options(out, labels=labels, **more, **often, **self.scale.student, **dict(cell.varied))
        report = train(TrainConfig.from_mapping(options), self._check_time, self._memory)
        result = read_result(out / "result.json") or {}
        versions = library_versions("softlabel_codec", "numpy", "pillow", "torch", "zstandard")
        circumstances = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions}
        own = {"source": cell.source, "varied": dict(cell.varied), "seed": cell.seed}
        write_json(path, _portable({**own, **circumstances, **result}))
        self._say(f"{cell.name}: {(report.evaluation or {})['top1']:.2%} in {report.seconds:.1f} s")


def _unpack(data: Any, split: str, per_class: int | None, folder: Path) -> None:
    jpeg, offsets = data[f"{split}_jpeg"], data[f"{split}_offsets"]
    seen: dict[int, int] = {}
    for number, (key, label) in enumerate(zip(data[f"{split}_keys"], data[f"{split}_labels"].tolist(), strict=True)):
        seen[label] = seen.get(label, 0) + 1
        if per_class is not None and seen[label] > per_class:
            continue
        path = folder / Path(key.decode()).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(io.BytesIO(jpeg[offsets[number] : offsets[number + 1]].tobytes()))
        image.convert("RGB").save(path, compress_level=1)


def _copy_labels(full: Path, path: Path, codec: str) -> None:
    with (
        SoftLabelReader(full) as reader,
        SoftLabelWriter(path, reader.num_classes, codec, reader.metadata, crops="derived", sampler=SAMPLER, overwrite=True) as writer,
    ):
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=image.image_size, probs=image.labels.dense())


def _evaluate_teacher(config: TrainConfig, num_classes: int) -> float:
    """Return the accuracy of the teacher as it labels: in half precision weights."""
    from softlabel_codec.teacher import load_teacher
    from softlabel_codec.trainer import Student, evaluate

    assert config.teacher is not None
    assert config.val is not None
    teacher = load_teacher(config.teacher)
    student = Student(teacher.model, num_classes, config.size, teacher.mean, teacher.std, crop=config.val_crop)
    return evaluate(student, config.val, device=config.device).top1


def _portable(value: Any) -> Any:
    """Return a value without paths of this machine: only the last part of each is kept."""
    if isinstance(value, dict):
        return {name: _portable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(part) for part in value]
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return value


def main() -> None:
    """Do as much as fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for images, labels and runs")
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    experiment = Experiment(options.scale, options.work, options.results, options.data, options.minutes)
    try:
        experiment.run()
    except TimeUpError:
        print("time is up: run it again to go on", file=sys.stderr)
        sys.exit(MORE_TO_DO)
    print("everything is done", file=sys.stderr)


if __name__ == "__main__":
    main()
