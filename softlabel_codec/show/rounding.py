"""Numbers as short as a reader of them needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def shortened(value: Any) -> float:
    """Return a number with five significant digits."""
    return float(f"{float(value):.5g}")


def rounded(values: Iterable[Any]) -> list[float]:
    """Return numbers with five significant digits."""
    return [shortened(value) for value in values]
