"""`check_labels`: whether a label file, images and a teacher belong together."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import StateError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.load import load_teacher
from softlabel_codec.torch.check import TeacherCheck, check_against_teacher
from softlabel_codec.torch.collate import collate_crops
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.workers import end_with_main, workers_watched

CROPS_PER_IMAGE = 4
IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class LabelsCheck:
    """The result of checking a label file.

    Attributes
    ----------
    path : str
        The file.
    teacher : str
        Name of the teacher.
    num_images : int
        Images that were checked.
    same_weights : bool or None
        Whether the teacher's weights are those that the file names; None if it names none.
    found : TeacherCheck
        The teacher's output for crops of these images, compared with the labels.
    """

    path: str
    teacher: str
    num_images: int
    same_weights: bool | None
    found: TeacherCheck


def check_labels(
    labels: str | os.PathLike[str],
    images: Any,
    teacher: str,
    *,
    teacher_weights: str | os.PathLike[str] | None = None,
    sample: int = 100,
    temperature: float | None = None,
    device: str = "auto",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LabelsCheck:
    """Run a teacher on stored crops of some images of a label file, and compare.

    Crops are prepared as the file says, otherwise as the teacher expects.

    Parameters
    ----------
    labels : path
        The file; or a label set, its folder or its index.
    images : path, mapping, array, dataset or ImageSource
        The labelled images, as for `softlabel_codec.images.open_images`.
    teacher : str
        As for `load_teacher`. Whether it returns logits or probabilities is what the file says.
    teacher_weights : path, optional
        As for `load_teacher`.
    sample : int
        Number of images to check, evenly spread over the file.
    temperature : float, optional
        As for `check_against_teacher`.
    device : str
        `auto`, `cpu`, `cuda`, `cuda:1`, ...
    workers : int
        Worker processes that decode and crop images; 0: this process does it.
    progress : callable, optional
        Called with the number of batches done and in all.

    Raises
    ------
    ArgumentError, MismatchError, FormatError, StateError
        If they cannot be compared at all: labels are features, images are missing or have another size, numbers of classes differ, the
        file is not sound, ...
    """
    check_whole("sample", sample, 1)
    with SoftLabelReader(labels) as reader:
        chosen = np.unique(np.linspace(0, len(reader) - 1, min(sample, len(reader))).astype(np.int64))
        keys = [reader.keys[number] for number in chosen.tolist()]
        num_classes = reader.num_classes
        if reader.parsed_codec.content == "features":
            raise StateError(f"{reader.path}: expected labels of classes, got features, which say of no class how probable it is")
        fewest = int(reader.num_crops[chosen].min(initial=CROPS_PER_IMAGE))
        output = str(reader.metadata.get("teacher_output", "logits"))
        said, made_by = _map(reader.metadata.get("preprocessing")), _map(reader.metadata.get("teacher")).get("weights_sha256")
    loaded = load_teacher(teacher, weights=teacher_weights, num_classes=num_classes, output=output)
    dataset = SoftLabelDataset(
        images,
        labels,
        fewest,
        said.get("size", loaded.input_size),
        interpolation=said.get("interpolation", loaded.interpolation),
        normalized=False,
        keys=keys,
    )
    loader = DataLoader(dataset, IMAGES_AT_A_TIME, collate_fn=collate_crops, num_workers=workers, worker_init_fn=end_with_main)
    same_weights = None if made_by is None else made_by == weights_sha256(loaded.model)
    expected = {"teacher_mean": said.get("mean", loaded.mean), "teacher_std": said.get("std", loaded.std), "temperature": temperature}
    model = loaded.logits.to(device_by_name(device))
    with workers_watched():
        found = check_against_teacher(loader, model, None, **expected, progress=progress)
    return LabelsCheck(str(labels), loaded.name, len(keys), same_weights, found)


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
