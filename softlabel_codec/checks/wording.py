"""Wording that messages share."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun, which has an `s` for all numbers but 1 unless another plural is given.

    Examples
    --------
    >>> counted(1, "image"), counted(0, "image"), counted(2, "class", "classes")
    ('1 image', '0 images', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a time in words, rounded as an estimate should be.

    Examples
    --------
    >>> duration(42.3), duration(600), duration(12345)
    ('42 s', '10 min', '3 h 26 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def rate(number: float, seconds: float) -> str:
    """Return how many a second, with as many digits as such a figure deserves.

    Examples
    --------
    >>> rate(100, 3), rate(1, 30)
    ('33.3', '0.033')
    """
    per_second = number / seconds if seconds > 0 else 0.0
    return f"{per_second:{'.1f' if per_second >= 1 else '.2g'}}"
