"""Every fault of a file system, at every call that it can happen to."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from crashes.aftermath import Outcome, check_aftermath
from crashes.scripted import (
    CHANGING_CALLS,
    Deed,
    FillingUp,
    Scenario,
    ScriptedOs,
    calls_of,
    failing,
    raising,
    scenarios,
    scripted,
    write_a_byte,
    write_half,
)
from crashes.unbroken import COUNTS, Unbroken, unbroken_run
from softlabel_codec import SoftLabelError, SoftLabelWriter, StateError


@dataclass(frozen=True)
class Fault:
    """Something that a file system does wrong.

    Attributes
    ----------
    name : str
    deed : callable
        Makes the deed.
    calls : tuple of str
        The calls that it can happen to.
    stays : bool
        It happens to all such calls from then on.
    succeeds : bool
        A writer gets over it.
    """

    name: str
    deed: Callable[[], Deed]
    calls: tuple[str, ...]
    stays: bool = False
    succeeds: bool = False


FAULTS = (
    Fault("no space left", lambda: failing(errno.ENOSPC), ("pwrite",)),
    Fault("no space left after half of it", FillingUp, ("pwrite",), stays=True),
    Fault("input/output error of pwrite", lambda: failing(errno.EIO), ("pwrite",)),
    Fault("the disk is gone", lambda: failing(errno.EIO), CHANGING_CALLS, stays=True),
    Fault("no writing and no cutting back", lambda: failing(errno.EIO), ("pwrite", "ftruncate"), stays=True),
    Fault("error of ftruncate", lambda: failing(errno.EIO), ("ftruncate",)),
    Fault("error of fsync", lambda: failing(errno.EIO), ("fsync",)),
    Fault("error of rename", lambda: failing(errno.EIO), ("replace",)),
    Fault("permission denied", lambda: failing(errno.EACCES), ("open", "replace")),
    Fault("too many open files", lambda: failing(errno.EMFILE), ("open",)),
    Fault("interrupted by KeyboardInterrupt", lambda: raising(KeyboardInterrupt("faulty.slc")), CHANGING_CALLS),
    Fault("half is written", lambda: write_half, ("pwrite",), succeeds=True),
    Fault("only a byte at a time is written", lambda: write_a_byte, ("pwrite",), stays=True, succeeds=True),
)


def faults_at_every_call(folder: Path, counts: tuple[int, ...] = COUNTS[:6]) -> dict[str, Outcome]:
    """Let each fault happen to each call that it can happen to, for each scenario, and check what comes out and what is left."""
    unbroken, path = unbroken_run(folder, counts), folder / "faulty.slc"
    ways = scenarios(folder, unbroken)
    return {fault.name: _outcome_of(fault, path, unbroken, ways) for fault in FAULTS}


def _outcome_of(fault: Fault, path: Path, unbroken: Unbroken, ways: list[Scenario]) -> Outcome:
    aftermaths = []
    failed = 0
    for scenario in ways:
        scenario.prepare(path, unbroken)
        for at, name in enumerate(calls_of(lambda scenario=scenario: scenario.run(path, unbroken))):
            if name in fault.calls:
                scenario.prepare(path, unbroken)
                script = ScriptedOs(fault.deed(), range(at, sys.maxsize) if fault.stays else (at,), fault.calls)
                failed += _fails(fault, scenario, path, unbroken, script)
                aftermaths.append(check_aftermath(path, unbroken, old=scenario.old))
    succeeded = len(aftermaths) - failed
    assert (failed if fault.succeeds else succeeded) == 0, f"{fault.name}: {failed} runs failed, {succeeded} succeeded"
    return Outcome.of(aftermaths, failed, succeeded)


def _fails(fault: Fault, scenario: Scenario, path: Path, unbroken: Unbroken, script: ScriptedOs) -> bool:
    """Run a scenario over a faulty file system and return whether it fails; check the error, and that the writer takes nothing more."""
    opened: list[SoftLabelWriter] = []
    with scripted(script):
        message = _failure(bind(scenario.run, path, unbroken, opened.append))
    assert not message or path.name in message, f"{fault.name}: expected an error that names {path.name}, got {message}"
    if message and opened:
        for use in (bind(opened[0].add, "more", **unbroken.images[unbroken.keys[0]]), opened[0].finish):
            with suppress(StateError):
                use()
                raise AssertionError(f"{fault.name}: the writer goes on after it failed")
    return bool(message)


def _failure(run: Callable[[], object]) -> str:
    """Return what a run fails with, or nothing."""
    try:
        run()
    except (OSError, SoftLabelError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return ""
