"""Wording that messages share."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, which has an `s` for all numbers but 1 unless another plural is given.

    Examples
    --------
    >>> counted(1, "image"), counted(0, "image"), counted(2, "class", "classes")
    ('1 image', '0 images', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
