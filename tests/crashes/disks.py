"""Disks that are full, and disks that lost power."""

from __future__ import annotations

import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from crashes.aftermath import Outcome, check_aftermath, check_resume
from crashes.processes import told_by_child
from crashes.scripted import ScriptedOs, scripted
from crashes.unbroken import Unbroken, check_contents, clear, contents, unbroken_run, write
from softlabel_codec import FormatError, SoftLabelReader, recover
from softlabel_codec.report import verify


@dataclass(frozen=True)
class FullDisk:
    """What came of runs that the kernel let write only so many bytes.

    Attributes
    ----------
    outcome : Outcome
        What was found after each.
    errors : dict
        Text of the errors, without numbers and paths, and how many of each.
    """

    outcome: Outcome
    errors: dict[str, int]


def full_disk(folder: Path, limits: int) -> FullDisk:
    """Let the kernel refuse writing (EFBIG, by RLIMIT_FSIZE) after so many different numbers of bytes, evenly spread over the file."""
    unbroken, path = unbroken_run(folder), folder / "limited.slc"
    aftermaths, errors = [], Counter()
    for limit in np.linspace(0, len(unbroken.data) - 1, limits).astype(int).tolist():
        clear(path)
        told = told_by_child(bind(_write_limited, path, unbroken, limit))
        assert told, f"a limit of {limit} bytes did not keep a file of {len(unbroken.data)} from being written"
        assert path.name in told, f"expected an error that names {path.name}, got {told}"
        errors[told.split(":")[0]] += 1
        aftermaths.append(check_aftermath(path, unbroken))
    return FullDisk(Outcome.of(aftermaths, failed=len(aftermaths)), dict(errors))


def _write_limited(path: Path, unbroken: Unbroken, limit: int) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write(path, unbroken.images)
    except OSError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class PowerFailures:
    """What came of unfinished files of which some writes had not reached the disk, in any order.

    Attributes
    ----------
    failures : int
        All of them.
    recovered_exactly : int
        Those of which `recover` gave the blocks before the first one that was lost.
    resumed_to_same_bytes : int
        Those that were continued.
    refused : int
        Those without header or metadata, which could only be begun anew.
    """

    failures: int
    recovered_exactly: int
    resumed_to_same_bytes: int
    refused: int


def power_failures(folder: Path, failures: int, *, seed: int = 0) -> PowerFailures:
    """Lose random writes of unfinished files, as a power failure may: zeros stand where they were, or the file ends before them."""
    unbroken, rng, partial = unbroken_run(folder), np.random.default_rng(seed), folder / "lost.slc.partial"
    writes = _writes_of(folder / "logged.slc", unbroken)
    recovered = resumed = refused = 0
    for _ in range(failures):
        made = int(rng.integers(1, len(writes) + 1))
        lost = np.flatnonzero(rng.random(made) < rng.choice([0.02, 0.1, 0.5]))
        data = bytearray(unbroken.data[: sum(writes[made - 1])])
        for number in lost.tolist():
            start, length = writes[number]
            kept = int(rng.integers(0, length))
            data[start + kept : start + length] = bytes(length - kept)
        partial.write_bytes(data)
        if 0 in lost:
            refused += 1
            _check_begun_anew(partial, unbroken)
            continue
        sound = next(length for length in range(len(data) + 1) if length == len(data) or data[length] != unbroken.data[length])
        recovered += _check_rest(partial, unbroken, sound)
        check_resume(partial, unbroken)
        resumed += 1
    return PowerFailures(failures, recovered, resumed, refused)


def _writes_of(path: Path, unbroken: Unbroken) -> list[tuple[int, int]]:
    """Return offset and length of each write of an unbroken run, after checking that all are on disk before the rename."""
    writes = []

    def note(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        writes.append((arguments[2], len(arguments[1])))
        return real(*arguments)

    with scripted(ScriptedOs(note, range(sys.maxsize), ("pwrite",))) as script:
        write(path, unbroken.images)
    last_write = len(script.calls) - 1 - script.calls[::-1].index("pwrite")
    assert script.calls[last_write:] == ["pwrite", "fsync", "replace", "open", "fsync"], f"expected fsync around the rename: {script.calls}"
    return writes


def _check_begun_anew(partial: Path, unbroken: Unbroken) -> None:
    target = partial.with_name("lost.slc")
    with suppress(FormatError):
        SoftLabelReader(partial)
        raise AssertionError(f"{partial}: readable without header and metadata")
    with suppress(FormatError):
        write(target, unbroken.images, resume=True)
        raise AssertionError(f"{partial}: continued without header and metadata")
    write(target, unbroken.images, overwrite=True)
    assert target.read_bytes() == unbroken.data, f"{target}: begun anew, but other bytes"
    target.unlink()


def _check_rest(partial: Path, unbroken: Unbroken, sound_bytes: int) -> bool:
    """Check that `recover` gives the blocks before the first lost one; more is welcome where the index is there."""
    target = partial.with_name("recovered.slc")
    result = recover(partial, target)
    whole = unbroken.whole_blocks(sound_bytes)
    assert result.num_blocks >= whole, f"{partial}: {result.num_blocks} blocks recovered, {whole} are whole"
    with SoftLabelReader(target) as reader:
        places = [unbroken.keys.index(key) for key in reader.keys]
        assert places[: unbroken.first_images[whole]] == list(range(unbroken.first_images[whole])), (
            f"{partial}: images before the loss are lost"
        )
        check_contents(contents(reader), [unbroken.labels[place] for place in places], target)
    assert verify(target, deep=True).ok, f"{target}: what was recovered is not sound"
    target.unlink()
    return True
