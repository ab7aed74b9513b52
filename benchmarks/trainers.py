"""Students trained by others: python -m benchmarks.trainers WORK [--seeds N], with timm and torchvision (`pip install '.[others]'`).

The loops are `train_one_epoch` of `examples/timm_loader.py` and `examples/torchvision_references.py`, with losses, optimizers, schedules
and, where crops are fresh, transforms of these libraries. Each trains the same student on images of Tiny-ImageNet from ground truth, from
a teacher in every step, and from stored labels. WORK must hold `teacher-unsure.pt`, as `benchmarks.accuracy` makes it. Each run is a line
of the results, seed by seed; interrupted, it goes on with the run that it was at.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import timm.data
import timm.optim
import timm.scheduler
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.accuracy import networks
from benchmarks.accuracy.__main__ import DATA
from benchmarks.accuracy.experiment import LOGITS
from benchmarks.accuracy.images import SIDE, unpack
from benchmarks.accuracy.labels import SAMPLER, write_labels
from benchmarks.accuracy.plan import DEFAULT, HERE, ONLINE, TAIL, TRUTH
from benchmarks.accuracy.results import add_result, read_results
from benchmarks.report.trainers import RESULTS
from softlabel_codec.compare.outcome import machine
from softlabel_codec.evaluate import Evaluator, TestImages
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.torch import SoftLabelDataset, collate_dense
from softlabel_codec.trainer import ImageMemory
from softlabel_codec.version import library_versions

EXAMPLES = Path(__file__).parents[1] / "examples"
CPU = torch.device("cpu")
TEACHER = f"{HERE / 'networks.py'}:trained_small_teacher"
SOURCES = (TRUTH, ONLINE, TAIL, DEFAULT)
WARMUP_EPOCHS = 2


@dataclass(frozen=True)
class Configuration:
    """What all runs of a file of results have in common.

    Attributes
    ----------
    images_per_class, crops : int
        Training images of each of 100 classes, and stored crops of each.
    epochs, batch_size : int
        Passes over the images, with one crop of each, and crops per step.
    teacher_sha256 : str
        The teacher's weights.
    student : str
        The student.
    """

    images_per_class: int
    crops: int
    epochs: int
    batch_size: int
    teacher_sha256: str
    student: str = "networks.py:small_student"


def main() -> None:
    """Train what has not been trained."""
    options = parse()
    os.environ[networks.WORK] = str(options.work.absolute())
    if not (options.work / "teacher-unsure.pt").exists():
        sys.exit(f"{options.work}/teacher-unsure.pt: is missing. Copy that of a WORK of `python -m benchmarks.accuracy --scale cpu`")
    teacher = networks.trained_small_teacher().eval().requires_grad_(False)
    sizes = {name: getattr(options, name) for name in ("images_per_class", "crops", "epochs", "batch_size")}
    configuration = Configuration(**sizes, teacher_sha256=weights_sha256(teacher))
    known = read_results(options.results)
    if any(one["configuration"] != asdict(configuration) for one in known):
        sys.exit(f"{options.results}: has results of another configuration or teacher. Name another file with --results")
    done = {(one["trainer"], one["source"], one["seed"]) for one in known if one["kind"] == "run"}
    images = options.work / f"images-{configuration.images_per_class}" / "all"
    unpack(options.data, images.parent, configuration.images_per_class, few_per_class=1)
    labels = make_labels(options, images / "train", configuration, {one["source"] for one in known if one["kind"] == "labels"})
    val = TestImages.of(str(images / "val"), None, [], networks.NUM_CLASSES, SIDE, crop=1.0)
    evaluator = Evaluator(val, networks.MEAN, networks.STD, CPU, memory=ImageMemory())
    for seed, source, (name, trainer) in itertools.product(range(options.seeds), SOURCES, TRAINERS.items()):
        if (name, source, seed) in done:
            continue
        started = time.monotonic()
        seed_all(seed)
        model = networks.small_student(networks.NUM_CLASSES)
        batches = make_batches(images / "train", source, labels.get(source), teacher, trainer, seed, configuration.batch_size)
        with contextlib.redirect_stdout(io.StringIO()):  # a line for each step
            trainer.train(model, batches, configuration.epochs)
        seconds, top1 = time.monotonic() - started, evaluator.measure(model).top1
        write(options.results, configuration, "run", seconds, trainer=name, source=source, seed=seed, top1=top1)


def seed_all(seed: int) -> None:
    """Seed what the libraries draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def write(path: Path, configuration: Configuration, kind: str, seconds: float, **found: Any) -> None:
    """Add a result to the file."""
    versions = library_versions("softlabel_codec", "numpy", "pillow", "timm", "torch", "torchvision")
    where = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions, "seconds": round(seconds, 1)}
    add_result(path, {"kind": kind, **found, **where, "configuration": asdict(configuration)})
    print(
        kind, {name: value for name, value in found.items() if not isinstance(value, list)}, f"{seconds:.1f} s", file=sys.stderr, flush=True
    )


