"""Label sets that are made in a bucket through a network that fails at random."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import numpy as np
from crashes.processes import end_of, in_child
from crashes.workers import SHARDS, work, write_whole_set

from remote.stores import Store, check_names, hurried_clients

FAULTS = ["slow_down", "throttled", "broken", "drop", "lost", "cut", "none"]
_SHARE = [0.07] * (len(FAULTS) - 1) + [0.58]
_WORKERS, _ROUNDS, _CROPS = 2, 6, 20
_INDEX = "labels.slc.index.json"
_FAILED = 3


@dataclass(frozen=True)
class FaultyUploads:
    """What came of label sets that machines which share only the bucket made there through a proxy that fails at random.

    Attributes
    ----------
    finished_sets : int
        All of them; each has the objects of a set that one worker made in a folder, and no others.
    of_large_files : int
        Of these, such whose shards were uploaded in several parts.
    workers : int
        How many worked on them, one after another and side by side.
    failed_workers : int
        Those that gave up with an error that names the bucket. Others finished what they had begun.
    looks : int
        How often it was looked what is in the bucket, after each failure too: only whole objects, and an index only beside all shards.
    looks_without_index : int
        Of these, before there was an index.
    """

    finished_sets: int
    of_large_files: int
    workers: int
    failed_workers: int
    looks: int
    looks_without_index: int


def upload_through_faults(store: Store, folder: Path, sets: int, *, seed: int = 0) -> FaultyUploads:
    """Make sets in the bucket by two workers at a time, with random faults of any request, until they are finished."""
    rng, found = np.random.default_rng(seed), Counter()
    whole = {path.name: path.read_bytes() for path in write_whole_set(folder, crops=_CROPS).iterdir()}
    for number in range(sets):
        name, in_parts = f"made-{seed}-{number}", bool(number % 2)
        for turn in range(_ROUNDS):
            calm = turn == _ROUNDS - 1
            faults = [] if calm else [f"any:{fault}" for fault in rng.choice(FAULTS, 400, p=_SHARE)]
            store.proxy.tell(delay=rng.choice([0, 0.005]), faults=faults)
            machines = [folder / f"machine-{number}-{worker}" for worker in range(_WORKERS)]
            children = [in_child(bind(_work, store.url(f"{name}/labels"), folder, machine, in_parts)) for machine in machines]
            ends = [end_of(child) for child in children]
            assert set(ends) <= ({0} if calm else {0, _FAILED}), "a worker failed; see its traceback"
            found["workers"] += _WORKERS
            found["failed_workers"] += ends.count(_FAILED)
            if _look(store, f"bucket/{name}/labels", whole, found):
                break
        else:
            raise AssertionError(f"{name}: not finished after {_ROUNDS} rounds, of which the last had no faults")
        found["finished_sets"] += 1
        found["of_large_files"] += in_parts
    store.proxy.tell(delay=0, faults=[])
    names = ("finished_sets", "of_large_files", "workers", "failed_workers", "looks", "looks_without_index")
    return FaultyUploads(**{name: found[name] for name in names})


def _look(store: Store, place: str, whole: dict[str, bytes], found: Counter[str]) -> bool:
    """Check what is in the bucket, and return whether the set is finished."""
    store.files.invalidate_cache()
    there = {path.rpartition("/")[2]: store.files.cat_file(path) for path in store.files.find(place)}
    wrong = [name for name, data in there.items() if whole.get(name) != data]
    assert not wrong, f"{place}: other objects than in a folder: {wrong}"
    finished = _INDEX in there
    assert not finished or len(there) == SHARDS + 1, f"{place}: an index without all shards: {sorted(there)}"
    found["looks"] += 1
    found["looks_without_index"] += not finished
    return finished


def _work(url: str, folder: Path, machine: Path, in_parts: bool) -> None:
    """Be a worker on a machine with a working folder of its own; end with a status of its own if the service fails too often."""
    from softlabel_codec.storage import ranges, s3_upload

    ranges.FIRST_WAIT_SECONDS = 0.01
    if in_parts:
        s3_upload.PART_BYTES = 500
    try:
        with hurried_clients():
            work(url, folder, crops=_CROPS, work=machine)
    except OSError as error:
        check_names(error, url)
        os._exit(_FAILED)
