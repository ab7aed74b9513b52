"""Checks whether a teacher returns logits, probabilities or features, and converts probabilities to logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softlabel_codec.errors import MismatchError

_SMALLEST_TOLERANCE = 1e-4


def noise(size: int) -> Tensor:
    """Return pixels (2, 3, size, size) in 0..255 of noise, the same each time, to test what a teacher returns."""
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def check_output(output: Tensor, kind: str, teacher: str) -> None:
    """Raise MismatchError unless a teacher's output (B, C) for some crops is what it is said to be, one of `TEACHER_OUTPUTS`.

    Probabilities mistaken for logits give useless labels: the softmax of numbers between 0 and 1 is nearly uniform.
    """
    all_probs = bool(_are_probs(output).all())
    if kind != "probs" and all_probs:
        advice = "Pass --teacher-output probs (teacher_output='probs'), or return the input of its last softmax"
        raise MismatchError(f"teacher {teacher}: expected {kind}, got probabilities: all are at least 0, and each row sums to 1. {advice}")
    if kind == "probs" and not all_probs:
        found = f"values from {float(output.min()):.4g} to {float(output.max()):.4g}, and sums from "
        sums = output.float().sum(dim=1)
        advice = "If they are logits, leave out --teacher-output (teacher_output)"
        raise MismatchError(
            f"teacher {teacher}: expected probabilities, of which each row sums to 1, got {found}"
            f"{float(sums.min()):.4g} to {float(sums.max()):.4g}. {advice}"
        )


def as_logits(output: Tensor, kind: str) -> Tensor:
    """Return float32 logits (B, C) for a teacher's output; the logits of probabilities are their logarithms; features stay as they are.

    Rows that are not probabilities become NaN, which is refused later.
    """
    if kind != "probs":
        return output.float()
    return torch.where(_are_probs(output)[:, None], output.float(), torch.nan).log()


class Logits(nn.Module):
    """Wraps a model that returns probabilities so that it returns their logarithms."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return as_logits(self.model(images), "probs")


def _are_probs(output: Tensor) -> Tensor:
    """Return for each row whether it is at least 0 and sums to 1, within the precision of its type."""
    tolerance = max(_SMALLEST_TOLERANCE, 2 * torch.finfo(output.dtype).eps)
    return (output >= 0).all(dim=1) & ((output.float().sum(dim=1) - 1).abs() <= tolerance)
