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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure.common import K, Labels, circumstances, copied, shared_labels, spread, top_k, write_container
from softlabel_codec import copy_labels
from softlabel_codec.container.builder import Assembly
from softlabel_codec.container.files import FileSource, PartialFile
from softlabel_codec.container.framing import BLOCK_HEAD
from softlabel_codec.container.scan import BlockScan, read_beginning

CODEC = f"marginal_smoothing:k={K}"
WHOLE_BYTES = 400 * 10**6
REPEATED, SHARDS = 20, 8
ROUNDS = 5
CHUNK_BYTES = 2**20


def copy_speeds(labels: Labels, folder: Path, *, whole_bytes: int = WHOLE_BYTES, repeated: int = REPEATED) -> dict[str, Any]:
    """Return how fast labels are copied.

    Returns
    -------
    dict
        `whole` and `decoded`: for each way to copy, `bytes` and `crops` of the copy, how many blocks were copied as they are and decoded,
        and spreads of `seconds` and of `cpu_seconds` of all threads. `whole_bytes` and `decoded_bytes`: sizes of the files that are copied.
    """
    seed, large, small = (folder / f"{name}.slc" for name in ("seed", "large", "small"))
    topk = top_k(labels, K)
    write_container(topk, seed, CODEC, derived=True)
    _repeat(seed, large, whole_bytes)
    write_container(topk, small, CODEC, derived=True, copies=repeated)
    shards = folder / "shards"
    copy_labels(large, shards, shards=SHARDS)
    half = [copied("*", number) for number in range(repeated // 2)]
    whole: Mapping[str, Callable[[Path], Any]] = {
        "unchanged": lambda path: copy_labels(large, path),
        "with other metadata": lambda path: copy_labels(large, path, metadata={"note": "another"}),
        f"split into {SHARDS} files": lambda path: copy_labels(large, path, shards=SHARDS),
        f"merged from {SHARDS} files": lambda path: copy_labels(shards, path),
        "for comparison: shutil.copyfile": lambda path: shutil.copyfile(large, path),
        "for comparison: read, SHA-256, write, fsync in one thread": lambda path: _copy_with_digest(large, path),
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
        "whole": {name: _timed(way, folder / "copy") for name, way in whole.items()},
        "decoded": {name: _timed(way, folder / "copy") for name, way in decoded.items()},
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
                keys = [copied(key, number) for key in block.images.keys]
                assembly.add_payload(block.data[BLOCK_HEAD.size :], beginning.metadata_crc32, keys, block.images.num_crops.tolist())
            number += 1
        assembly.finish([])
    source.close()


def _copy_with_digest(source: Path, path: Path) -> None:
    digest = hashlib.sha256()
    with open(source, "rb", buffering=0) as read, open(path, "wb", buffering=0) as written:
        while part := read.read(CHUNK_BYTES):
            digest.update(part)
            written.write(part)
        os.fsync(written.fileno())


def _timed(way: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """Return what a way to copy takes, a few times; the copy is removed each time, which does not count."""
    seconds, cpu_seconds = [], []
    for _ in range(ROUNDS):
        started, cpu_started = time.perf_counter(), time.process_time()
        report = way(path)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        num_bytes = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found: dict[str, Any] = {"bytes": num_bytes, "seconds": spread(seconds), "cpu_seconds": spread(cpu_seconds)}
    if hasattr(report, "copied_blocks"):
        found |= {"crops": report.num_crops, "copied_blocks": report.copied_blocks, "decoded_blocks": report.decoded_blocks}
    return found


def main() -> None:
    """Measure in a folder, and print."""
    labels = shared_labels()
    if labels is None:
        sys.exit("real labels are needed beside the repository")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        json.dump({**circumstances(), "copy": copy_speeds(labels, Path(folder))}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