def make_labels(options: argparse.Namespace, images: Path, configuration: Configuration, known: set[str]) -> dict[str, Path]:
    """Return the label files by codec, and write those that are not there: the teacher runs once."""
    logits = options.work / f"logits-{configuration.images_per_class}-{configuration.crops}.slc"
    if not logits.exists():
        how: dict[str, Any] = {"sampler": SAMPLER, "size": SIDE, "precision": "float32", "device": "cpu"}
        encode(EncodeConfig(images=str(images), out=str(logits), teacher=TEACHER, codec=LOGITS, crops=configuration.crops, **how))
    paths = {TAIL: logits.with_name(f"tail-{logits.name}"), DEFAULT: logits.with_name(f"k5-{logits.name}")}
    for codec, path in paths.items():
        if not path.exists() or codec not in known:
            started = time.monotonic()
            found = write_labels(logits, path, codec, configuration.crops, temperature=1.0)
            write(options.results, configuration, "labels", time.monotonic() - started, source=codec, **found)
    return paths


class WithTargets:
    """Batches of fresh crops with their targets (B, C): of the classes, or what the teacher says of these crops.

    Parameters
    ----------
    loader : DataLoader
        Batches of images and classes.
    teacher : nn.Module, optional
        Makes the targets; by default they are the classes.
    """

    def __init__(self, loader: DataLoader[Any], teacher: nn.Module | None) -> None:
        self._loader, self._teacher = loader, teacher

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, classes in self._loader:
            if self._teacher is None:
                yield images, nn.functional.one_hot(classes, networks.NUM_CLASSES).float()
            else:
                yield images, self._teacher(images).softmax(dim=1)


def make_batches(images: Path, source: str, labels: Path | None, teacher: nn.Module, trainer: Trainer, seed: int, batch_size: int) -> Any:
    """Return an iterable of images (B, 3, 32, 32) and targets (B, C), with one crop of each image in an epoch."""
    how: dict[str, Any] = {"batch_size": batch_size, "shuffle": True, "drop_last": True}
    if labels is not None:
        dataset = SoftLabelDataset(images, labels, 1, SIDE, mean=networks.MEAN, std=networks.STD, seed=seed)
        return DataLoader(dataset, collate_fn=collate_dense, **how)
    fresh = ImageFolder(str(images), trainer.transform())
    return WithTargets(DataLoader(fresh, **how), teacher if source == ONLINE else None)


def transform_of_timm() -> Callable[[Any], Tensor]:
    """Return timm's random crops, of the same distribution as those that are stored."""
    crops = {"scale": SAMPLER.scale, "ratio": SAMPLER.ratio, "hflip": SAMPLER.flip_probability, "interpolation": "bilinear"}
    colors = {"color_jitter": None, "mean": networks.MEAN, "std": networks.STD}
    transform: Callable[[Any], Tensor] = timm.data.create_transform(SIDE, is_training=True, **crops, **colors)
    return transform


def transform_of_torchvision() -> Callable[[Any], Tensor]:
    """Return torchvision's random crops, of the same distribution as those that are stored."""
    crop = v2.RandomResizedCrop(SIDE, SAMPLER.scale, SAMPLER.ratio)
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(networks.MEAN, networks.STD)]
    return v2.Compose([crop, v2.RandomHorizontalFlip(SAMPLER.flip_probability), *to_tensor])


def train_with_timm(model: nn.Module, batches: Any, epochs: int) -> None:
    """Train with timm's task, loss, AdamW and schedule, in the loop of the example."""
    task = ClassificationTask(model, criterion=SoftTargetCrossEntropy(), device=CPU, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=4e-3, weight_decay=0.05)
    schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial=epochs, warmup_t=WARMUP_EPOCHS, warmup_lr_init=1e-4)
    loop = example("timm_loader").train_one_epoch
    for epoch in range(epochs):
        loop(epoch, task, batches, lambda images, targets: (images, targets), optimizer, argparse.Namespace(steps=None))
        schedule.step(epoch + 1)


def train_with_torchvision(model: nn.Module, batches: Any, epochs: int) -> None:
    """Train with cross-entropy, SGD and the schedule of torchvision's references, in the loop of the example."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    warmup = LinearLR(optimizer, start_factor=0.01, total_iters=WARMUP_EPOCHS)
    decay = CosineAnnealingLR(optimizer, max(epochs - WARMUP_EPOCHS, 1))
    schedule = SequentialLR(optimizer, [warmup, decay], milestones=[WARMUP_EPOCHS])
    loop = example("torchvision_references").train_one_epoch
    for epoch in range(epochs):
        loop(model, nn.CrossEntropyLoss(), optimizer, batches, CPU, epoch, argparse.Namespace(steps=None, amp=False, clip_grad_norm=5.0))
        schedule.step()


@dataclass(frozen=True)
class Trainer:
    """Somebody else's trainer: how it makes crops, and how it trains a network on batches for some epochs."""

    transform: Callable[[], Callable[[Any], Tensor]]
    train: Callable[[nn.Module, Any, int], None]


TRAINERS = {
    "timm": Trainer(transform_of_timm, train_with_timm),
    "torchvision": Trainer(transform_of_torchvision, train_with_torchvision),
}


def example(name: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for images and labels, with teacher-unsure.pt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images-per-class", type=int, default=22)
    parser.add_argument("--crops", type=int, default=50, help="stored crops of each image")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
