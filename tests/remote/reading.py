"""Reading through a network that fails at random."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remote.stores import KEYS, Labels, Store, check_names, few_bytes, hurried_clients
from softlabel_codec import SoftLabelError, SoftLabelReader

PASSING = ["slow_down", "throttled", "broken", "drop", "cut", "short", "long", "elsewhere"]
"""Faults of the proxy that do not last, and are tried again."""
FAULTS = [*PASSING, "flipped", "whole", "old", "none"]
_SHARE = [0.03] * (len(FAULTS) - 1) + [0.67]
_STALE = 0.1
"""How often all answers are those from before, as far as there are any."""
_OPENINGS_PER_SET, _BATCHES = 10, 2


@dataclass(frozen=True)
class FaultyReads:
    """What came of reading label sets through a proxy that breaks off, delays, refuses, changes and mixes up answers at random.

    Attributes
    ----------
    reads : int
        Sets that were opened, and batches and keys that were read of them.
    right : int
        Those that were right.
    right_before : int
        Of these, of the set that was there before, as all answers came from then. No reader mixed the two.
    refused : dict
        All others, by the error.
    """

    reads: int
    right: int
    right_before: int
    refused: dict[str, int]


def read_through_faults(store: Store, folder: Path, openings: int, *, seed: int = 0) -> FaultyReads:
    """Read sets that were replaced by others of the same name, with random faults, and compare each label."""
    rng, found, refused = np.random.default_rng(seed), Counter(), Counter()
    with few_bytes(), hurried_clients():
        before, now = Labels(folder / "before", seed=1), Labels(folder / "now")
        for number in range(openings):
            if not number % _OPENINGS_PER_SET:
                url = _replaced(store, f"set-{seed}-{number}", before, now, rng)
            faults = ["old..."] if rng.random() < _STALE else rng.choice(FAULTS, 200, p=_SHARE).tolist()
            store.proxy.tell(delay=rng.choice([0, 0, 0.002, 0.02]), faults=faults)
            _read(url, before, now, rng, found, refused)
        store.proxy.tell(delay=0, faults=[])
    assert found["reads"] == found["right"] + sum(refused.values())
    return FaultyReads(found["reads"], found["right"], found["right_before"], dict(refused))


def _replaced(store: Store, name: str, before: Labels, now: Labels, rng: np.random.Generator) -> str:
    """Put a set where another one was, some of whose parts the proxy keeps for stale answers, and return its URL."""
    store.proxy.tell(delay=0, faults=[])
    url = before.put(store, name)
    with SoftLabelReader(url) as reader:
        for images in ([0, 1, 2], rng.integers(0, len(KEYS), 20)):
            reader.read_batch(images)
    return now.put(store, name)


def _read(url: str, before: Labels, now: Labels, rng: np.random.Generator, found: Counter[str], refused: Counter[str]) -> None:
    """Open a set, and read keys and batches of it."""
    folder, versions = url.rpartition("/")[0], {"now": now, "before": before}
    try:
        found["reads"] += 1
        with SoftLabelReader(url) as reader:
            found["right"] += 1
            for images in ([0, 1, 2], *rng.integers(0, len(KEYS), (_BATCHES, 8)).tolist()):
                found["reads"] += 1
                batch, key = reader.read_batch(images), reader.keys[images[0]]
                versions = {name: labels for name, labels in versions.items() if labels.are_those_of(batch, images)}
                assert versions, f"{url}: labels that are of neither set, or not of that which was read before"
                assert (key, reader.keys.find(key)) == (KEYS[images[0]], images[0]), f"{url}: image {images[0]} has the key {key}"
                found["right"] += 1
                found["right_before"] += "now" not in versions
    except (SoftLabelError, OSError) as error:
        check_names(error, folder)
        refused[type(error).__name__] += 1
