"""Workers of a label set that are killed, stopped until others have taken over what they were doing, or out of disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from crashes.command import write_images_and_teacher
from crashes.processes import end_of, in_child

SHARDS, IMAGES, CROPS = 5, 40, 400
_FEW_CROPS = 100
"""Of each image where no worker is to be hit in the middle of its work."""
STALE_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerKills:
    """What came of workers of a label set that were killed and stopped at random moments, each replaced by a new one.

    Attributes
    ----------
    kills, stops : int
        Workers that were killed, and that were stopped for longer than their locks stay good, and went on.
    on_one_machine, on_several : int
        Of these, in sets whose workers took each other for processes of one machine, or of several.
    most_hours_apart : float
        How far the clocks of two workers of a set were apart at most.
    finished_sets : int
        Sets that were finished after that; all have the bytes of one that one worker made without interruption, and no other files.
    taken_over : int
        Shards that a worker took from another one.
    lost : int
        Shards that a worker was making when it learned that it had lost them, as it had been stopped: no other worker lost one.
    """

    kills: int
    stops: int
    on_one_machine: int
    on_several: int
    most_hours_apart: float
    finished_sets: int
    taken_over: int
    lost: int


def kills_of_workers(folder: Path, kills: int, *, workers: int = 3, clocks_differ: bool = False, seed: int = 0) -> WorkerKills:
    """Let workers make label sets, kill or stop one again and again, and check each finished set.

    Every second set is made by workers that cannot see whether the others live, as on several machines. They learn it from locks alone. If
    `clocks_differ`, all sets are, and each worker has a clock that is a minute to twelve hours ahead or behind, and is set to another
    time while the worker is at work.
    """
    whole, log = write_whole_set(folder), folder / "log"
    rng, counts = np.random.default_rng(seed), {"kills": 0, "stops": 0, "on_one_machine": 0, "on_several": 0}
    apart = sets = 0
    while counts["kills"] < kills:
        crew = _Crew(folder, log, bool(sets % 2) or clocks_differ, rng if clocks_differ else None)
        _one_set(crew, workers, rng, counts, most=min(kills, counts["kills"] + 12))
        check_same(folder / "labels", whole)
        shutil.rmtree(folder / "labels")
        sets, apart = sets + 1, max(apart, crew.seconds_apart)
    told = log.read_text()
    found = {"finished_sets": sets, "taken_over": told.count("taken over from"), "lost": told.count("left to another worker")}
    assert found["lost"] <= counts["stops"], f"{found['lost']} workers lost a lock, but only {counts['stops']} were stopped"
    return WorkerKills(**counts, most_hours_apart=round(apart / 3600, 1), **found)


def write_whole_set(folder: Path, **options: Any) -> Path:
    """Write images, a teacher, and the set that one worker makes of them with these options; return its folder."""
    import softlabel_codec.teacher  # noqa: F401  takes seconds, in which no process should be killed

    write_images_and_teacher(folder, IMAGES)
    whole = folder / "whole" / "labels"
    whole.parent.mkdir()
    assert end_of(in_child(bind(work, whole, folder, **options))) == 0
    return whole


class _Crew:
    """Starts workers of one set, which are processes of one machine or of several, with clocks of their own if there are random numbers."""

    def __init__(self, folder: Path, log: Path, several: bool, clocks: np.random.Generator | None) -> None:
        self.out, self.several = folder / "labels", several
        self._folder, self._log, self._clocks = folder, log, clocks
        self._ahead: list[float] = []

    def start(self) -> int:
        """Start a worker and return its process."""
        machine = f"machine {len(self._ahead)}" if self.several else ""
        clock = None if self._clocks is None else tuple(self._seconds_ahead() for _ in range(2))
        self._ahead += clock or (0.0,)
        return in_child(bind(work, self.out, self._folder, self._log, machine, clock))

    def _seconds_ahead(self) -> float:
        return float(self._clocks.choice([-1, 1]) * np.exp(self._clocks.uniform(*np.log([60, 12 * 3600]))))

    @property
    def seconds_apart(self) -> float:
        """How far two clocks were apart at most."""
        return max(self._ahead) - min(self._ahead)


def _one_set(crew: _Crew, workers: int, rng: np.random.Generator, counts: dict[str, int], most: int) -> None:
    """Make a set by workers of which one after another is killed or stopped, and at last by workers that are left alone."""
    living = {crew.start() for _ in range(workers)}
    stopped: dict[int, float] = {}
    while counts["kills"] < most and not (crew.out / "labels.slc.index.json").exists():
        time.sleep(rng.uniform(0, 0.4))
        living -= {child for child in living if _has_ended(child)}
        for child in [child for child, until in stopped.items() if time.monotonic() > until]:
            os.kill(child, signal.SIGCONT)
            living.add(child)
            del stopped[child]
        if living:
            chosen = rng.choice(sorted(living))
            living.remove(chosen)
            if rng.random() < 0.3:
                os.kill(chosen, signal.SIGSTOP)
                stopped[chosen] = time.monotonic() + rng.uniform(2, 8) * STALE_SECONDS
                counts["stops"] += 1
            else:
                os.kill(chosen, signal.SIGKILL)
                assert end_of(chosen) in (-signal.SIGKILL, 0)
                counts["kills"] += 1
            counts["on_several" if crew.several else "on_one_machine"] += 1
        living |= {crew.start() for _ in range(workers - len(living))}
    for child in stopped:
        os.kill(child, signal.SIGCONT)
    assert [end_of(child) for child in (*living, *stopped)] == [0] * (len(living) + len(stopped)), "a worker failed; see its traceback"
    assert end_of(crew.start()) == 0  # the others may have ended beside one that was killed


def _has_ended(child: int) -> bool:
    found, status = os.waitpid(child, os.WNOHANG)
    assert not found or os.waitstatus_to_exitcode(status) == 0, "a worker failed; see its traceback"
    return bool(found)


@dataclass(frozen=True)
class FullWorkers:
    """What came of workers of a label set of which one could write only files up to some length, as if its disk were full.

    Attributes
    ----------
    full : int
        Workers that failed for it, with an error that names a file.
    too_late : int
        Those that found no work that would have filled their disk.
    finished_by_others, finished_later : int
        Sets that the workers beside such a one finished, and those that needed another worker after it had failed; all have the bytes
        of one that one worker made, and no other files.
    errors : dict
        How the errors begin, and how many there were of each.
    """

    full: int
    too_late: int
    finished_by_others: int
    finished_later: int
    errors: dict[str, int]


def full_disk_of_one(folder: Path, count: int, *, workers: int = 3, seed: int = 0) -> FullWorkers:
    """Let workers make label sets, of which one cannot write more than so many bytes to a file (EFBIG, by RLIMIT_FSIZE)."""
    whole, out, told = write_whole_set(folder, crops=_FEW_CROPS), folder / "labels", folder / "told"
    most = max(path.stat().st_size for path in whole.glob("*.slc"))
    rng, errors, found = np.random.default_rng(seed), Counter(), Counter()
    while found["full"] < count:
        limited = in_child(bind(_work_limited, out, folder, told, int(rng.integers(0, most))))
        others = [in_child(bind(work, out, folder, crops=_FEW_CROPS)) for _ in range(workers - 1)]
        assert [end_of(child) for child in (limited, *others)] == [0] * workers, "a worker failed; see its traceback"
        found["full" if told.exists() else "too_late"] += 1
        if told.exists():
            said = told.read_text()
            assert f"'{out}" in said, f"expected an error that names a file of the set, got {said}"
            errors[said.partition(":")[0]] += 1
            told.unlink()
        by_others = (out / "labels.slc.index.json").exists()
        if not by_others:  # they do not wait for a worker that is making the last shard
            assert end_of(in_child(bind(work, out, folder, crops=_FEW_CROPS))) == 0, "a worker failed; see its traceback"
        found["finished_by_others" if by_others else "finished_later"] += 1
        check_same(out, whole)
        shutil.rmtree(out)
    return FullWorkers(**{name: found[name] for name in ("full", "too_late", "finished_by_others", "finished_later")}, errors=dict(errors))


def _work_limited(out: Path, folder: Path, told: Path, most_bytes: int) -> None:
    """Work until a file has this length, and write down what the error says."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        work(out, folder, crops=_FEW_CROPS)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        told.write_text(str(error))


