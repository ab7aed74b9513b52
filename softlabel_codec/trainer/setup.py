"""Everything that stands before the first step: labels, images, classes, preprocessing, student, teacher."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images import list_images, path_of_key
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students import build_student, load_weights
from softlabel_codec.summary import keys_sha256
from softlabel_codec.teacher import load_teacher
from softlabel_codec.teacher.load import weights_sha256
from softlabel_codec.torch.dataset import image_finder
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple, as_std, as_triple, normalize
from softlabel_codec.train_config import ONLINE, TRUTH, TrainConfig
from softlabel_codec.trainer.batches import TrainingImages
from softlabel_codec.trainer.classes import class_folders, classes_of, read_class_folders
from softlabel_codec.trainer.evaluation import Evaluator, TestImages
from softlabel_codec.trainer.label_maps import LabelMaps
from softlabel_codec.trainer.memory import ImageMemory
from softlabel_codec.trainer.sources import FreshCrops, MappedCrops, Source, StoredCrops

OnlineTeacher = Callable[[Tensor], Tensor]
_CROPS_COMPARED = 200
_BETTER_THAN_CHANCE = 3


@dataclass(frozen=True)
class Setup:
    """What a run trains on and with.

    Attributes
    ----------
    images : TrainingImages
        Images, and where their crops and labels come from.
    num_classes : int
        C.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    temperature : float
        T of softmax(logits / T).
    labels : str
        Fingerprint of the labels.
    label_facts : dict
        What the log says about them.
    folders : list of str
        Class folders in the order of their numbers; empty if nobody knows them.
    """

    images: TrainingImages
    num_classes: int
    mean: Triple
    std: Triple
    temperature: float
    labels: str
    label_facts: dict[str, Any]
    folders: list[str]


def set_up(config: TrainConfig) -> Setup:
    """Return what a configuration says to train on, everything checked that can be before training.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If labels, images and options do not fit together.
    """
    kind = _kind(config)
    if kind == "stored":
        return _with_stored_labels(config, SoftLabelReader(config.labels, policy=config.policy))
    keys = list_images(config.images)
    maps = _load_maps(config, keys) if kind == "maps" else None
    folders, num_classes = _classes(config, keys, None if maps is None else maps.num_classes)
    classes = _class_numbers(config, keys, folders)
    sampler = CropSampler(config.seed, config.scale or (0.08, 1.0), config.ratio or (3 / 4, 4 / 3), _or(config.flip_probability, 0.5))
    source: Source
    if maps is not None:
        source, fingerprint = MappedCrops(keys, sampler, maps), hashlib.sha256(Path(config.labels).read_bytes()).hexdigest()
    else:
        if classes is None and kind == TRUTH:
            raise MismatchError(_unknown_classes(config.images, len(class_folders(keys)), num_classes))
        source = FreshCrops(keys, sampler, classes if kind == TRUTH else None, num_classes)
        numbers = [""] * len(keys) if classes is None else classes.tolist()
        fingerprint = keys_sha256(f"{number} {key}".encode() for number, key in zip(numbers, keys, strict=True))
    find, interpolation = _InFolder(config.images, keys), config.interpolation or "bilinear"
    images = TrainingImages(config.images, source, find, classes, config.size, interpolation, "ignored")
    facts = {"labels": config.labels, "fingerprint": fingerprint}
    mean, std = config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD
    return Setup(images, num_classes, mean, std, _or(config.temperature, 1.0), fingerprint, facts, folders)


def _with_stored_labels(config: TrainConfig, reader: SoftLabelReader) -> Setup:
    source = StoredCrops(reader, config.seed, config.stored_crops)
    source.check_crops_per_image(config.crops_per_image)
    folders, num_classes = _classes(config, reader.keys, reader.num_classes)
    classes = _class_numbers(config, reader.keys, folders)
    if classes is not None:
        _compare_classes(reader, classes)
    teacher = reader.metadata.get("preprocessing", {})
    how = teacher if isinstance(teacher, dict) else {}
    interpolation = config.interpolation or str(how.get("interpolation", "bilinear"))
    find, exif_orientation = image_finder(config.images, reader), str(how.get("exif_orientation", "ignored"))
    images = TrainingImages(config.images, source, find, classes, config.size, interpolation, exif_orientation)
    mean = as_triple("mean", config.mean or how.get("mean", IMAGENET_MEAN))
    std = as_std(config.std or how.get("std", IMAGENET_STD))
    temperature = float(_or(config.temperature, reader.metadata.get("temperature", 1.0)))
    facts = {"labels": config.labels, "codec": reader.codec, "fingerprint": reader.fingerprint}
    return Setup(images, num_classes, mean, std, temperature, reader.fingerprint, facts, folders)


def make_student(config: TrainConfig, setup: Setup) -> nn.Module:
    """Return the student with its first weights, which depend on the seed only."""
    torch.manual_seed(config.seed)
    student = build_student(config.student, setup.num_classes, config.size)
    if config.weights is not None:
        load_weights(student, config.weights)
    return student


def make_online_teacher(config: TrainConfig, setup: Setup, device: torch.device) -> tuple[OnlineTeacher, str] | None:
    """Return what gives a teacher's logits for pixels (B, 3, size, size) in 0..255, and a fingerprint of it; None if there is no teacher.

    Raises
    ------
    MismatchError
        If the teacher has another number of classes.
    """
    if config.teacher is None:
        return None
    teacher = load_teacher(config.teacher)
    model = teacher.model.to(device)

    @torch.inference_mode()
    def logits(pixels: Tensor) -> Tensor:
        found: Tensor = model(normalize(pixels, teacher.mean, teacher.std))
        return found.float()

    probe = logits(torch.zeros(2, 3, config.size, config.size, dtype=torch.uint8, device=device))
    if probe.shape != (2, setup.num_classes):
        expected = f"expected logits of shape (2, {setup.num_classes}) for 2 crops, got {tuple(probe.shape)}"
        raise MismatchError(f"teacher {teacher.name}: {expected}")
    return logits, weights_sha256(teacher.model)


def make_evaluator(config: TrainConfig, setup: Setup, device: torch.device, memory: ImageMemory) -> Evaluator | None:
    """Return what measures the student on the validation images; None if there are none."""
    if config.val is None:
        return None
    folders = setup.folders or class_folders(list_images(config.val))
    if not setup.folders and len(folders) != setup.num_classes:
        raise MismatchError(_unknown_classes(config.val, len(folders), setup.num_classes))
    how = {"crop": config.val_crop, "interpolation": setup.images.interpolation, "exif_orientation": setup.images.exif_orientation}
    images = TestImages.of_folder(config.val, folders, config.size, **how)
    return Evaluator(images, setup.mean, setup.std, device, workers=config.workers, memory=memory if config.in_memory else None)


@dataclass(frozen=True)
class _InFolder:
    """Finds the images that were listed in a folder."""

    folder: str
    keys: Sequence[str]

    def __call__(self, number: int, key: str) -> Path:
        return path_of_key(Path(self.folder), key)


def _kind(config: TrainConfig) -> str:
    kind = config.labels
    if kind not in (TRUTH, ONLINE):
        kind = {".slc": "stored", ".npz": "maps"}.get(Path(config.labels).suffix, "")
    if not kind:
        raise ArgumentError(f"labels: expected FILE.slc, FILE.npz (label maps), {TRUTH!r} or {ONLINE!r}, got {config.labels!r}")
    foreign = ("stored_crops", "policy") if kind != "stored" else ("scale", "ratio", "flip_probability")
    for name in foreign:
        if getattr(config, name) is not None:
            whose = "fresh crops: those of a label file are fixed" if kind == "stored" else "label files"
            raise ArgumentError(f"{name}: is for {whose}, leave it out with labels={config.labels!r}")
    return kind


def _load_maps(config: TrainConfig, keys: Sequence[str]) -> LabelMaps:
    maps = LabelMaps.load(config.labels)
    missing = [key for key in keys if key not in maps.numbers]
    if missing:
        raise MismatchError(f"{config.labels}: there are no label maps of {len(missing)} of {len(keys)} images, {missing[0]!r} first")
    return maps


def _classes(config: TrainConfig, keys: Sequence[str], of_labels: int | None) -> tuple[list[str], int]:
    """Return the class folders in the order of their numbers, or none if nobody can know that order; and C."""
    folders = class_folders(keys) if config.classes is None else read_class_folders(config.classes)
    num_classes = of_labels or config.num_classes or len(folders)
    if config.num_classes not in (None, num_classes):
        raise MismatchError(f"{config.labels}: expected labels of {config.num_classes} classes, got {num_classes}")
    if config.classes is not None and len(folders) != num_classes:
        raise MismatchError(f"{config.classes}: expected {num_classes} class folders, got {len(folders)}")
    return (folders if len(folders) == num_classes else []), num_classes


def _class_numbers(config: TrainConfig, keys: Sequence[str], folders: Sequence[str]) -> NDArray[np.int64] | None:
    if folders:
        return classes_of(keys, folders, config.images)
    if config.truth_weight:
        raise MismatchError(f"truth_weight: needs to know the images' classes. {_unknown_classes(config.images, 0, config.num_classes)}")
    return None


def _unknown_classes(folder: str, found: int, num_classes: int | None) -> str:
    return f"{folder}: has {found} class folders, expected {num_classes}. Say with --classes FILE which class folder has which number"


def _compare_classes(reader: SoftLabelReader, classes: NDArray[np.int64]) -> None:
    """Warn if labels agree with the class folders hardly more often than by chance: their numbers are probably others."""
    chosen = np.unique(np.linspace(0, len(classes) - 1, _CROPS_COMPARED).astype(np.int64)) if len(classes) else np.zeros(0, np.int64)
    labels = reader.read_batch(chosen, np.zeros((len(chosen), 1), np.int64))
    top = np.array([int(image.labels.dense()[0].argmax()) for image in labels])
    agreement = float((top == classes[chosen]).mean()) if len(chosen) else 1.0
    if agreement < _BETTER_THAN_CHANCE / reader.num_classes:
        advice = "If class folders are not numbered in ascending order, say with --classes FILE which has which number"
        found = f"{reader.path}: its labels agree with the class folders for only {agreement:.1%} of the images"
        warnings.warn(f"{found}. {advice}", stacklevel=2)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
