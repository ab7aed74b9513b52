"""Teachers that label crops while a student trains on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from softlabel_codec.errors import MismatchError
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.averaging import mean_probs
from softlabel_codec.teacher.load import Teacher
from softlabel_codec.teacher.member import Member, check_same_classes

Shape = tuple[int, str]
"""Side of a crop in pixels, and how it was scaled."""


class OnlineTeachers:
    """One teacher or several on a device, which give crops the labels that `encode` would store.

    Parameters
    ----------
    teachers : sequence of Teacher
        At least one.
    shapes : sequence of (int, str)
        Side and interpolation of the crops of each.
    shares : sequence of float
        Share of each in their average.
    average : str
        What is averaged, `probs` or `logits`.
    temperature : float
        T of softmax(logits / T).
    num_classes : int
        C.
    device : torch.device
        Where they compute, in float32.

    Raises
    ------
    MismatchError
        If a teacher has another number of classes, or returns something else than was announced; later, for any crops.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        shapes: Sequence[Shape],
        shares: Sequence[float],
        average: str,
        temperature: float,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._shapes, self._shares, self._average, self._temperature = shapes, shares, average, temperature
        with torch.inference_mode():
            self._members = [
                Member(teacher, device, "float32", size=size, interpolation=interpolation)
                for teacher, (size, interpolation) in zip(teachers, shapes, strict=True)
            ]
        self._names = " + ".join(one.name for one in teachers)
        self._failed: list[Tensor] | None = None
        found = check_same_classes(self._members)
        if found != num_classes:
            raise MismatchError(f"teacher {self._names}: expected {num_classes} classes, got {found}")

    @torch.inference_mode()
    def probs(self, pixels: Mapping[Shape, Tensor]) -> Tensor:
        """Return probabilities, float32 (B, C), of crops that are given in all shapes, each uint8 (B, 3, size, size)."""
        logits = [member.logits(pixels[shape]) for member, shape in zip(self._members, self._shapes, strict=True)]
        found = mean_probs(logits, self._shares, self._average, self._temperature)
        failed = [~one.amax(dim=1).isfinite().all() for one in logits] + [found.isnan().any()]
        self._failed = failed if self._failed is None else [before | now for before, now in zip(self._failed, failed, strict=True)]
        return found

    def check(self) -> None:
        """Raise MismatchError if any crops so far had no probabilities; asks the device."""
        failed = [bool(one) for one in self._failed or ()]
        if not any(failed):
            return
        names = [member.teacher.name for member, has_failed in zip(self._members, failed, strict=False) if has_failed]
        if not names and len(self._members) > 1 and self._average == "logits":
            advice = "so their logits have no average. Average probabilities (average='probs', --average probs)"
            raise MismatchError(f"teachers: {self._names} give no class a probability above 0 in common for some crop, {advice}")
        kind = self._members[0].teacher.output
        raise MismatchError(f"teacher {' + '.join(names) or self._names}: expected {kind} without NaN, got NaN or infinity")


def teachers_sha256(teachers: Sequence[Teacher]) -> str:
    """Return a fingerprint of the weights of some teachers, in their order; that of one is `weights_sha256`."""
    each = [weights_sha256(teacher.model) for teacher in teachers]
    return each[0] if len(each) == 1 else hashlib.sha256(json.dumps(each).encode()).hexdigest()
