"""Disks that are full, and disks that lost power."""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from crashes.aftermath import Outcome, check_aftermath, check_resume
from crashes.processes import told_by_child
from crashes.scripted import ScriptedOs, scripted
from crashes.unbroken import Unbroken, check_contents, clear, contents, unbroken_run, write
from softlabel_codec import CorruptError, FormatError, SoftLabelReader, recover
from softlabel_codec.container.files import partial_path
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
        Those of which `recover` gave every block that had reached the disk whole.
    resumed_to_same_bytes : int
        Those that were continued to the bytes of an unbroken run: only the last writes were lost, or header and metadata, which are known.
    resumed_after_recovery : int
        Those that the writer refused to continue, as whole blocks stand behind lost ones, and that were continued from what `recover` kept.
    begun_anew : int
        Those without header or metadata and without a whole block.
    """

    failures: int
    recovered_exactly: int = 0
    resumed_to_same_bytes: int = 0
    resumed_after_recovery: int = 0
    begun_anew: int = 0


def power_failures(folder: Path, failures: int, *, seed: int = 0) -> PowerFailures:
    """Lose random writes of unfinished files, as a power failure may: zeros stand where they were, or the file ends before them."""
    unbroken, rng, partial = unbroken_run(folder), np.random.default_rng(seed), folder / "lost.slc.partial"
    writes = _writes_of(folder / "logged.slc", unbroken)
    found = PowerFailures(failures)
    for _ in range(failures):
        made = int(rng.integers(1, len(writes) + 1))
        lost = np.flatnonzero(rng.random(made) < rng.choice([0.02, 0.1, 0.5]))
        data = bytearray(unbroken.data[: sum(writes[made - 1])])
        for number in lost.tolist():
            start, length = writes[number]
            kept = int(rng.integers(0, length))
            data[start + kept : start + length] = bytes(length - kept)
        partial.write_bytes(data)
        whole = [
            block
            for block in range(unbroken.whole_blocks(len(data)))
            if _same(data, unbroken.data, *unbroken.block_ends[block : block + 2])
        ]
        begins = _same(data, unbroken.data, 0, unbroken.block_ends[0])
        if not begins and not whole:
            _check_begun_anew(partial, unbroken)
            found = replace(found, begun_anew=found.begun_anew + 1)
            continue
        if begins:
            _check_rest(partial, unbroken, whole)
            found = replace(found, recovered_exactly=found.recovered_exactly + 1)
        if whole == list(range(len(whole))):
            check_resume(partial, unbroken)
            found = replace(found, resumed_to_same_bytes=found.resumed_to_same_bytes + 1)
        else:
            _check_resume_after_recovery(partial, unbroken)
            found = replace(found, resumed_after_recovery=found.resumed_after_recovery + 1)
    return found


def _same(data: bytes, other: bytes, start: int, end: int) -> bool:
    return data[start:end] == other[start:end]


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


def _check_rest(partial: Path, unbroken: Unbroken, whole: list[int]) -> None:
    """Check that `recover` gives exactly these blocks."""
    target = partial.with_name("recovered.slc")
    result = recover(partial, target)
    assert result.num_blocks == len(whole), f"{partial}: {result.num_blocks} blocks recovered, {len(whole)} are whole"
    images = [image for block in whole for image in range(*unbroken.first_images[block : block + 2])]
    with SoftLabelReader(target) as reader:
        assert list(reader.keys) == [unbroken.keys[image] for image in images], f"{partial}: images of whole blocks are lost"
        check_contents(contents(reader), [unbroken.labels[image] for image in images], target)
    assert verify(target, deep=True).ok, f"{target}: what was recovered is not sound"
    target.unlink()


def _check_resume_after_recovery(partial: Path, unbroken: Unbroken) -> None:
    """Check that a run is refused which would lose whole blocks, and that it can be continued as the error says."""
    again, other = partial.with_name("again.slc"), partial.with_name("other.partial")
    shutil.copyfile(partial, partial_path(again))
    refusal = ""
    try:
        write(again, unbroken.images, resume=True)
    except CorruptError as error:
        refusal = str(error)
    assert "slcodec recover" in refusal, f"{partial}: expected to be refused with advice, as whole blocks stand behind lost ones: {refusal}"
    recover(partial_path(again), other)
    other.replace(partial_path(again))
    write(again, unbroken.images, resume=True)
    with SoftLabelReader(again) as reader:
        assert sorted(reader.keys) == sorted(unbroken.keys), f"{again}: images are missing"
        places = [unbroken.keys.index(key) for key in reader.keys]
        check_contents(contents(reader), [unbroken.labels[place] for place in places], again)
    assert verify(again, deep=True).ok, f"{again}: what was continued is not sound"
    again.unlink()
