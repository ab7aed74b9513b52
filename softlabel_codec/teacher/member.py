"""One of the teachers of a run, on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import MismatchError
from softlabel_codec.teacher.load import Teacher
from softlabel_codec.teacher.outputs import as_logits, check_output, noise
from softlabel_codec.torch.pixels import Triple, normalize
from softlabel_codec.torch.workers import is_killed_worker

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Member:
    """A teacher on its device, and how its crops are prepared.

    Parameters
    ----------
    teacher : Teacher
        The teacher.
    device : torch.device
        Where it computes.
    precision : str
        In which arithmetic.
    num_classes : int, optional
        The number of classes that it must have.
    size, interpolation, mean, std : optional
        How crops are prepared, where that is not as the teacher says.

    Attributes
    ----------
    teacher, device
        As given.
    size, interpolation, mean, std
        How crops are prepared for it.
    num_classes : int
        C.

    Raises
    ------
    MismatchError
        If it does not return what was announced, for two crops of noise; later, for any crops.
    """

    def __init__(
        self,
        teacher: Teacher,
        device: torch.device,
        precision: str,
        num_classes: int | None = None,
        *,
        size: int | None = None,
        interpolation: str | None = None,
        mean: Triple | None = None,
        std: Triple | None = None,
    ) -> None:
        self.teacher, self.device, self._precision = teacher, device, precision
        self.size, self.interpolation = size or teacher.input_size, interpolation or teacher.interpolation
        self.mean, self.std = mean or teacher.mean, std or teacher.std
        self._model = teacher.model.to(device)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast
        probe = self._forward(noise(self.size))
        self.num_classes = self._check(probe, 2, num_classes)
        if self.num_classes < 2:
            raise MismatchError(f"teacher {teacher.name}: expected {teacher.output} of at least 2 numbers for each crop, got 1")
        check_output(probe, teacher.output, teacher.name)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return float32 logits, or features, (n, C) for crops, uint8 (n, 3, size, size)."""
        output = self._forward(pixels)
        self._check(output, len(pixels), self.num_classes)
        return as_logits(output, self.teacher.output)

    def _forward(self, pixels: Tensor) -> Tensor:
        """Return the teacher's output for crops: logits, probabilities or features."""
        images = normalize(pixels.to(self.device, non_blocking=True), self.mean, self.std).contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(self.device.type, _AUTOCAST.get(self._precision), enabled=self._precision != "float32"):
                output = self._model(images)
        except Exception as error:
            if is_killed_worker(error):
                raise
            what = f"failed on {counted(len(pixels), 'crop')} of {self.size} x {self.size} pixels with {type(error).__name__}: {error}"
            raise MismatchError(f"teacher {self.teacher.name}: {what}") from error
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            raise MismatchError(
                f"teacher {self.teacher.name}: expected {self.teacher.output} as a tensor (B, C), got {type(output).__name__}"
            )
        return logits

    def _check(self, logits: Tensor, batch: int, num_classes: int | None) -> int:
        if logits.ndim != 2 or len(logits) != batch or not logits.is_floating_point():
            expected = f"expected float {self.teacher.output} of shape ({batch}, C) for {counted(batch, 'crop')}"
            raise MismatchError(f"teacher {self.teacher.name}: {expected}, got {logits.dtype} of shape {tuple(logits.shape)}")
        if num_classes and logits.shape[1] != num_classes:
            raise MismatchError(f"teacher {self.teacher.name}: expected {num_classes} classes, got {logits.shape[1]}")
        return int(logits.shape[1])


def check_same_classes(members: list[Member]) -> int:
    """Return the number of classes of all teachers of a run; MismatchError if two of them have different numbers."""
    first = members[0]
    for other in members[1:]:
        if other.num_classes != first.num_classes:
            found = f"{first.num_classes} of {first.teacher.name}, {other.num_classes} of {other.teacher.name}"
            raise MismatchError(f"teachers: expected the same number of classes of all, got {found}. Their output cannot be averaged")
    return first.num_classes
