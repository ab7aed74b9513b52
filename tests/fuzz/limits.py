"""What an input may cost: a second of processor time, and no more memory than is stated here."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_CPU_SECONDS = 1.0
MEMORY_ALLOWANCE_BYTES = 2**29
"""Address space that an input may make the process map on top of what is mapped before it."""


class TooSlowError(AssertionError):
    """An input took more than `MAX_CPU_SECONDS`."""


@contextmanager
def within_a_second(what: str) -> Iterator[None]:
    """Raise TooSlowError if the block takes too much processor time: other work on the machine does not count, unlike for a clock."""
    start = time.process_time()
    yield
    seconds = time.process_time() - start
    if seconds > MAX_CPU_SECONDS:
        raise TooSlowError(f"{what}: expected at most {MAX_CPU_SECONDS:g} s, got {seconds:.2f} s")


def limit_memory() -> int:
    """Let this process map `MEMORY_ALLOWANCE_BYTES` more than now, and return how much that is in all.

    It is called before each input, because atheris itself loses some 50 kB for each input that compares arrays.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_ALLOWANCE_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    return limit
