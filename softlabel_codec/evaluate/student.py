"""Loads a finished student from its run's folder or a file of weights, and evaluates it on an image folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.evaluate.evaluator import Evaluation, Evaluator, TestImages
from softlabel_codec.images.classes import read_class_folders
from softlabel_codec.students import build_student, check_student, network_state, read_weights, take_weights
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.students.weights import SHA256, is_checkpoint, read_about, weights_sha256
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD

_HOW = ("size", "mean", "std", "interpolation", "exif_orientation", "crop", "folders", "output")
"""Attributes of a `Student` that are stored in the files of its run."""
_NORMALISATION = f"--mean and --std (ImageNet's are {' '.join(map(str, IMAGENET_MEAN))} and {' '.join(map(str, IMAGENET_STD))})"


@dataclass(frozen=True)
class Student:
    """A trained network and how its images are prepared.

    Attributes
    ----------
    model : nn.Module
        The network: images (B, 3, size, size) to logits (B, C).
    num_classes : int
        C.
    size : int
        Side of its images in pixels.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    interpolation, exif_orientation : str
        How images are scaled, and turned.
    crop : float
        Part of the shorter side that test images are cropped to.
    folders : list of str
        Class folders in the order of their numbers, empty strings where there are none; an empty list if unknown.
    output : str
        What it returns: `logits` of classes, or `features`, as its self-supervised teacher does.
    """

    model: nn.Module
    num_classes: int
    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    exif_orientation: str = "ignored"
    crop: float = 0.875
    folders: list[str] = field(default_factory=list)
    output: str = "logits"


def load_student(path: str | os.PathLike[str], name: str | None = None, num_classes: int | None = None, **how: Any) -> Student:
    """Return the student of a run of the trainer, which is fully described by its files, or one in another `state_dict`.

    Parameters
    ----------
    path : path
        `checkpoint.pt` or `weights.pt` of a run, the latter with its `weights.json` beside it; or other weights.
    name : str, optional
        As for `build_student`; by default that of the run.
    num_classes : int, optional
        Likewise.
    **how
        Attributes of the `Student` that differ from the run's, or are not stored.

    Raises
    ------
    ArgumentError
        If the weights are not from a run, and name, number of classes, mean and standard deviation are not given.
    CorruptError
        If the file cannot be read without running code.
    MismatchError
        If the weights are those of another network, or not those that `weights.json` describes.
    """
    state = read_weights(path)
    known = state["about"] if is_checkpoint(state) else read_about(path) or {}
    name, num_classes = name or known.get("student"), num_classes or known.get("num_classes")
    if name is None or num_classes is None:
        raise ArgumentError(f"{path}: holds weights only: pass the --student that they belong to, and its --num-classes")
    how = {**{key: known[key] for key in _HOW if key in known}, **how}
    if not how.keys() >= {"mean", "std"}:
        raise ArgumentError(f"{path}: holds weights only: pass the normalisation of their images: {_NORMALISATION}")
    size = how.get("size", Student.size)
    model = build_student(name, num_classes, size)
    check_student(model, name, num_classes, size)
    take_weights(model, network_state(state), path)
    if SHA256 in known and weights_sha256(model) != known[SHA256]:
        raise MismatchError(f"{path}: not the weights that the .json file beside them describes. Remove or replace one of them")
    return Student(model, num_classes, **how)


def evaluate(
    student: Student,
    images: Any,
    *,
    classes: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Return the results of a student on images of known classes.

    Parameters
    ----------
    student : Student
        What to measure.
    images : path, mapping, array, dataset or ImageSource
        The images, as for `softlabel_codec.images.open_images`: a folder `CLASS/NAME`, or others of known class numbers. If the student
        was trained with other folder names, decimal names are taken as class numbers, as in ImageNetV2.
    classes : path, optional
        File with the numbers of the class folders: see `read_class_folders`.
    real : path, optional
        JSON file of ImageNet ReaL.
    batch_size, workers, device
        As for `TrainConfig`.

    Raises
    ------
    ArgumentError
        If there are no images, or the device cannot be used.
    MismatchError
        If the student predicts no classes; an image lies in none of the class folders; or if neither student nor `classes` gives the
        numbers of the class folders, and there are not as many as the network has classes.
    """
    if student.output != "logits":
        advice = "Evaluate its features: evaluate_frozen in Python, or --knn and --linear"
        raise MismatchError(f"student: expected one of classes, got one of {student.output}. {advice}")
    where = device_by_name(device)
    stated = None if classes is None else read_class_folders(classes, student.num_classes)
    how = {"crop": student.crop, "interpolation": student.interpolation, "exif_orientation": student.exif_orientation}
    found = TestImages.of(images, stated, student.folders, student.num_classes, student.size, **how)
    model = student.model.to(where)
    return Evaluator(found, student.mean, student.std, where, batch_size=batch_size, workers=workers, real=real).measure(model)
