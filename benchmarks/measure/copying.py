"""Speed of copies: of whole blocks, with other metadata, in several files, of chosen images and crops, in another codec.

By itself: python -m benchmarks.measure.copying [FOLDER]. The result depends on where FOLDER is: in memory (/dev/shm) or on a disk, to which
every copy is synced. Sources are in the page cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure.common import K, Labels, circumstances, copied, shared_labels, spread, top_k, write_container
from softlabel_codec import copy_labels
from softlabel_codec.container.builder import Assembly
from softlabel_codec.container.files import FileSource, PartialFile
from softlabel_codec.container.framing import BLOCK_HEAD
from softlabel_codec.container.joined import COPIED_BYTES
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import BlockScan, read_beginning

CODEC = f"marginal_smoothing:k={K}"
WHOLE_BYTES = 400 * 10**6
REPEATED, SHARDS = 20, 8
ROUNDS = 7
BARE, BLOCKS_AT_ONCE, PIECES = "bare, in two threads", 1300, 100


def copy_speeds(labels: Labels, folder: Path, *, whole_bytes: int = WHOLE_BYTES, repeated: int = REPEATED) -> dict[str, Any]:
    """Return how fast labels are copied.

    Returns
    -------
    dict
        `whole` and `decoded`: for each way to copy, `bytes` and `crops` of the copy, how many blocks were copied as they are and decoded,
        spreads of `seconds` and of `cpu_seconds` of all threads, and `of_bare`, the spread of the seconds divided by those of the bare copy
        with two threads in the same turn. `parts`: spreads of processor seconds per GB of what a bare copy does. `whole_bytes` and
        `decoded_bytes`: sizes of the files that are copied.
    """
    seed, large, ascending, small = (folder / f"{name}.slc" for name in ("seed", "large", "ascending", "small"))
    topk = top_k(labels, K)
    write_container(topk, seed, CODEC, derived=True)
    _repeat(seed, large, whole_bytes)
    write_container(topk.take(sorted(topk.keys), np.argsort(topk.keys)), seed, CODEC, derived=True)
    _repeat(seed, ascending, whole_bytes)
    write_container(topk, small, CODEC, derived=True, copies=repeated)
    shards, ascending_shards = folder / "shards", folder / "ascending-shards"
    copy_labels(large, shards, shards=SHARDS)
    copy_labels(ascending, ascending_shards, shards=SHARDS)
    half = [copied("*", number) for number in range(repeated // 2)]
    whole: Mapping[str, Callable[[Path], Any]] = {
        "unchanged": lambda path: copy_labels(ascending, path),
        "with other metadata": lambda path: copy_labels(ascending, path, metadata={"note": "another"}),
        f"split into {SHARDS} files": lambda path: copy_labels(ascending, path, shards=SHARDS),
        f"merged from {SHARDS} files": lambda path: copy_labels(ascending_shards, path),
        "unchanged, keys in no order": lambda path: copy_labels(large, path),
        f"split into {SHARDS} files, keys in no order": lambda path: copy_labels(large, path, shards=SHARDS),
        f"merged from {SHARDS} files, keys in no order": lambda path: copy_labels(shards, path),
        BARE: lambda path: _bare_copy(large, path, two_threads=True),
        "bare, in one thread": lambda path: _bare_copy(large, path, two_threads=False),
        "shutil.copyfile": lambda path: shutil.copyfile(large, path),
    }
    decoded: Mapping[str, Callable[[Path], Any]] = {
        "half of the images, in one piece": lambda path: copy_labels(small, path, match=half),
        "half of the images, at random": lambda path: copy_labels(small, path, sample=0.5),
        "a quarter of the crops": lambda path: copy_labels(small, path, crops=labels.flips.shape[1] // 4),
        f"{CODEC} to k={K - 2}": lambda path: copy_labels(small, path, codec=f"marginal_smoothing:k={K - 2}"),
        f"{CODEC} to hard": lambda path: copy_labels(small, path, codec="hard"),
    }
    return {
        "codec": CODEC,
        "whole_bytes": large.stat().st_size,
        "decoded_bytes": small.stat().st_size,
        "whole": _timed(whole, folder / "copy", BARE),
        "decoded": _timed(decoded, folder / "copy"),
        "parts": _parts(large, folder / "copy"),
    }


def _repeat(seed: Path, path: Path, num_bytes: int) -> None:
    """Write a file of about so many bytes that repeats the blocks of another; their images have other keys than the blocks say."""
    source = FileSource(seed)
    beginning = read_beginning(source)
    blocks = list(BlockScan(source, beginning).all())
    with PartialFile(path) as file:
        assembly = Assembly(file)
        assembly.begin(beginning.data)
        number = 0
        while file.length < num_bytes:
            for block in blocks:
                keys = [f"{number:05d}/{key}" for key in block.images.keys]
                assembly.add_payload(block.data[BLOCK_HEAD.size :], beginning.metadata_crc32, keys, block.images.num_crops.tolist())
            number += 1
        assembly.finish([])
    source.close()


def _bare_copy(source: Path, path: Path, *, two_threads: bool) -> None:
    """Do what no copy of whole blocks can do without: read, CRC-32 of each block, SHA-256 (in a second thread perhaps), write, fsync."""
    digest = hashlib.sha256()
    with OpenContainer(source) as container, open(path, "wb", buffering=0) as written, ThreadPoolExecutor(1) as thread:
        starts, hash_of = container.index.starts, thread.submit if two_threads else _call
        used: deque[tuple[bytearray, Future[None] | None]] = deque((bytearray(2 * COPIED_BYTES), None) for _ in range(3))
        for first in range(0, len(starts) - 1, BLOCKS_AT_ONCE):
            some = starts[first : first + BLOCKS_AT_ONCE + 1]
            buffer, hashed = used.popleft()
            if hashed is not None:
                hashed.result()
            data = memoryview(buffer)[: int(some[-1] - some[0])]
            container.source.read_into(int(some[0]), data)
            for start, end in pairwise((some - some[0]).tolist()):
                zlib.crc32(data[start:end])
            written.write(data)
            used.append((buffer, hash_of(digest.update, data)))
        thread.shutdown()
        os.fsync(written.fileno())


def _parts(source: Path, path: Path) -> dict[str, dict[str, float]]:
    """Return the processor seconds per GB that each part of a bare copy takes, a few MB at a time."""
    with OpenContainer(source) as container, open(path, "wb", buffering=0) as written:
        starts = container.index.starts[: BLOCKS_AT_ONCE + 1]
        data = memoryview(bytearray(int(starts[-1] - starts[0])))
        blocks = list(pairwise((starts - starts[0]).tolist()))
        parts: dict[str, Callable[[], object]] = {
            "read": lambda: container.source.read_into(int(starts[0]), data),
            "CRC-32 of each block": lambda: [zlib.crc32(data[start:end]) for start, end in blocks],
            "SHA-256": lambda: hashlib.sha256(data),
            "write": lambda: written.write(data),
        }
        seconds: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(PIECES):
            for name, part in parts.items():
                started = time.thread_time()
                part()
                seconds[name].append((time.thread_time() - started) * 1e9 / len(data))
    path.unlink()
    return {name: spread(times) for name, times in seconds.items()}


def _call(function: Callable[[memoryview], None], data: memoryview) -> None:
    function(data)


def _timed(ways: Mapping[str, Callable[[Path], Any]], path: Path, other: str | None = None) -> dict[str, dict[str, Any]]:
    """Return what ways to copy take, in turns; each copy is removed, which does not count. Seconds are also divided by those of one way."""
    taken: dict[str, list[_Taken]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            taken[name].append(_Taken.by(way, path))
    found = {name: _spreads(times) for name, times in taken.items()}
    for name, times in taken.items() if other else ():
        pairs = zip(times, taken[other or name], strict=True)
        found[name]["of_bare"] = spread([one.seconds / bare.seconds for one, bare in pairs])
    return found


class _Taken(NamedTuple):
    """What a copy took, how large it was, and what was said of it."""

    seconds: float
    cpu_seconds: float
    num_bytes: int
    report: Any

    @classmethod
    def by(cls, way: Callable[[Path], Any], path: Path) -> _Taken:
        """Copy, and remove the copy."""
        started, cpu_started = time.perf_counter(), time.process_time()
        report = way(path)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        num_bytes = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return cls(seconds, cpu_seconds, num_bytes, report)


def _spreads(times: list[_Taken]) -> dict[str, Any]:
    found: dict[str, Any] = {name: spread([getattr(one, name) for one in times]) for name in ("seconds", "cpu_seconds")}
    report = times[0].report
    if hasattr(report, "copied_blocks"):
        found |= {"crops": report.num_crops, "copied_blocks": report.copied_blocks, "decoded_blocks": report.decoded_blocks}
    return {"bytes": times[0].num_bytes, **found}


def main() -> None:
    """Measure in a folder, and print."""
    labels = shared_labels()
    if labels is None:
        sys.exit("real labels are needed beside the repository")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        json.dump({**circumstances(), "copy": copy_speeds(labels, Path(folder))}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
