"""Decoded images that stay in a device's memory, also from one run to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class ImageMemory:
    """What was decoded once, by what it is; runs that share a memory decode nothing twice."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def keep(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was kept under this name, or make it and keep it."""
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]
