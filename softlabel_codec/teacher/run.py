"""Teachers on their devices: from batches of crops to labels, and from the labels of an image to the writer."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.padding import Padding
from softlabel_codec.quantise.selection import SUM_TOLERANCE
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.teacher.averaging import mean_logits, mean_probs
from softlabel_codec.teacher.batches import CutRun
from softlabel_codec.teacher.load import Teacher
from softlabel_codec.teacher.member import Member, check_same_classes
from softlabel_codec.torch.fitting import add_fields
from softlabel_codec.writer import SoftLabelWriter

FIELDS_AT_ONCE, NUMBERS_AT_ONCE = 256, 2**27
"""Images whose fields are fitted together: fewer if they have more probabilities than that, which are kept on the device (512 MiB)."""


@dataclass
class LabelledImage:
    """Crops of one image that have been through the teacher."""

    runs: list[CutRun] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)

    def arguments(self, key: str, with_crops: bool) -> dict[str, Any]:
        """Return what a writer's `add` takes; MismatchError if the image was replaced between two batches. Tensors stay tensors."""
        first = self.runs[0]
        if any((run.size, run.crc32) != (first.size, first.crc32) for run in self.runs):
            raise MismatchError(f"image {key!r}: was replaced while its crops were being labelled. Run the same command again")
        names = [name for name in self.labels[0] if name != "left_out"]
        join: Any = torch.cat if isinstance(self.labels[0].get("probs"), Tensor) else np.concatenate
        joined: dict[str, Any] = {name: join([part[name] for part in self.labels]) for name in names}
        if "left_out" in self.labels[0]:
            joined["left_out"] = np.sum([part["left_out"] for part in self.labels], axis=0)
        if with_crops:
            joined |= {name: np.concatenate([getattr(run, name) for run in self.runs]) for name in ("crops", "flips")}
        return {"image_size": first.size, "image_crc32": first.crc32, **joined}


