"""A teacher on its device: from batches of crops to labels, and from the labels of an image to the writer."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.quantise.selection import SUM_TOLERANCE
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.teacher.batches import CutRun
from softlabel_codec.teacher.load import Teacher
from softlabel_codec.teacher.outputs import as_logits, check_output, noise
from softlabel_codec.torch.pixels import normalize
from softlabel_codec.torch.workers import is_killed_worker
from softlabel_codec.writer import SoftLabelWriter

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LabelledImage:
    """Crops of one image that have been through the teacher."""

    runs: list[CutRun] = field(default_factory=list)
    labels: list[dict[str, np.ndarray[Any, Any]]] = field(default_factory=list)

    def add_to(self, writer: SoftLabelWriter, key: str, store_crops: bool) -> None:
        """Add the labels to a writer; see `arguments`."""
        writer.add(key, **self.arguments(key, store_crops))

    def arguments(self, key: str, with_crops: bool) -> dict[str, Any]:
        """Return what a writer's `add` takes; MismatchError if the image was replaced between two batches."""
        first = self.runs[0]
        if any((run.size, run.crc32) != (first.size, first.crc32) for run in self.runs):
            raise MismatchError(f"image {key!r}: was replaced while its crops were being labelled. Run the same command again")
        names = [name for name in self.labels[0] if name != "left_out"]
        joined: dict[str, Any] = {name: np.concatenate([part[name] for part in self.labels]) for name in names}
        if "left_out" in self.labels[0]:
            joined["left_out"] = np.sum([part["left_out"] for part in self.labels], axis=0)
        if with_crops:
            joined |= {name: np.concatenate([getattr(run, name) for run in self.runs]) for name in ("crops", "flips")}
        return {"image_size": first.size, "image_crc32": first.crc32, **joined}


class TeacherRun:
    """A teacher on its device, ready to label batches."""

    def __init__(self, teacher: Teacher, config: EncodeConfig, codec: Codec) -> None:
        self.device = device_by_name(device_of_rank(config.device))
        self.on_cuda = self.device.type == "cuda"
        use_gpu(self.device)
        self.precision = ("float16" if self.on_cuda else "float32") if config.precision == "auto" else config.precision
        self.batch_size = config.batch_size or (16 if self.device.type == "cpu" else 256)
        self.size = config.size or teacher.input_size
        self.mean, self.std = config.mean or teacher.mean, config.std or teacher.std
        self.interpolation = config.interpolation or teacher.interpolation
        self._model, self._name, self._output = teacher.model.to(self.device), teacher.name, teacher.output
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast
        self._codec, self._temperature, self._store_crops = codec, config.temperature, config.store_crops
        self.num_classes = config.num_classes or 0
        with _reproducible(), torch.inference_mode():
            probe = self._forward(noise(self.size))
        self.num_classes = self._check(probe, 2, config.num_classes)
        check_output(probe, self._output, self._name)

    def with_codec(self, codec: Codec) -> TeacherRun:
        """Return the same, for labels that are stored in another codec."""
        other = copy.copy(self)
        other._codec = codec
        return other

    def for_codec(self, labelled: LabelledImage) -> LabelledImage:
        """Return the labels of an image, which are probabilities, as this gives them for its codec."""
        if not self._sends_less:
            return labelled
        probs = (torch.from_numpy(labels["probs"]).to(self.device) for labels in labelled.labels)
        return LabelledImage(labelled.runs, [_to_numpy(device_labels(part, self._codec)) for part in probs])

    def label(self, batches: Any) -> Iterator[tuple[list[CutRun], list[dict[str, np.ndarray[Any, Any]]]]]:
        """Yield the runs of each batch and their labels, one batch behind: the device works while the labels before are stored."""
        behind: tuple[list[CutRun], list[dict[str, Tensor]]] | None = None
        with _reproducible(), torch.inference_mode():
            for pixels, runs in batches:
                ahead = runs, self._label_pixels(pixels, [len(run.flips) for run in runs])
                if behind is not None:
                    yield behind[0], [_to_numpy(labels) for labels in behind[1]]
                behind = ahead
            if behind is not None:
                yield behind[0], [_to_numpy(labels) for labels in behind[1]]

    def store(self, labelled: LabelledImage, writer: SoftLabelWriter, key: str) -> None:
        """Add an image's labels to the file."""
        try:
            labelled.add_to(writer, key, self._store_crops)
        except ArgumentError as error:
            advice = ". It was said to return probabilities (teacher_output)" if self._output == "probs" else ""
            raise MismatchError(f"teacher {self._name}: its output cannot be stored as labels: {error}{advice}") from None

    def _label_pixels(self, pixels: Tensor, lengths: list[int]) -> list[dict[str, Tensor]]:
        """Return the labels of runs of crops of these lengths; none of a run without crops."""
        if not len(pixels):
            return [{} for _ in lengths]
        output = self._forward(pixels)
        self._check(output, len(pixels), self.num_classes)
        return [self._labels(part) if len(part) else {} for part in torch.split(as_logits(output, self._output), lengths)]

    def _labels(self, logits: Tensor) -> dict[str, Tensor]:
        if self._codec.content != "probs":
            return {"vectors": logits}
        probs = torch.softmax(logits / self._temperature, dim=1)
        return device_labels(probs, self._codec) if self._sends_less else {"probs": probs}

    @property
    def _sends_less(self) -> bool:
        """Whether labels are made smaller on the device."""
        return self.on_cuda and self._codec.family == "sparse" and self._codec.gain is None

    def _forward(self, pixels: Tensor) -> Tensor:
        """Return the teacher's output for crops: logits, probabilities or features."""
        images = normalize(pixels.to(self.device, non_blocking=True), self.mean, self.std).contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(self.device.type, _AUTOCAST.get(self.precision), enabled=self.precision != "float32"):
                output = self._model(images)
        except Exception as error:
            if is_killed_worker(error):
                raise
            what = f"failed on {counted(len(pixels), 'crop')} of {self.size} x {self.size} pixels with {type(error).__name__}: {error}"
            raise MismatchError(f"teacher {self._name}: {what}") from error
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            raise MismatchError(f"teacher {self._name}: expected {self._output} as a tensor (B, C), got {type(output).__name__}")
        return logits

    def _check(self, logits: Tensor, batch: int, num_classes: int | None) -> int:
        if logits.ndim != 2 or len(logits) != batch or not logits.is_floating_point():
            expected = f"expected float {self._output} of shape ({batch}, C) for {counted(batch, 'crop')}"
            raise MismatchError(f"teacher {self._name}: {expected}, got {logits.dtype} of shape {tuple(logits.shape)}")
        if num_classes and logits.shape[1] != num_classes:
            raise MismatchError(f"teacher {self._name}: expected {num_classes} classes, got {logits.shape[1]}")
        return int(logits.shape[1])


