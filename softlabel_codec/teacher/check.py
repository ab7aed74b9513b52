"""`check_labels`: whether a label file, images and a teacher belong together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import MismatchError, StateError
from softlabel_codec.options.averaging import texts_of, weights_of_each
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.averaging import mean_logits, mean_probs
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.stored import teachers_with_shares
from softlabel_codec.torch.check import TeacherCheck, check_against_teacher
from softlabel_codec.torch.collate import collate_crops
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.pixels import Triple, as_std, as_triple, normalize
from softlabel_codec.torch.workers import end_with_main, workers_watched

CROPS_PER_IMAGE = 4
IMAGES_AT_A_TIME = 8
_SMALLEST = 1e-37
"""In place of a probability of 0, which has no logarithm."""


@dataclass(frozen=True)
class LabelsCheck:
    """The result of checking a label file.

    Attributes
    ----------
    path : str
        The file.
    teacher : str
        Name of the teacher; of several, all names.
    num_images : int
        Images that were checked.
    same_weights : bool or None
        Whether the weights of all teachers are those that the file names; None if it names none of one.
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
    teacher: str | Sequence[str],
    *,
    teacher_weights: str | os.PathLike[str] | Sequence[str] | None = None,
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
    teacher : str, or sequence of str
        As for `load_teacher`; all teachers, in their order, if the labels are an average. Whether they return logits or probabilities, and
        their shares, are what the file says.
    teacher_weights : path, or sequence of str, optional
        As for `load_teacher`; of several teachers, for each that is a network of a library.
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
        If they cannot be compared at all: labels are features, images are missing or have another size, numbers of classes or of teachers
        differ, the file is not sound, ...
    """
    check_whole("sample", sample, 1)
    teachers = texts_of("teacher", teacher)
    with SoftLabelReader(labels) as reader:
        chosen = np.unique(np.linspace(0, len(reader) - 1, min(sample, len(reader))).astype(np.int64))
        keys = [reader.keys[number] for number in chosen.tolist()]
        num_classes = reader.num_classes
        if reader.parsed_codec.content == "features":
            raise StateError(f"{reader.path}: expected labels of classes, got features, which say of no class how probable it is")
        fewest = int(reader.num_crops[chosen].min(initial=CROPS_PER_IMAGE))
        output = str(reader.metadata.get("teacher_output", "logits"))
        said, average = _teachers_of(reader, len(teachers))
        made_at = reader.temperature if temperature is None else temperature
    of_each = zip(teachers, weights_of_each(teachers, teacher_weights), strict=True)
    loaded = [
        load_teacher(one, weights=own, num_classes=num_classes, output=str(known.get("teacher_output", output)))
        for (one, own), known in zip(of_each, said, strict=True)
    ]
    crops = [
        _Crops(
            known.get("size", one.input_size),
            known.get("interpolation", one.interpolation),
            as_triple("mean", known.get("mean", one.mean)),
            as_std(known.get("std", one.std)),
        )
        for one, known in zip(loaded, said, strict=True)
    ]
    loaders = [_loader(images, labels, keys, fewest, each, workers) for each in crops]
    model = loaded[0].logits
    if len(loaded) > 1:
        model = _Together(loaded, loaders, crops, [float(known["share"]) for known in said], average, made_at)
    with workers_watched():
        found = check_against_teacher(
            loaders[0],
            model.to(device_by_name(device)),
            None,
            teacher_mean=crops[0].mean,
            teacher_std=crops[0].std,
            temperature=temperature,
            progress=progress,
        )
    return LabelsCheck(str(labels), " + ".join(one.name for one in loaded), len(keys), _same_weights(loaded, said), found)


class _Crops(NamedTuple):
    """How crops are prepared for a teacher."""

    size: int
    interpolation: str
    mean: Triple
    std: Triple


def _loader(
    images: Any, labels: str | os.PathLike[str], keys: Sequence[str], crops_per_image: int, crops: _Crops, workers: int
) -> DataLoader[Any]:
    dataset = SoftLabelDataset(images, labels, crops_per_image, crops.size, interpolation=crops.interpolation, normalized=False, keys=keys)
    return DataLoader(dataset, IMAGES_AT_A_TIME, collate_fn=collate_crops, num_workers=workers, worker_init_fn=end_with_main)


def _same_weights(teachers: Sequence[Teacher], said: Sequence[dict[str, Any]]) -> bool | None:
    """Return whether teachers have the weights that a file names; None if it names none of one."""
    named = [known.get("weights_sha256") for known in said]
    if None in named:
        return None
    return all(one == weights_sha256(teacher.model) for one, teacher in zip(named, teachers, strict=True))


def _teachers_of(reader: SoftLabelReader, given: int) -> tuple[list[dict[str, Any]], str]:
    """Return what a file says of each of its teachers, and of the preparation of its crops, and what of them is averaged.

    Raises
    ------
    MismatchError
        If it has other teachers than so many, does not say their shares, or its labels are an average of averages.
    """
    teacher, prepared = _map(reader.metadata.get("teacher")), _map(reader.metadata.get("preprocessing"))
    each = teacher.get("teachers")
    if not isinstance(each, list) or not each:
        each = [{**teacher, **prepared}]
    if any("teachers" in _map(one) for one in each):
        what = "labels that are averaged with an average of logits cannot be checked; check those that they were made of"
        raise MismatchError(f"{reader.path}: {what}")
    if len(each) > 1 and not teachers_with_shares(teacher):
        what = f"its metadata name {counted(len(each), 'teacher')}, but not the share of each in their average, so it cannot be checked"
        raise MismatchError(f"{reader.path}: {what}")
    if len(each) != given:
        names = ", ".join(str(_map(one).get("name", "unknown")) for one in each)
        what = f"expected {counted(len(each), 'teacher')}, in this order: {names}; got {given}"
        raise MismatchError(f"{reader.path}: {what}. Pass each of them (--teacher)")
    return [_map(one) for one in each], str(teacher.get("average", "probs"))


class _Together(nn.Module):
    """Several teachers, of which each sees the same crops as its own loader cuts them.

    What goes in are batches of the first one's loader, in order, normalised for it; the others are taken from their own.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        loaders: Sequence[DataLoader[Any]],
        crops: Sequence[_Crops],
        shares: Sequence[float],
        average: str,
        temperature: float,
    ) -> None:
        super().__init__()
        self._models = nn.ModuleList(teacher.logits for teacher in teachers)
        self._others = [(iter(loader), each) for loader, each in zip(loaders[1:], crops[1:], strict=True)]
        self._shares, self._average, self._temperature = shares, average, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C): those whose softmax(logits / T) is the average."""
        others = [normalize(next(batches)[0].to(images.device), each.mean, each.std) for batches, each in self._others]
        outputs = [model(pixels) for model, pixels in zip(self._models, [images, *others], strict=True)]
        logits = [getattr(output, "logits", output).float() for output in outputs]
        if len({one.shape for one in logits}) > 1:
            found = ", ".join(str(one.shape[1]) for one in logits)
            raise MismatchError(f"teachers: expected the same number of classes of all, got {found}")
        if self._average == "logits":
            return mean_logits(logits, self._shares)
        probs = mean_probs(logits, self._shares, self._average, self._temperature)
        return probs.clamp(min=_SMALLEST).log() * self._temperature


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
