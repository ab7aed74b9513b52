"""Writers that are killed or interrupted, at random moments and at every call to the system."""

from __future__ import annotations

import os
import select
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from crashes.aftermath import Aftermath, Outcome, check_aftermath
from crashes.processes import INTERRUPTED, end_of, in_child
from crashes.scripted import Scenario, ScriptedOs, calls_of, dawdle, die_after, die_before, die_halfway, scenarios, scripted
from crashes.unbroken import COUNTS, Unbroken, clear, unbroken_run, write
from softlabel_codec import recover
from softlabel_codec.container.files import partial_path


@dataclass(frozen=True)
class Kills:
    """What came of runs that a signal ended at random moments.

    Attributes
    ----------
    signal : str
        Name of the signal.
    outcome : Outcome
        What was found after each; `runs` are those that the signal ended.
    resumed_runs : int
        Runs among them that were continuing the file of an earlier killed one.
    too_late : int
        Runs that were over before the signal, which are not counted.
    """

    signal: str
    outcome: Outcome
    resumed_runs: int
    too_late: int


def random_kills(folder: Path, kills: int, *, seed: int = 0, signal_number: int = signal.SIGKILL) -> Kills:
    """Kill writers at random moments.

    Two thirds of the runs are killed at any moment, one third while they finish, which is over so quickly otherwise that hardly any kill
    would fall there: those wait for the disk before and after each call. Every other killed run is continued by the next one, which may
    be killed in turn. With SIGINT, an exception goes through the writer at whatever place it happens to be.
    """
    unbroken, rng, path = unbroken_run(folder, COUNTS * 3), np.random.default_rng(seed), folder / "killed.slc"
    seconds = {finishing: _usual_seconds(path, unbroken, finishing) for finishing in (False, True)}
    aftermaths: list[Aftermath] = []
    resumed_runs = too_late = 0
    while len(aftermaths) < kills:
        resumed, finishing = partial_path(path).exists(), rng.random() < 1 / 3
        status = _kill_writer(path, unbroken, rng.uniform(0, seconds[finishing]), finishing, signal_number)
        if status == 0:
            too_late += 1
            assert path.read_bytes() == unbroken.data, f"{path}: a run that was not killed left other bytes"
            clear(path)
            continue
        assert status in (-signal_number, INTERRUPTED), f"a writer ended with status {status} instead of by the signal"
        aftermaths.append(check_aftermath(path, unbroken))
        resumed_runs += resumed
        if path.exists() or rng.random() < 0.5:
            clear(path)
    return Kills(signal.Signals(signal_number).name, Outcome.of(aftermaths), resumed_runs, too_late)


def _usual_seconds(path: Path, unbroken: Unbroken, finishing: bool) -> float:
    """Return the median time of a run in a child process, or of finishing one that waits for the disk."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        pipe, child = _start_writer(path, unbroken, finishing)
        with pipe:
            pipe.read(1)
            start = time.monotonic() if finishing else start
            assert end_of(child) == 0, "an unbroken run failed"
        times.append(time.monotonic() - start)
        clear(path)
    return statistics.median(times)


def _start_writer(path: Path, unbroken: Unbroken, slow_disk: bool) -> tuple[Any, int]:
    """Start a run in a child process; a byte comes through the pipe when it begins to finish."""
    incoming, outgoing = os.pipe()

    def run() -> None:
        with scripted(ScriptedOs(dawdle, range(sys.maxsize) if slow_disk else ())):
            write(path, unbroken.images, resume=True, before_finish=lambda: os.write(outgoing, b"."))

    child = in_child(run)
    os.close(outgoing)
    return open(incoming, "rb", buffering=0), child


def _kill_writer(path: Path, unbroken: Unbroken, delay: float, finishing: bool, signal_number: int) -> int:
    pipe, child = _start_writer(path, unbroken, slow_disk=finishing)
    with pipe:
        if finishing:
            select.select([pipe], [], [])
        time.sleep(delay)
        os.kill(child, signal_number)
        return end_of(child)


def kills_at_every_call(folder: Path, counts: tuple[int, ...] = COUNTS[:10]) -> dict[str, Outcome]:
    """Kill a writer before, after and, where it writes, in the middle of each of its calls to the system, for each scenario."""
    unbroken, path = unbroken_run(folder, counts), folder / "killed.slc"
    return {scenario.name: _kills_of(scenario, path, unbroken) for scenario in scenarios(folder, unbroken)}


def _kills_of(scenario: Scenario, path: Path, unbroken: Unbroken) -> Outcome:
    scenario.prepare(path, unbroken)
    aftermaths = []
    for at, name in enumerate(calls_of(lambda: scenario.run(path, unbroken))):
        for deed in (die_before, die_after, die_halfway)[: 3 if name == "pwrite" else 2]:
            scenario.prepare(path, unbroken)
            status = end_of(in_child(bind(_run_scripted, scenario, path, unbroken, ScriptedOs(deed, (at,)))))
            assert status == -signal.SIGKILL, f"call {at} ({name}): a run to be killed ended with status {status}"
            aftermaths.append(check_aftermath(path, unbroken, old=scenario.old))
    return Outcome.of(aftermaths)


def _run_scripted(scenario: Scenario, path: Path, unbroken: Unbroken, script: ScriptedOs) -> None:
    with scripted(script):
        scenario.run(path, unbroken)


def recover_kills_at_every_call(folder: Path, counts: tuple[int, ...] = COUNTS[:10]) -> int:
    """Kill `recover` before and after each of its calls to the system, check that nothing half is left, and return how many times."""
    unbroken, target = unbroken_run(folder, counts), folder / "recovered.slc"
    unfinished = folder / "a.slc.partial"
    data = unbroken.data[: unbroken.block_ends[-2] + 20]
    unfinished.write_bytes(data)
    calls = calls_of(lambda: recover(unfinished, target))
    wanted = target.read_bytes()
    target.unlink()
    kills = 0
    for at in range(len(calls)):
        for deed in (die_before, die_after):
            status = end_of(in_child(bind(_recover_scripted, unfinished, target, ScriptedOs(deed, (at,)))))
            assert status == -signal.SIGKILL, f"call {at}: recover ended with status {status} instead of being killed"
            assert unfinished.read_bytes() == data, f"{unfinished}: changed by a recover that was killed"
            if not target.exists():
                recover(unfinished, target)
            assert target.read_bytes() == wanted, f"{target}: not what an unbroken recover gives"
            target.unlink()
            kills += 1
    return kills


def _recover_scripted(unfinished: Path, target: Path, script: ScriptedOs) -> None:
    with scripted(script):
        recover(unfinished, target)
