"""A teacher that labels crops while a student trains on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softlabel_codec.errors import MismatchError
from softlabel_codec.teacher.load import Teacher
from softlabel_codec.teacher.outputs import as_logits, check_output, noise
from softlabel_codec.torch.pixels import normalize

OnlineTeacher = Callable[[Tensor], Tensor]
"""Pixels (B, 3, size, size) in 0..255 to logits (B, C)."""


def online_teacher(teacher: Teacher, num_classes: int, size: int, device: torch.device) -> OnlineTeacher:
    """Return what gives a teacher's logits for crops of a size in pixels, on a device.

    Raises
    ------
    MismatchError
        If the teacher has another number of classes, or returns probabilities where logits were announced, or the other way round.
    """
    model = teacher.model.to(device)

    @torch.inference_mode()
    def logits(pixels: Tensor) -> Tensor:
        return as_logits(model(normalize(pixels, teacher.mean, teacher.std)), teacher.output)

    with torch.inference_mode():
        probe = model(normalize(noise(size).to(device), teacher.mean, teacher.std))
    if probe.shape != (2, num_classes):
        expected = f"expected logits of shape (2, {num_classes}) for 2 crops, got {tuple(probe.shape)}"
        raise MismatchError(f"teacher {teacher.name}: {expected}")
    check_output(probe, teacher.output, teacher.name)
    return logits
