"""Work that waits for storage services, done at once for several files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(work: Callable[[Item], Result], items: Iterable[Item], at_a_time: int) -> list[Result]:
    """Return what a function returns for each item; so many at a time, each in a thread, unless it is one."""
    wanted = list(items)
    if at_a_time == 1 or len(wanted) < 2:
        return [work(item) for item in wanted]
    with ThreadPoolExecutor(min(len(wanted), at_a_time)) as threads:
        return list(threads.map(work, wanted))