class TeacherRun:
    """One teacher or several on their devices, ready to label batches.

    Attributes
    ----------
    members : list of Member
        The teachers.
    name : str
        Their names.
    precision : str
        Their arithmetic.
    batch_size : int
        Crops of a batch.
    num_classes : int
        C.
    """

    def __init__(self, teachers: Sequence[Teacher], config: EncodeConfig, codec: Codec) -> None:
        devices = [device_by_name(device_of_rank(name)) for name in config.devices]
        if len({device.type for device in devices}) > 1:
            raise ArgumentError(f"device: expected devices of one kind, got {config.device!r}")
        self.device = devices[0]
        self.on_cuda = self.device.type == "cuda"
        use_gpu(self.device)
        self.precision = ("float16" if self.on_cuda else "float32") if config.precision == "auto" else config.precision
        self.batch_size = config.batch_size or (16 if self.device.type == "cpu" else 256)
        self._codec, self._temperature, self._store_crops = codec, config.temperature, config.store_crops
        self._shares, self._average, self._stored_share = config.shares, config.average, config.stored_share
        placed = zip(teachers, devices if len(devices) > 1 else devices * len(teachers), strict=True)
        with _reproducible(), torch.inference_mode():
            how: dict[str, Any] = {"size": config.size, "interpolation": config.interpolation, "mean": config.mean, "std": config.std}
            self.members = [Member(teacher, device, self.precision, config.num_classes, **how) for teacher, device in placed]
        self.num_classes = check_same_classes(self.members)
        self.name, self._output = " + ".join(teacher.name for teacher in teachers), teachers[0].output
        self._without_numbers: set[str] = set()
        self._shapes = list(dict.fromkeys((member.size, member.interpolation) for member in self.members))

    def cutters(self, exif_orientation: str, padding: Padding) -> list[Cutter]:
        """Return what cuts crops for the teachers: one cutter for all that want them alike."""
        return [Cutter(*shape, exif_orientation, padding=padding) for shape in self._shapes]

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

    def label(self, batches: Any) -> Iterator[tuple[list[CutRun], Sequence[dict[str, Any]]]]:
        """Yield the runs of each batch and their labels, one batch behind: the device works while the labels before are stored."""
        behind: tuple[list[CutRun], list[dict[str, Tensor]], list[Tensor]] | None = None
        with _reproducible(), torch.inference_mode():
            for pixels, runs in batches:
                ahead = [replace(run, stored=None) for run in runs], *self._label_pixels(pixels, runs)
                if behind is not None:
                    yield behind[0], self._labels_here(*behind[1:])
                behind = ahead
            if behind is not None:
                yield behind[0], self._labels_here(*behind[1:])

    def images_at_once(self, crops_per_image: int) -> int:
        """Return how many images `store` should be given together."""
        if not self._fits_fields:
            return 1
        return min(FIELDS_AT_ONCE, max(1, NUMBERS_AT_ONCE // (crops_per_image * self.num_classes)))

    def store(self, labelled: Mapping[str, LabelledImage], writer: SoftLabelWriter) -> None:
        """Add the labels of images to the file, by their keys."""
        images = {key: image.arguments(key, self._store_crops) for key, image in labelled.items()}
        try:
            if self._fits_fields:  # those of a pilot are arrays
                add_fields(
                    writer, {key: {**own, "probs": torch.as_tensor(own["probs"], device=self.device)} for key, own in images.items()}
                )
                return
            for key, own in images.items():
                writer.add(key, **own)
        except ArgumentError as error:
            names = [member.teacher.name for member in self.members if member.teacher.name in self._without_numbers]
            advice = ". It was said to return probabilities (teacher_output)" if self._output == "probs" else ""
            if self._output == "probs" and len(self.members) > 1 and self._average == "logits" and not names:
                advice = (
                    ". Where the teachers give no class a probability above 0 in common, their logits have no average. "
                    "Average probabilities (average='probs', --average probs)"
                )
            name = " + ".join(names) or self.name
            raise MismatchError(f"teacher {name}: its output cannot be stored as labels: {error}{advice}") from None

    def _labels_here(self, labels: Sequence[dict[str, Tensor]], have_nan: Sequence[Tensor]) -> Sequence[dict[str, Any]]:
        """Return labels as arrays, unless the device makes fields of them, and keep the names of teachers whose output had NaN."""
        self._without_numbers |= {member.teacher.name for member, nan in zip(self.members, have_nan, strict=False) if nan.item()}
        return labels if self._fits_fields else [_to_numpy(part) for part in labels]

    def _label_pixels(self, pixels: Sequence[Tensor], runs: Sequence[CutRun]) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """Return the labels of runs of crops, whose pixels each cutter has cut, and for each teacher whether its output has NaN.

        A run without crops has no labels.
        """
        lengths = [len(run.flips) for run in runs]
        if not sum(lengths):
            return [{} for _ in lengths], []
        places = [self._shapes.index((member.size, member.interpolation)) for member in self.members]
        logits = [member.logits(pixels[place]) for member, place in zip(self.members, places, strict=True)]
        of_runs = zip(*(torch.split(one, lengths) for one in logits), strict=True)
        labels = [self._labels(parts, run.stored) if len(run.flips) else {} for parts, run in zip(of_runs, runs, strict=True)]
        return labels, [one.isnan().any() for one in logits]

    def _labels(self, logits: Sequence[Tensor], stored: np.ndarray[Any, Any] | None) -> dict[str, Tensor]:
        """Return the labels of crops of an image by the logits (n, C) of each teacher, and stored probabilities, if there are any."""
        if self._codec.content != "probs":
            return {"vectors": mean_logits(logits, self._shares)}
        probs = mean_probs(logits, self._shares, self._average, self._temperature)
        if stored is not None and self._stored_share is not None:
            probs = self._stored_share * torch.from_numpy(stored).to(probs.device) + (1 - self._stored_share) * probs
        return device_labels(probs, self._codec) if self._sends_less else {"probs": probs}

    @property
    def _sends_less(self) -> bool:
        """Whether labels are made smaller on the device."""
        return self.on_cuda and self._codec.family == "sparse" and self._codec.gain is None

    @property
    def _fits_fields(self) -> bool:
        """Whether label fields are fitted on the device; a CPU fits them faster one by one."""
        return self.on_cuda and self._codec.family == "field"


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