def device_labels(probs: Tensor, codec: Codec) -> dict[str, Tensor]:
    """Return what a sparse codec may keep of the probabilities (n, C) of crops of one image.

    `indices` and `values` (n, K) are the classes that it may keep, most probable first, equal ones by class, and `others` (n,) what all
    others have; with a tail, `left_out` (C,) is what the crops leave out. Runs on the device of `probs`, so that only a few numbers per
    crop are copied; but a tail of means of logarithms takes all of `probs`.
    """
    if codec.mean == "log":
        return {"probs": probs}
    kept = codec.kept_classes
    if kept is None:  # more classes cannot reach the threshold
        kept = min(int((1 + SUM_TOLERANCE) / (codec.t or 1)) + 1, probs.shape[1])
    values, classes = probs.sort(dim=1, descending=True, stable=True)
    others = values[:, kept:].sum(dim=1, dtype=torch.float64)
    values, classes = values[:, :kept], classes[:, :kept]
    labels = {"indices": classes.int(), "values": values, "others": others}
    if codec.tail:
        chosen = values if codec.t is None else torch.where(values >= codec.t, values, 0.0)
        chosen[:, 0] = values[:, 0]
        left_out = probs.sum(dim=0, dtype=torch.float64).scatter_add_(0, classes.reshape(-1), -chosen.double().reshape(-1))
        labels["left_out"] = left_out.clamp_(min=0)
    return labels


def _to_numpy(labels: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in labels.items()}


def device_of_rank(name: str) -> str:
    """Return the device of this process: if torchrun started it beside others and any GPU will do, the one of its rank on this machine."""
    rank = int(os.environ.get("LOCAL_RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0
    if name not in ("auto", "cuda") or not rank or not torch.cuda.is_available():
        return name
    return f"cuda:{rank % torch.cuda.device_count()}"


def use_gpu(device: torch.device) -> None:
    """Make a GPU that was named by its number the usual one of this process, which would else take memory of the first GPU too."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Stop cuDNN from choosing algorithms by measured time, so that labels are reproducible."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
