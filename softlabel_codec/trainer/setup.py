"""Everything that stands before the first step: labels, images, classes, preprocessing, student, teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.evaluate import Evaluator, TestImages
from softlabel_codec.images.classes import (
    class_folders,
    classes_of,
    images_sha256,
    read_class_folders,
    unknown_classes,
    warn_of_other_classes,
)
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import list_images, resampling
from softlabel_codec.label_maps import MappedCrops, file_sha256
from softlabel_codec.options.train import MOMENTUM, ONLINE, TRUTH, TrainConfig
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students import build_student, check_student, load_weights
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.online import OnlineTeacher, online_teacher
from softlabel_codec.torch import SoftLabelDataset
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple, as_std, as_triple
from softlabel_codec.trainer.fresh import ClassLabels, Crops, FreshCrops, LabelOf, UnknownLabels

NOT_DECAYED = ("class_token", "cls_token", "dist_token", "pos_embed", "pos_embedding")
"""What tokens and positions of transformers are called in timm and in torchvision."""


@dataclass(frozen=True)
class Setup:
    """What a run trains on and with.

    Attributes
    ----------
    crops : Crops
        Images, crops and labels.
    classes : int64 (n,) or None
        Class of each image, if known.
    num_classes : int
        C.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    interpolation, exif_orientation : str
        How crops are scaled, and images turned.
    temperature : float
        T of softmax(logits / T).
    labels : str
        Fingerprint of the labels: of the file, or of the images' classes, or of the teacher.
    images_sha256 : str
        Fingerprint of the images, and of the classes that they are held to be of.
    label_facts : dict
        What the log says about the labels.
    folders : list of str
        Class folders in the order of their numbers; empty if nobody knows them.
    teacher : Teacher or None
        Who labels in every step.
    """

    crops: Crops
    classes: NDArray[np.int64] | None
    num_classes: int
    mean: Triple
    std: Triple
    interpolation: str
    exif_orientation: str
    temperature: float
    labels: str
    images_sha256: str
    label_facts: dict[str, Any]
    folders: list[str]
    teacher: Teacher | None = None

    @property
    def trained_on(self) -> dict[str, str]:
        """By what a run is told from one of the same options on other labels or images."""
        return {"labels": self.labels, "images": self.images_sha256}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images become what the student takes, in plain values."""
        how = {"interpolation": self.interpolation, "exif_orientation": self.exif_orientation}
        return {"mean": list(self.mean), "std": list(self.std), **how}


def set_up(config: TrainConfig) -> Setup:
    """Return what a configuration says to train on, everything checked that can be before training.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If labels, images and options do not fit together.
    """
    kind = _kind(config)
    return _stored_crops(config) if kind == "stored" else _fresh_crops(config, kind)


def _stored_crops(config: TrainConfig) -> Setup:
    crops = SoftLabelDataset(
        config.images,
        config.labels,
        config.crops_per_image,
        config.size,
        config.seed,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        normalized=False,
        policy=config.policy,
        stored_crops=config.stored_crops,
        exif_orientation=config.exif_orientation,
    )
    reader = crops.reader
    temperature = _temperature_of(reader, config.temperature)
    folders, num_classes = _classes(config, crops.keys, reader.num_classes)
    classes = _class_numbers(config, crops.keys, folders)
    if classes is not None:
        warn_of_other_classes(reader, classes)
    return Setup(
        crops=crops,
        classes=classes,
        num_classes=num_classes,
        mean=crops.mean,
        std=crops.std,
        interpolation=crops.interpolation,
        exif_orientation=crops.exif_orientation,
        temperature=temperature,
        labels=reader.fingerprint,
        images_sha256=_images_sha256(config, crops, classes),
        label_facts={"labels": config.labels, "codec": reader.codec, "fingerprint": reader.fingerprint},
        folders=folders,
    )


