"""Prepares a run: finds labels, images and their classes, and makes the student, the teacher and the optimiser."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.evaluate import Evaluator, TestImages
from softlabel_codec.image_source import ImageSource, name_of
from softlabel_codec.images.classes import (
    class_folders,
    classes_of,
    images_sha256,
    read_class_folders,
    unknown_classes,
    warn_of_other_classes,
)
from softlabel_codec.images.files import agreed_exif_orientation
from softlabel_codec.images.sources import open_images
from softlabel_codec.images.sources.keys import unique_keys
from softlabel_codec.images.truth import targets_of
from softlabel_codec.label_maps import MappedCrops, file_sha256
from softlabel_codec.options.averaging import weights_of_each
from softlabel_codec.options.train import MAPS, MOMENTUM, OF_RANDOM_CROPS, ONLINE, STORED, TrainConfig, kind_of_labels
from softlabel_codec.padding import Padding
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students import build_student, check_student, load_weights
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.online import OnlineTeachers, Shape, teachers_sha256
from softlabel_codec.torch import ImageTurn, SoftLabelDataset
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD
from softlabel_codec.trainer.fresh import FreshCrops, LabelOf, class_labels, unknown_labels
from softlabel_codec.views import AllViews

Value = TypeVar("Value")
NOT_DECAYED = ("class_token", "cls_token", "dist_token", "pos_embed", "pos_embedding")
"""Names of tokens and positions of transformers in timm and torchvision."""


@dataclass(frozen=True)
class Setup:
    """What a run trains on.

    Attributes
    ----------
    crops : SoftLabelDataset or FreshCrops
        Images, crops and labels, and how crops are prepared: mean, std, interpolation and exif_orientation.
    classes : int64 (n,) or None
        Class of each image, if known.
    num_classes : int
        C.
    folders : list of str
        Class folders in the order of their class numbers; empty if that order is not known.
    temperature : float
        T of softmax(logits / T).
    teacher_temperature : float or None
        T of softmax(features / T), if labels are features; `temperature` is then that of the student's outputs alone.
    label_facts : dict
        What the log says about the labels. Their `fingerprint` is that of the file, of the images' classes, or of the teacher.
    images_sha256 : str
        Fingerprint of the images and their classes.
    teachers : sequence of Teacher
        The teachers that label in every step, if there are any.
    teacher_shapes : sequence of (int, str)
        Side and interpolation of the crops of each.
    """

    crops: SoftLabelDataset | FreshCrops
    classes: NDArray[np.int64] | None
    num_classes: int
    folders: list[str]
    temperature: float
    label_facts: dict[str, Any]
    images_sha256: str
    teachers: Sequence[Teacher] = ()
    teacher_shapes: Sequence[Shape] = ()
    teacher_temperature: float | None = None

    @property
    def shape(self) -> Shape:
        """Side and interpolation of the student's crops."""
        return self.crops.size, self.crops.interpolation

    @property
    def other_shapes(self) -> list[Shape]:
        """What of `teacher_shapes` the student's crops have not, each once."""
        return [shape for shape in dict.fromkeys(self.teacher_shapes) if shape != self.shape]

    @property
    def trained_on(self) -> dict[str, str]:
        """Fingerprints of labels and images. A run with the same options on others is another run."""
        return {"labels": self.label_facts["fingerprint"], "images": self.images_sha256}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are prepared for the student, in plain values."""
        how = {"interpolation": self.crops.interpolation, "exif_orientation": self.crops.exif_orientation}
        return {"mean": list(self.crops.mean), "std": list(self.crops.std), **how}


def set_up(config: TrainConfig) -> Setup:
    """Return what a run trains on, and check that its labels, images and options belong together.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If they do not.
    """
    return _set_up_stored(config) if kind_of_labels(config.labels) == STORED else _set_up_fresh(config)


def _set_up_stored(config: TrainConfig) -> Setup:
    takes_features = config.teacher_temperature is not None
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
        backend=config.backend,
        policy=config.policy,
        temperature=None if takes_features else config.temperature,
        stored_crops=config.stored_crops,
        exif_orientation=config.exif_orientation,
    )
    reader = crops.reader
    if takes_features or reader.parsed_codec.content == "features":
        return _set_up_features(config, crops)
    _warn_of_other_temperature(reader)
    classes, num_classes, folders = _classes(config, crops.source, crops.source_keys, reader.num_classes)
    if classes is not None:
        warn_of_other_classes(reader, classes)
    facts = {"labels": config.labels, "codec": reader.codec, "fingerprint": reader.fingerprint}
    return Setup(crops, classes, num_classes, folders, reader.temperature, facts, _images_sha256(crops, classes))


def _set_up_features(config: TrainConfig, crops: SoftLabelDataset) -> Setup:
    """Return what a run trains on whose student learns the features of a teacher, which are of no classes."""
    reader = crops.reader
    if reader.parsed_codec.content != "features":
        raise MismatchError(f"{config.labels}: teacher_temperature: is for labels that are features, got those of {reader.codec!r}")
    if config.teacher_temperature is None or config.temperature is None:
        asked = "--teacher-temperature T for softmax(features / T), and --temperature T for softmax(outputs of the student / T)"
        raise MismatchError(f"{config.labels}: expected probabilities or logits of classes, got features. To train on them, pass {asked}")
    for name in ("val", "classes", "truth_weight"):
        if getattr(config, name):
            advice = "leave it out, and measure the student afterwards: slcodec evaluate --knn --linear"
            raise MismatchError(f"{name}: a student of features predicts no classes: {advice}")
    reader.check_classes(config.num_classes or reader.num_classes)
    facts = {"labels": config.labels, "codec": reader.codec, "fingerprint": reader.fingerprint}
    images, teacher_temperature = _images_sha256(crops, None), config.teacher_temperature
    return Setup(crops, None, reader.num_classes, [], config.temperature, facts, images, teacher_temperature=teacher_temperature)


def _set_up_fresh(config: TrainConfig) -> Setup:
    source = open_images(config.images)
    keys = unique_keys(source.keys(), name_of(source))
    temperature = config.temperature or 1.0
    mapped = MappedCrops.load(config.labels, keys, temperature) if kind_of_labels(config.labels) == MAPS else None
    teachers = _load_teachers(config) if config.labels == ONLINE else ()
    classes, num_classes, folders = _classes(config, source, keys, None if mapped is None else mapped.maps.num_classes)
    label_of: LabelOf
    if mapped is not None:
        label_of, fingerprint = mapped, file_sha256(config.labels)
    elif teachers:
        label_of, fingerprint = partial(unknown_labels, num_classes), teachers_sha256(teachers)
    elif classes is not None:
        label_of, fingerprint = partial(class_labels, classes, num_classes), _classes_sha256(keys, classes)
    else:
        raise MismatchError(unknown_classes(config.images, len(class_folders(keys)), num_classes))
    how = {name: getattr(config, name) for name in OF_RANDOM_CROPS if getattr(config, name) is not None}
    turned = None if mapped is None else mapped.maps.exif_orientation
    crops = FreshCrops(
        keys,
        source,
        label_of,
        CropSampler(config.seed, **how) if config.all_views is None else AllViews(config.all_views, config.all_views),
        config.seed,
        Padding(config.padding or 0, config.padding_mode or "constant", config.fill or 0),
        config.crops_per_image,
        config.size,
        mean=config.mean or _common((teacher.mean for teacher in teachers), IMAGENET_MEAN),
        std=config.std or _common((teacher.std for teacher in teachers), IMAGENET_STD),
        interpolation=config.interpolation or _common((teacher.interpolation for teacher in teachers), "bilinear"),
        exif_orientation=agreed_exif_orientation(config.exif_orientation, turned, config.labels),
        backend=config.backend,
    )
    if config.all_views is not None:
        crops.labels_of([ImageTurn(0, 0)])  # an image that has no such views is an error before anything is trained
    facts = {"labels": config.labels, "fingerprint": fingerprint}
    setup = Setup(crops, classes, num_classes, folders, temperature, facts, _images_sha256(crops, classes), teachers)
    if len(teachers) == 1:  # it sees what the student sees, if nothing else is said
        setup = replace(setup, teacher_shapes=[(config.teacher_size or config.size, crops.interpolation)])
    elif teachers:
        setup = replace(setup, teacher_shapes=[(teacher.input_size, teacher.interpolation) for teacher in teachers])
    if setup.other_shapes and config.backend != "pillow":
        raise ArgumentError(f"backend: expected 'pillow' with a teacher that sees crops of another kind, got {config.backend!r}")
    crops.others = setup.other_shapes
    return setup


def _classes(
    config: TrainConfig, source: ImageSource, keys: Sequence[str], of_labels: int | None
) -> tuple[NDArray[np.int64] | None, int, list[str]]:
    """Return the class of each image, the number of classes, and the class folders in the order of their numbers.

    If that order is not known, the first is None and the last empty.
    """
    known = of_labels or config.num_classes
    targets = targets_of(source, keys, known) if config.classes is None else None
    folders = class_folders(keys) if config.classes is None else read_class_folders(config.classes, known)
    num_classes = known or (len(folders) if targets is None else int(targets.max()) + 1)
    if config.num_classes not in (None, num_classes):
        raise MismatchError(f"{config.labels}: expected labels of {config.num_classes} classes, got {num_classes}")
    if targets is not None:
        return targets, num_classes, []
    if folders and len(folders) == num_classes:
        return classes_of(keys, folders, config.images), num_classes, folders
    if config.classes is not None:
        raise MismatchError(f"{config.classes}: expected {counted(num_classes, 'class folder')}, got {len(folders)}")
    if config.truth_weight:
        raise MismatchError(f"truth_weight: needs the classes of the images. {unknown_classes(config.images, len(folders), num_classes)}")
    return None, num_classes, []


def _warn_of_other_temperature(reader: SoftLabelReader) -> None:
    """Warn if labels are learnt at another temperature than that for which their codec was chosen, unless they are exact at any."""
    if reader.approximated:
        chosen = f"{reader.path}: {reader.codec!r} was chosen for labels at temperature {reader.stored_temperature or 1.0:g}"
        advice = "See how near they are to those of 'dense': slcodec stats DENSE --against LABELS"
        warnings.warn(f"{chosen}; at {reader.temperature:g} they may be much further from the teacher's. {advice}", stacklevel=2)


def _load_teachers(config: TrainConfig) -> list[Teacher]:
    of_each = zip(config.teachers, weights_of_each(config.teachers, config.teacher_weights), strict=True)
    output = config.teacher_output or "logits"
    return [load_teacher(text, weights=own, num_classes=config.num_classes, output=output) for text, own in of_each]


def _common(values: Iterable[Value], usual: Value) -> Value:
    """Return the value that all have, or else the usual one."""
    found = set(values)
    return found.pop() if len(found) == 1 else usual


def _classes_sha256(keys: Sequence[str], classes: NDArray[np.int64]) -> str:
    return keys_sha256(f"{number} {key}".encode() for number, key in zip(classes.tolist(), keys, strict=True))


def _images_sha256(crops: SoftLabelDataset | FreshCrops, classes: NDArray[np.int64] | None) -> str:
    return images_sha256(crops.source, crops.source_keys, classes)


def make_student(config: TrainConfig, setup: Setup, device: torch.device) -> nn.Module:
    """Return the student before training. Its new weights depend on the seed only.

    Raises
    ------
    ArgumentError, MismatchError
        If there is no such network, or it does not return logits of the classes for images of that size.
    """
    torch.manual_seed(config.seed)
    student = build_student(config.student, setup.num_classes, config.size).to(device)
    check_student(student, config.student, setup.num_classes, config.size)
    if config.weights is not None:
        load_weights(student, config.weights)
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a run."""
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


def make_online_teachers(config: TrainConfig, setup: Setup, device: torch.device) -> OnlineTeachers | None:
    """Return the teachers that label in every step, or None if there are none; MismatchError if they do not fit the labels."""
    if not setup.teachers:
        return None
    how = (config.shares, config.average or "probs", setup.temperature, setup.num_classes, device)
    return OnlineTeachers(setup.teachers, setup.teacher_shapes, *how)


def find_test_images(config: TrainConfig, setup: Setup) -> TestImages | None:
    """Return the validation images with their classes, or None if there are none."""
    if config.val is None:
        return None
    stated = None if config.classes is None else setup.folders
    how = {"interpolation": setup.crops.interpolation, "exif_orientation": setup.crops.exif_orientation}
    return TestImages.of(config.val, stated, setup.folders, setup.num_classes, config.size, crop=config.val_crop, **how)


def make_evaluator(config: TrainConfig, setup: Setup, device: torch.device, memory: ImageMemory) -> Evaluator | None:
    """Return what measures the student on the validation images, or None if there are none."""
    images = find_test_images(config, setup)
    if images is None:
        return None
    kept = memory if config.in_memory else None
    return Evaluator(images, setup.crops.mean, setup.crops.std, device, workers=config.workers, memory=kept)
