"""Measure label sets on this machine: opening 10,000 shards, and the speeds of copies: python -m benchmarks.sets [FOLDER].

Copies are made in FOLDER, by default in memory (/dev/shm), and in a temporary folder, to whose disk each copy is synced. Writes
`results/sets.json`. It needs the labels beside the repository.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.common import RESULTS, circumstances, shared_labels, spread, top_k, write_container
from benchmarks.measure.copying import CODEC, copy_speeds
from softlabel_codec import SoftLabelReader, copy_labels
from softlabel_codec.label_set.index_file import SetIndex, Shard
from softlabel_codec.label_set.making import images_of_shard, index_path, read_shards, shard_name

RESULT = RESULTS / "sets.json"
SHARDS, IMAGES, CROPS, ROUNDS = 10_000, 10**8, 20, 9


def opening(shard: Path, folder: Path) -> dict[str, Any]:
    """Return how long it takes to open a set of 10,000 shards and 10^8 images, of which only the index is there."""
    index = read_shards([shard])
    shards = [_shard(index.shards[0], number) for number in range(SHARDS)]
    path = index_path(folder, "large")
    path.write_bytes(SetIndex(index.description, tuple(shards), CROPS).pack())
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        SoftLabelReader(path).close()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    with SoftLabelReader(path) as reader:
        held = tracemalloc.get_traced_memory()[0]
        assert len(reader) == IMAGES
    tracemalloc.stop()
    return {"shards": SHARDS, "images": IMAGES, "index_bytes": path.stat().st_size, "seconds": spread(seconds), "memory_bytes": held}


def _shard(like: Shard, number: int) -> Shard:
    first, end = (images_of_shard(IMAGES, number, SHARDS)[place] for place in (0, -1))
    keys = {"first_key": f"{first:010d}.jpg", "last_key": f"{end:010d}.jpg"}
    images = end + 1 - first
    return replace(like, file=shard_name("large", number, SHARDS), images=images, crops=images * CROPS, **keys)


def random_batches(labels: Any, folder: Path) -> dict[str, Any]:
    """Return how long random batches of 64 images take in sets of 1, 10 and 100 shards of the same labels, in the page cache."""
    whole = folder / "whole.slc"
    write_container(top_k(labels, 5), whole, CODEC, derived=True, copies=20)
    found = {}
    readers = {}
    for count in (1, 10, 100):
        copy_labels(whole, folder / f"in-{count}", shards=count)
        readers[count] = SoftLabelReader(folder / f"in-{count}")
    times: dict[int, list[float]] = {count: [] for count in readers}
    rng = np.random.default_rng(0)
    for turn in range(1 + ROUNDS):
        for count, reader in readers.items():
            rows = [rng.integers(0, len(reader), 64) for _ in range(20)]
            started = time.process_time()
            for epoch, numbers in enumerate(rows):
                reader.draw(numbers, 4, epoch=epoch)
            if turn:
                times[count].append((time.process_time() - started) / len(rows))
    for count, reader in readers.items():
        reader.close()
        found[f"{count} shards"] = spread(times[count])
    return found


def main() -> None:
    """Measure, and write the result."""
    labels = shared_labels()
    if labels is None:
        sys.exit("real labels are needed beside the repository")
    memory = sys.argv[1] if len(sys.argv) > 1 else "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory) as fast, tempfile.TemporaryDirectory() as slow:
        shard = Path(slow) / "one.slc"
        write_container(top_k(labels, 5), shard, CODEC, derived=True)
        result = {
            **circumstances(),
            "opening": opening(shard, Path(slow)),
            "seconds_per_batch": random_batches(labels, Path(fast)),
            "copying": {"memory": copy_speeds(labels, Path(fast)), "disk": copy_speeds(labels, Path(slow))},
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT, file=sys.stderr)


if __name__ == "__main__":
    main()
