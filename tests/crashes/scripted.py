"""A file system that does what it is told: it stands in for `os` in `store.py`."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any
from unittest import mock

from crashes.unbroken import Unbroken, clear, some_images, write
from softlabel_codec import SoftLabelWriter
from softlabel_codec.container import files as store
from softlabel_codec.container.files import partial_path

Deed = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""What is done instead of a call: its name, the real function and the arguments."""


CHANGING_CALLS = "open", "pwrite", "ftruncate", "fsync", "replace"


class ScriptedOs:
    """Stands in for `os` in `store.py`: notes the calls that matter and does a deed instead of some of them.

    Parameters
    ----------
    deed : Deed
        What to do.
    at : container of int
        Numbers of the calls to do it at, from 0.
    names : container of str
        Names of the calls that it can be done at.
    """

    def __init__(self, deed: Deed, at: Container[int], names: Container[str] = CHANGING_CALLS) -> None:
        self.calls: list[str] = []
        self._deed, self._at, self._names = deed, at, names

    def __getattr__(self, name: str) -> Any:
        return bind(self._call, name) if name in CHANGING_CALLS else getattr(os, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        self.calls.append(name)
        if len(self.calls) - 1 in self._at and name in self._names:
            return self._deed(name, getattr(os, name), arguments)
        return getattr(os, name)(*arguments)


@contextmanager
def scripted(script: ScriptedOs) -> Iterator[ScriptedOs]:
    """Let `store.py` see that file system."""
    with mock.patch.object(store, "os", script):
        yield script


def calls_of(run: Callable[[], object]) -> list[str]:
    """Return the calls that a run makes."""
    with scripted(ScriptedOs(die_before, ())) as script:
        run()
    return script.calls


def die_before(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


def die_halfway(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    write_half(name, real, arguments)
    os.kill(os.getpid(), signal.SIGKILL)


def dawdle(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    time.sleep(0.0005)
    result = real(*arguments)
    time.sleep(0.0005)
    return result


def write_half(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    descriptor, data, offset = arguments
    return real(descriptor, data[: (len(data) + 1) // 2], offset)


def write_a_byte(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    descriptor, data, offset = arguments
    return real(descriptor, data[:1], offset)


def failing(code: int) -> Deed:
    """Return a deed that fails as the kernel would: only calls on a path name it in their error."""

    def fail(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        raise OSError(code, os.strerror(code), *(str(path) for path in arguments[:1] if not isinstance(path, int)))

    return fail


def raising(error: BaseException) -> Deed:
    """Return a deed that raises what is no error of the file system."""

    def interrupt(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        raise error

    return interrupt


class FillingUp:
    """A deed: half of what is to be written still fits, then nothing does."""

    def __init__(self) -> None:
        self._full = False

    def __call__(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._full = True
        return write_half(name, real, arguments)


@dataclass(frozen=True)
class Scenario:
    """A run to break off, and what it finds in its folder.

    Attributes
    ----------
    name : str
    options : dict
        How the writer is told to treat what it finds.
    partial_bytes : int
        Bytes of an unfinished file that is there; it ends within a block.
    old : bytes or None
        A finished file that is there and is to be replaced.
    """

    name: str
    options: dict[str, Any]
    partial_bytes: int = 0
    old: bytes | None = None

    def prepare(self, path: Path, unbroken: Unbroken) -> None:
        clear(path)
        if self.partial_bytes:
            partial_path(path).write_bytes(unbroken.data[: self.partial_bytes])
        if self.old is not None:
            path.write_bytes(self.old)

    def run(self, path: Path, unbroken: Unbroken, opened: Callable[[SoftLabelWriter], object] = lambda labels: None) -> None:
        write(path, unbroken.images, opened=opened, **self.options)


def scenarios(folder: Path, unbroken: Unbroken) -> list[Scenario]:
    """Return the ways in which a run may begin."""
    write(folder / "old.slc", some_images((3, 200, 7), seed=1))
    within_a_block = unbroken.block_ends[len(unbroken.block_ends) // 2] + 20
    return [
        Scenario("begins", {}),
        Scenario("resumes", {"resume": True}, partial_bytes=within_a_block),
        Scenario("overwrites", {"overwrite": True}, partial_bytes=within_a_block, old=(folder / "old.slc").read_bytes()),
    ]