def _fresh_crops(config: TrainConfig, kind: str) -> Setup:
    keys = list_images(config.images)
    mapped = MappedCrops.load(config.labels, keys) if kind == "maps" else None
    teacher = _load_teacher(config)
    folders, num_classes = _classes(config, keys, None if mapped is None else mapped.maps.num_classes)
    classes = _class_numbers(config, keys, folders)
    label_of, fingerprint = _labels_of_fresh_crops(config, keys, mapped, teacher, classes, num_classes)
    interpolation = config.interpolation or ("bilinear" if teacher is None else teacher.interpolation)
    cutter = Cutter(config.size, interpolation, _exif_orientation(config, mapped))
    resampling(cutter.interpolation)
    sampler = CropSampler(config.seed, config.scale or (0.08, 1.0), config.ratio or (3 / 4, 4 / 3), _or(config.flip_probability, 0.5))
    crops = FreshCrops(config.images, keys, sampler, cutter, label_of, config.crops_per_image)
    return Setup(
        crops=crops,
        classes=classes,
        num_classes=num_classes,
        mean=as_triple("mean", config.mean or (IMAGENET_MEAN if teacher is None else teacher.mean)),
        std=as_std(config.std or (IMAGENET_STD if teacher is None else teacher.std)),
        interpolation=cutter.interpolation,
        exif_orientation=cutter.exif_orientation,
        temperature=_or(config.temperature, 1.0),
        labels=fingerprint,
        images_sha256=_images_sha256(config, crops, classes),
        label_facts={"labels": config.labels, "fingerprint": fingerprint},
        folders=folders,
        teacher=teacher,
    )


def _labels_of_fresh_crops(
    config: TrainConfig,
    keys: Sequence[str],
    mapped: MappedCrops | None,
    teacher: Teacher | None,
    classes: NDArray[np.int64] | None,
    num_classes: int,
) -> tuple[LabelOf, str]:
    """Return what is known of fresh crops, and its fingerprint."""
    if mapped is not None:
        return mapped, file_sha256(config.labels)
    if teacher is not None:
        return UnknownLabels(num_classes), weights_sha256(teacher.model)
    if classes is None:
        raise MismatchError(unknown_classes(config.images, len(class_folders(keys)), num_classes))
    numbered = (f"{number} {key}".encode() for number, key in zip(classes.tolist(), keys, strict=True))
    return ClassLabels(classes, num_classes), keys_sha256(numbered)


def _exif_orientation(config: TrainConfig, mapped: MappedCrops | None) -> str:
    """Return how images are turned; MismatchError if another way is wanted than that of label maps."""
    said = None if mapped is None else mapped.maps.exif_orientation
    if said is None or config.exif_orientation in (None, said):
        return config.exif_orientation or said or "ignored"
    made = f"these labels were made with exif_orientation={said!r}, expected {config.exif_orientation!r}"
    raise MismatchError(f"{config.labels}: {made}. Leave it out, or make the labels again with it")


def _images_sha256(config: TrainConfig, crops: Crops, classes: NDArray[np.int64] | None) -> str:
    paths = [Path(str(crops.source_of(number))) for number in range(len(crops.keys))]
    return images_sha256(config.images, paths, classes)


def _load_teacher(config: TrainConfig) -> Teacher | None:
    if config.teacher is None:
        return None
    output = config.teacher_output or "logits"
    return load_teacher(config.teacher, weights=config.teacher_weights, num_classes=config.num_classes, output=output)


def _temperature_of(reader: SoftLabelReader, wanted: float | None) -> float:
    """Return the temperature of a file's labels, which the student takes over; logits can be had at any."""
    said = reader.metadata.get("temperature")
    if said is not None and (isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < math.inf):
        raise MismatchError(f"{reader.path}: its metadata say temperature={said!r}, expected a positive number")
    if Codec.parse(reader.codec).content != "logits" and said is not None and wanted not in (None, said):
        advice = "Leave temperature out, or label again with it"
        raise MismatchError(f"{reader.path}: its labels were made with temperature={said:g}, expected {wanted:g}. {advice}")
    return float(_or(wanted, _or(said, 1.0)))


