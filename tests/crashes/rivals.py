"""Several writers of one file, and readers of a file that is replaced."""

from __future__ import annotations

import os
import select
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import numpy as np

from crashes.processes import at_once, end_of, in_child
from crashes.unbroken import COUNTS, Unbroken, check_contents, clear, contents, some_images, unbroken_run, write
from softlabel_codec import SoftLabelError, SoftLabelReader


@dataclass(frozen=True)
class Rivals:
    """What came of several processes that write the same file at the same time.

    Attributes
    ----------
    rounds, writers_per_round : int
    finished : int
        Writers that finished: one in each round.
    refused : dict
        Names of the errors that the others got, and how many.
    """

    rounds: int
    writers_per_round: int
    finished: int
    refused: dict[str, int]


def rivals(folder: Path, rounds: int, writers: int = 4, *, seed: int = 0) -> Rivals:
    """Let several processes begin the same file at nearly the same moment: one writes it, the others are refused."""
    unbroken, rng, path = unbroken_run(folder, COUNTS[:12]), np.random.default_rng(seed), folder / "contested.slc"
    ends: Counter[str] = Counter()
    for _ in range(rounds):
        clear(path)
        told = at_once([bind(_contend, path, unbroken, delay) for delay in rng.uniform(0, 0.03, writers).tolist()])
        assert told.count("finished") == 1, f"expected one writer to finish, got {told}"
        assert path.read_bytes() == unbroken.data, f"{path}: {writers} writers at once left other bytes than one"
        ends.update(told)
    left = [name for name in ends if name not in ("finished", "StateError", "FileExistsError")]
    assert not left, f"expected StateError or FileExistsError of those that come second, got {left}"
    return Rivals(rounds, writers, ends.pop("finished"), dict(ends))


def _contend(path: Path, unbroken: Unbroken, delay: float) -> str:
    time.sleep(delay)
    try:
        write(path, unbroken.images, resume=True)
    except (OSError, SoftLabelError) as error:
        return type(error).__name__
    return "finished"


@dataclass(frozen=True)
class Replacements:
    """What came of a file that was replaced again and again while it was read.

    Attributes
    ----------
    replacements : int
        How many times it was replaced.
    reads_of_old : int
        Reads through readers that were opened before the first of them; all gave the old labels.
    openings : int
        Times that the file was opened meanwhile; each found one of the files that stood there, whole.
    """

    replacements: int
    reads_of_old: int
    openings: int


def replaced_under_readers(folder: Path, replacements: int) -> Replacements:
    """Replace a file while one process reads the old one through an open reader, and another opens it again and again."""
    path = folder / "replaced.slc"
    versions = [some_images(COUNTS[:12], seed=seed) for seed in range(3)]
    wanted = {}
    for version in versions:
        write(path, version, overwrite=True)
        with SoftLabelReader(path) as reader:
            wanted[reader.fingerprint] = contents(reader)
    reader = SoftLabelReader(path)  # inherited by the children, as DataLoader workers inherit it
    over, tell = os.pipe()

    def is_over() -> bool:
        return bool(select.select([over], [], [], 0)[0])

    def read_old() -> str:
        os.close(tell)
        reads = 0
        while reads == 0 or not is_over():
            check_contents(contents(reader), wanted[reader.fingerprint], path)
            reads += len(reader)
        return f"old {reads}"

    def open_again() -> str:
        os.close(tell)
        openings = 0
        while openings == 0 or not is_over():
            with SoftLabelReader(path) as found:
                check_contents(contents(found), wanted[found.fingerprint], path)
            openings += 1
        return f"new {openings}"

    incoming, outgoing = os.pipe()
    children = [in_child(lambda action=action: os.write(outgoing, action().encode() + b"\n")) for action in (read_old, open_again)]
    for number in range(replacements):
        write(path, versions[number % len(versions)], overwrite=True)
    for descriptor in (tell, over, outgoing):
        os.close(descriptor)
    with open(incoming) as pipe:
        told = dict(line.split() for line in pipe)
    assert [end_of(child) for child in children] == [0, 0], "a reader failed; see its traceback"
    check_contents(contents(reader), wanted[reader.fingerprint], path)
    reader.close()
    return Replacements(replacements, int(told["old"]), int(told["new"]))
