"""Workers of a label set that are killed, or stopped until others have taken over what they were doing."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import numpy as np

from crashes.command import write_images_and_teacher
from crashes.processes import end_of, in_child

SHARDS, IMAGES, CROPS = 5, 40, 400
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
    finished_sets : int
        Sets that were finished after that; all have the bytes of one that one worker made without interruption, and no other files.
    taken_over : int
        Shards that a worker took from another one.
    lost : int
        Shards that a worker was making when it learned that it had lost them.
    """

    kills: int
    stops: int
    on_one_machine: int
    on_several: int
    finished_sets: int
    taken_over: int
    lost: int


def kills_of_workers(folder: Path, kills: int, *, workers: int = 3, seed: int = 0) -> WorkerKills:
    """Let workers make label sets, kill or stop one again and again, and check each finished set.

    Every second set is made by workers that cannot see whether the others live, as on several machines. They learn it from locks alone.
    """
    import softlabel_codec.teacher  # noqa: F401  takes seconds, in which no process should be killed

    write_images_and_teacher(folder, IMAGES)
    whole, log = folder / "whole" / "labels", folder / "log"
    whole.parent.mkdir()
    assert end_of(in_child(bind(_work, whole, log, ""))) == 0
    log.unlink()
    rng, counts = np.random.default_rng(seed), {"kills": 0, "stops": 0, "on_one_machine": 0, "on_several": 0}
    sets = 0
    while counts["kills"] < kills:
        several = bool(sets % 2)
        _one_set(folder, log, workers, several, rng, counts, most=min(kills, counts["kills"] + 12))
        check_same(folder / "labels", whole)
        shutil.rmtree(folder / "labels")
        sets += 1
    told = log.read_text()
    return WorkerKills(**counts, finished_sets=sets, taken_over=told.count("taken over from"), lost=told.count("left to another worker"))


def _one_set(folder: Path, log: Path, workers: int, several: bool, rng: np.random.Generator, counts: dict[str, int], most: int) -> None:
    """Make a set by workers of which one after another is killed or stopped, and at last by workers that are left alone."""
    out, started = folder / "labels", 0

    def start() -> int:
        nonlocal started
        started += 1
        return in_child(bind(_work, out, log, f"machine {started}" if several else ""))

    living = {start() for _ in range(workers)}
    stopped: dict[int, float] = {}
    while counts["kills"] < most and not (out / "labels.slc.index.json").exists():
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
            counts["on_several" if several else "on_one_machine"] += 1
        living |= {start() for _ in range(workers - len(living))}
    for child in stopped:
        os.kill(child, signal.SIGCONT)
    assert [end_of(child) for child in (*living, *stopped)] == [0] * (len(living) + len(stopped)), "a worker failed; see its traceback"
    assert end_of(start()) == 0  # the others may have ended beside one that was killed


def _has_ended(child: int) -> bool:
    found, status = os.waitpid(child, os.WNOHANG)
    assert not found or os.waitstatus_to_exitcode(status) == 0, "a worker failed; see its traceback"
    return bool(found)


def _work(out: Path, log: Path, machine: str) -> None:
    import logging

    import torch

    from softlabel_codec.label_set import locks
    from softlabel_codec.teacher import EncodeConfig, encode, set_worker

    torch.set_num_threads(1)
    locks.HEARTBEAT_SECONDS, locks.STALE_SECONDS, set_worker.LOOK_SECONDS = STALE_SECONDS / 10, STALE_SECONDS, 0.02
    if machine:  # what tells whether a process of the same machine lives
        locks._process = lambda pid: f"{machine} {pid}"
    for name in ("softlabel_codec.label_set.locks", "softlabel_codec.teacher.set_worker"):
        logging.getLogger(name).addHandler(logging.FileHandler(log))
    folder = log.parent
    how = {"crops": CROPS, "shards": SHARDS, "device": "cpu"}
    encode(EncodeConfig(str(folder / "images"), str(out), f"{folder / 'teacher.py'}:build", "marginal_smoothing:k=5", **how))


def check_same(found: Path, wanted: Path) -> None:
    """Check that two folders hold the same files."""
    there, expected = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (found, wanted))
    assert sorted(there) == sorted(expected), f"{found}: expected the files of {wanted}, got {sorted(there)}"
    differing = [name for name in there if there[name] != expected[name]]
    assert not differing, f"{found}: other bytes than in {wanted}: {differing}"
