"""Ctrl-C while a file is being written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from softlabel_codec.checks.wording import counted


class Interruptible(Protocol):
    """What is said of a `SoftLabelWriter` whose work is interrupted."""

    path: Path

    @property
    def partial(self) -> Path: ...

    @property
    def num_stored(self) -> int: ...

    def close(self) -> None: ...


class Interrupted(KeyboardInterrupt):
    """An interruption whose text says what is kept of the work so far."""


@contextmanager
def saying_what_is_kept(writer: Interruptible) -> Iterator[None]:
    """If the block is interrupted, close the writer and let the exception say how many images are kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        writer.close()
        raise Interrupted(_what_is_kept(writer)) from error


def _what_is_kept(writer: Interruptible) -> str:
    kept = writer.num_stored
    if not writer.partial.exists():
        return f"{writer.path} is complete, with {counted(kept, 'image')}"
    if not kept:
        return "No image is stored yet; run the same command again"
    return f"{counted(kept, 'image')} {'is' if kept == 1 else 'are'} kept in {writer.partial}; run the same command again to continue"