def work(
    out: Path | str, folder: Path, log: Path | None = None, machine: str = "", clock: tuple[float, float] | None = None, **options: Any
) -> None:
    """Be a worker of the set of the images in a folder, on a machine of a name and with a clock, if they are given."""
    import logging

    import torch

    from softlabel_codec.label_set import locks
    from softlabel_codec.teacher import EncodeConfig, encode, set_worker

    torch.set_num_threads(1)
    locks.HEARTBEAT_SECONDS, locks.STALE_SECONDS, set_worker.LOOK_SECONDS = STALE_SECONDS / 10, STALE_SECONDS, 0.02
    if machine:  # what tells whether a process of the same machine lives
        locks._process = lambda pid: f"{machine} {pid}"
    if clock:
        _go_by(*clock)
    for name in ("softlabel_codec.label_set.locks", "softlabel_codec.teacher.set_worker") if log else ():
        logging.getLogger(name).addHandler(logging.FileHandler(log))
    how = {"crops": CROPS, "shards": SHARDS, "device": "cpu", **options}
    encode(EncodeConfig(str(folder / "images"), str(out), f"{folder / 'teacher.py'}:build", "marginal_smoothing:k=5", **how))


def _go_by(ahead: float, after_a_second: float) -> None:
    """Give this process, and the times that it gives to files, a clock that is so many seconds ahead, and set to another time soon."""
    real, since_start, touch = time.time, time.monotonic, os.utime
    change = since_start() + 1
    time.time = lambda: real() + (ahead if since_start() < change else after_a_second)
    time.monotonic = lambda: since_start() + abs(ahead)  # as of a machine that was started at another time
    os.utime = lambda file, times=None, **options: touch(file, times or (time.time(), time.time()), **options)


def check_same(found: Path, wanted: Path) -> None:
    """Check that two folders hold the same files."""
    there, expected = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (found, wanted))
    assert sorted(there) == sorted(expected), f"{found}: expected the files of {wanted}, got {sorted(there)}"
    differing = [name for name in there if there[name] != expected[name]]
    assert not differing, f"{found}: other bytes than in {wanted}: {differing}"
