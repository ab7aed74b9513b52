"""How a labelling run averages several teachers, and adds them to labels that are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from softlabel_codec.checks.arguments import check_choice
from softlabel_codec.errors import ArgumentError

AVERAGES = ("probs", "logits")
"""What is averaged: probabilities, or logits before softmax and temperature."""
OF_LIBRARIES = ("timm", "torchvision")
"""Where teachers come from whose weights may be a file of the caller's."""


def texts_of(name: str, given: Any) -> tuple[str, ...]:
    """Return an option that is one text or several as a tuple; ArgumentError if it is something else."""
    texts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"{name}: expected a text, or several, got {given!r}")
    return texts


def check_average(average: str, count: int, own: Mapping[str, Any]) -> None:
    """Raise ArgumentError if the output of so many teachers cannot be averaged so, or `own` options are given, which each has of itself."""
    check_choice("average", average, AVERAGES)
    if count == 1:
        if average != "probs":
            raise ArgumentError(f"average: expected 'probs', as there is one teacher, got {average!r}")
        return
    for name, value in own.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected None, as each of several teachers has its own, got {value!r}")


def shares_of(weights: str | Sequence[float] | None, count: int, name: str = "weights") -> tuple[float, ...]:
    """Return the share of each of `count` teachers in their average, which sum to 1.

    Parameters
    ----------
    weights : sequence of float, or str
        A positive number for each of several, also as text with commas between them; None: all the same.
    count : int
        Number of teachers.
    name : str
        What the option is called.

    Raises
    ------
    ArgumentError
        If they are something else.
    """
    if weights is None:
        return (1 / count,) * count
    if count == 1:
        raise ArgumentError(f"{name}: expected None, as there is one teacher, got {weights!r}")
    expected = f"expected a positive number for each of {count} teachers, such as {','.join(['0.5'] * count)}"
    wrong = ArgumentError(f"{name}: {expected}, got {weights!r}. (Files of weights are teacher_weights, --teacher-weights)")
    try:
        numbers = [float(part) for part in (weights.split(",") if isinstance(weights, str) else weights)]
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if len(numbers) != count or not all(0 < number < math.inf for number in numbers):
        raise wrong
    total = sum(numbers)
    shares = tuple(number / total for number in numbers)
    if min(shares) == 0:  # of numbers whose sum is too large, or which are too far apart
        raise wrong
    return shares


def weights_of_each(teachers: Sequence[str], weights: Any) -> tuple[str | None, ...]:
    """Return the file of weights of each teacher, or None, given those of the teachers that are networks of a library, in order.

    Raises
    ------
    ArgumentError
        If there are several teachers, and not one file for each that is a network of a library.
    """
    if weights is None:
        return (None,) * len(teachers)
    if len(teachers) == 1 and not isinstance(weights, Sequence | str):
        return (weights,)  # a path
    files = texts_of("teacher_weights", weights)
    theirs = [number for number, teacher in enumerate(teachers) if teacher.rpartition(":")[0] in OF_LIBRARIES]
    if len(teachers) == 1 == len(files):
        return files
    if not theirs:
        raise ArgumentError(
            f"teacher_weights: is for timm:NAME and torchvision:NAME; {' and '.join(teachers)} load their weights themselves"
        )
    if len(files) != len(theirs):
        what = f"expected one for each of {len(theirs)} teachers that are timm:NAME or torchvision:NAME, in their order, or none at all"
        raise ArgumentError(f"teacher_weights: {what}, got {len(files)}")
    given = dict(zip(theirs, files, strict=True))
    return tuple(given.get(number) for number in range(len(teachers)))