def make_student(config: TrainConfig, setup: Setup, device: torch.device) -> nn.Module:
    """Return the student with its first weights, which depend on the seed only.

    Raises
    ------
    ArgumentError, MismatchError
        If there is no such network, or it does not give logits of the classes for images of that size.
    """
    torch.manual_seed(config.seed)
    student = build_student(config.student, setup.num_classes, config.size).to(device)
    check_student(student, config.student, setup.num_classes, config.size)
    if config.weights is not None:
        load_weights(student, config.weights)
    return student


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser that a configuration asks for."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    momentum = MOMENTUM if config.momentum is None else config.momentum
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=momentum, nesterov=config.nesterov)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters with weight decay (matrices and filters) and without (biases, norms, tokens and positions)."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    fixed = {name for name, parameter in trained if parameter.ndim <= 1 or name.rpartition(".")[2] in NOT_DECAYED}
    decayed = [parameter for name, parameter in trained if name not in fixed]
    others = [parameter for name, parameter in trained if name in fixed]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def make_online_teacher(config: TrainConfig, setup: Setup, device: torch.device) -> OnlineTeacher | None:
    """Return the teacher that labels in every step, None if there is none; MismatchError if it does not fit."""
    return None if setup.teacher is None else online_teacher(setup.teacher, setup.num_classes, config.size, device)


def find_test_images(config: TrainConfig, setup: Setup) -> TestImages | None:
    """Return the validation images, with their classes; None if there are none."""
    if config.val is None:
        return None
    folders = setup.folders or class_folders(list_images(config.val))
    if len(folders) != setup.num_classes:
        raise MismatchError(unknown_classes(config.val, len(folders), setup.num_classes))
    how = {"crop": config.val_crop, "interpolation": setup.interpolation, "exif_orientation": setup.exif_orientation}
    return TestImages.of_folder(config.val, folders, config.size, **how)


def make_evaluator(config: TrainConfig, setup: Setup, device: torch.device, memory: ImageMemory) -> Evaluator | None:
    """Return what measures the student on the validation images; None if there are none."""
    images = find_test_images(config, setup)
    if images is None:
        return None
    return Evaluator(images, setup.mean, setup.std, device, workers=config.workers, memory=memory if config.in_memory else None)


def _kind(config: TrainConfig) -> str:
    kind = config.labels
    if kind not in (TRUTH, ONLINE):
        kind = {".slc": "stored", ".npz": "maps"}.get(Path(config.labels).suffix, "")
    if not kind:
        raise ArgumentError(f"labels: expected FILE.slc, FILE.npz (label maps), {TRUTH!r} or {ONLINE!r}, got {config.labels!r}")
    of_files, of_fresh = "label files", "fresh crops: those of a label file are fixed"
    foreign = {"stored_crops": of_files, "policy": of_files}
    if kind == "stored":
        foreign = dict.fromkeys(("scale", "ratio", "flip_probability"), of_fresh)
    elif kind == TRUTH:
        foreign["temperature"] = "soft labels: classes have none"
    for name, whose in foreign.items():
        if getattr(config, name) is not None:
            raise ArgumentError(f"{name}: is for {whose}, leave it out with labels={config.labels!r}")
    return kind


def _classes(config: TrainConfig, keys: Sequence[str], of_labels: int | None) -> tuple[list[str], int]:
    """Return the class folders in the order of their numbers, or none if nobody can know that order; and C."""
    known = of_labels or config.num_classes
    folders = class_folders(keys) if config.classes is None else read_class_folders(config.classes, known)
    num_classes = known or len(folders)
    if config.num_classes not in (None, num_classes):
        raise MismatchError(f"{config.labels}: expected labels of {config.num_classes} classes, got {num_classes}")
    if config.classes is not None and len(folders) != num_classes:
        raise MismatchError(f"{config.classes}: expected {counted(num_classes, 'class folder')}, got {len(folders)}")
    return (folders if len(folders) == num_classes else []), num_classes


def _class_numbers(config: TrainConfig, keys: Sequence[str], folders: Sequence[str]) -> NDArray[np.int64] | None:
    if folders:
        return classes_of(keys, folders, config.images)
    if config.truth_weight:
        raise MismatchError(f"truth_weight: needs to know the images' classes. {unknown_classes(config.images, 0, config.num_classes)}")
    return None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
