"""A finished student, out of its run's folder or a file of weights, and what it is worth on an image folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.evaluate.evaluator import Evaluation, Evaluator, TestImages
from softlabel_codec.images.classes import class_folders, read_class_folders, unknown_classes
from softlabel_codec.images.files import list_images
from softlabel_codec.students import build_student, check_student, network_state, read_weights, take_weights
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.students.weights import SHA256, is_checkpoint, read_about, weights_sha256
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD

_HOW = ("size", "mean", "std", "interpolation", "exif_orientation", "crop", "folders")
"""Attributes of a `Student` that the files of its run know."""
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
        Class folders in the order of their numbers, empty texts where there are none; empty if nobody knows them.
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


def load_student(path: str | os.PathLike[str], name: str | None = None, num_classes: int | None = None, **how: Any) -> Student:
    """Return the student of a run of the trainer, whose files say everything about it, or one in a `state_dict` from elsewhere.

    Parameters
    ----------
    path : path
        `checkpoint.pt` or `weights.pt` of a run, the latter with its `weights.json` beside it; or other weights.
    name : str, optional
        As for `build_student`; by default what the run says.
    num_classes : int, optional
        Likewise.
    **how
        Attributes of the `Student` that differ from the run's, or are not known.

    Raises
    ------
    ArgumentError
        If the weights are from elsewhere, and name, number of classes, mean and deviation of the images are not given.
    CorruptError
        If the file cannot be read without running code.
    MismatchError
        If the weights are those of another network, or others than `weights.json` speaks of.
    """
    state, known = read_weights(path), read_about(path) or {}
    if is_checkpoint(state):
        about = {name: state["config"][option] for name, option in (("student", "student"), ("size", "size"), ("crop", "val_crop"))}
        known = {**about, **state["preprocessing"], "num_classes": state["num_classes"], "folders": state["folders"]}
        state = state["average"] or state["model"]
    else:
        state = network_state(state)
    name, num_classes = name or known.get("student"), num_classes or known.get("num_classes")
    if name is None or num_classes is None:
        raise ArgumentError(f"{path}: holds weights only: say which --student they are of, and its --num-classes")
    how = {**{key: known[key] for key in _HOW if key in known}, **how}
    if not how.keys() >= {"mean", "std"}:
        raise ArgumentError(f"{path}: holds weights only: say how images are normalised for them: {_NORMALISATION}")
    size = how.get("size", Student.size)
    model = build_student(name, num_classes, size)
    check_student(model, name, num_classes, size)
    take_weights(model, state, path)
    if SHA256 in known and weights_sha256(model) != known[SHA256]:
        raise MismatchError(f"{path}: are not the weights of which the .json file beside them speaks. Remove or replace one of them")
    return Student(model, num_classes, **how)


def evaluate(
    student: Student,
    folder: str | os.PathLike[str],
    *,
    classes: str | os.PathLike[str] | None = None,
    real: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Return how good a student is on a folder of images, `CLASS/NAME`.

    Parameters
    ----------
    student : Student
        What to measure.
    folder : path
        The images. Class folders with decimal names are taken for class numbers, as in ImageNetV2, where the student knows other names.
    classes : path, optional
        File that says which class folder has which number: see `read_class_folders`.
    real : path, optional
        JSON file of ImageNet ReaL.
    batch_size, workers, device
        As for `TrainConfig`.

    Raises
    ------
    ArgumentError
        If there are no images, or the device cannot be used.
    MismatchError
        If an image lies in none of the class folders; or neither student nor `classes` says which class folder has which number, and
        there are not as many as the network has classes.
    """
    where = device_by_name(device)
    known = read_class_folders(classes, student.num_classes) if classes is not None else student.folders
    folders = known or _guessed(folder, student.num_classes)
    how = {"crop": student.crop, "interpolation": student.interpolation, "exif_orientation": student.exif_orientation}
    images = TestImages.of_folder(folder, folders, student.size, **how)
    model = student.model.to(where)
    return Evaluator(images, student.mean, student.std, where, batch_size=batch_size, workers=workers, real=real).measure(model)


def _guessed(folder: str | os.PathLike[str], num_classes: int) -> list[str]:
    """Return the class folders there, if they can be all that the student was trained on: then they are numbered as in training."""
    found = class_folders(list_images(folder))
    if len(found) != num_classes:
        raise MismatchError(unknown_classes(folder, len(found), num_classes))
    return found
