"""Workloads that lean on reading: many workers, many threads, large files, many images.

Each takes its size and an empty folder, checks everything that was read against what must be there, and returns what it counted;
AssertionError says what does not hold. `test_load.py` runs them small, the reliability command large. What must be there is a function of
image and crop number, so that every process knows it without being told.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from softlabel_codec import SoftLabelReader, SoftLabelWriter, writer
from softlabel_codec.container import files as store
from softlabel_codec.container.builder import Assembly
from softlabel_codec.container.files import FileSource, PartialFile
from softlabel_codec.container.framing import BLOCK_HEAD, TRAILER, Index, Trailer, pack_block, pack_copy, pack_key_pages
from softlabel_codec.container.keys import key_order
from softlabel_codec.container.scan import Beginning, BlockScan, WholeBlock, read_beginning
from softlabel_codec.container.summary import pack_summary
from softlabel_codec.report import verify

NUM_CLASSES, NUM_CROPS, KEPT = 1009, 8, 5
CODEC = f"marginal_smoothing:k={KEPT},values=f32"
IMAGE_SIZE = (500, 400)
BATCH = 64
START_METHODS = "fork", "spawn", "forkserver"
GIB = 2**30


def key_of(image: int, ascending: bool = False) -> str:
    """Return the key of an image: keys that do not ascend need pages of their order in the file, and more steps to be found."""
    return f"class{image // 1000:05d}/{image:08d}.jpg" if ascending else f"class{image % 7}/{image:08d}.jpg"


def crops_of(images: NDArray[np.int64], crops: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return coordinates (n, 4) and flips (n,) of crops of images."""
    top, left = images * 7 % 100 + crops, images * 11 % 90 + 2 * crops
    return np.stack([top, left, 100 + images % 200, 50 + (images + crops) % 150], axis=1), (images ^ crops) & 1 == 1


def labels_of(images: NDArray[np.int64], crops: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most probable classes (n, KEPT) of crops of images, and their probabilities."""
    places = np.arange(KEPT)
    classes = (images[:, None] * 31 + crops[:, None] * 17 + places * (1 + images[:, None] % 200)) % NUM_CLASSES
    values = 0.5 ** (1 + places) * (1 - (images * NUM_CROPS + crops)[:, None] % 1024 / 2**20)
    return classes, values.astype(np.float32)


def write_known(path: Path, num_images: int) -> None:
    """Write a file of so many images whose contents `crops_of` and `labels_of` know."""
    numbers = np.arange(NUM_CROPS)
    with SoftLabelWriter(path, NUM_CLASSES, CODEC, overwrite=True) as labels:
        for image in range(num_images):
            images = np.full(NUM_CROPS, image)
            (crops, flips), (indices, values) = crops_of(images, numbers), labels_of(images, numbers)
            labels.add(key_of(image), image_size=IMAGE_SIZE, crops=crops, flips=flips, indices=indices, values=values)


def check_read(found: Any, images: NDArray[np.int64], crops: NDArray[np.int64]) -> None:
    """Check what was read of these crops, image by image."""
    (wanted_crops, wanted_flips), (wanted_indices, wanted_values) = crops_of(images, crops), labels_of(images, crops)
    same = (
        np.array_equal(found.crops, wanted_crops)
        and np.array_equal(found.flips, wanted_flips)
        and np.array_equal(found.labels.indices, wanted_indices)
        and np.array_equal(found.labels.values, wanted_values)
    )
    assert same, f"images {images.tolist()}, crops {crops.tolist()}: what was read is not what was written"


def read_some(reader: SoftLabelReader, seed: int) -> int:
    """Read and check crops of BATCH random images, in the way that the seed says, and return how many images that was."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, len(reader), BATCH)
    crops = rng.integers(0, NUM_CROPS, (BATCH, 4))
    ways = (_read_together, _read_one_by_one, _read_by_key)
    ways[seed % len(ways)](reader, images, crops)
    return BATCH


def _read_together(reader: SoftLabelReader, images: NDArray[np.int64], crops: NDArray[np.int64]) -> None:
    check_read(reader.read_batch(images, crops), images.repeat(crops.shape[1]), crops.ravel())


def _read_one_by_one(reader: SoftLabelReader, images: NDArray[np.int64], crops: NDArray[np.int64]) -> None:
    for image, chosen in zip(images, crops, strict=True):
        check_read(reader.read(int(image), chosen), image.repeat(len(chosen)), chosen)


def _read_by_key(reader: SoftLabelReader, images: NDArray[np.int64], crops: NDArray[np.int64]) -> None:
    keys = [key_of(image) for image in images.tolist()]
    assert [reader.keys[image] for image in images.tolist()] == keys, "a key is not that of its image"
    assert f"{keys[0]}x" not in reader, "a key is found that is not there"
    check_read(reader.read_batch(keys, crops), images.repeat(crops.shape[1]), crops.ravel())


# Many workers


class Reads:
    """A dataset whose items are batches of checked reads: the number of images, and the process that read them."""

    def __init__(self, path: Path, num_batches: int) -> None:
        self._reader = SoftLabelReader(path)
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, number: int) -> tuple[int, int]:
        return read_some(self._reader, number), os.getpid()


@dataclass(frozen=True)
class WorkerReads:
    """What came of the workers of a DataLoader reading one file.

    Attributes
    ----------
    start_method : str
    workers : int
        Processes; all of them read.
    reads : int
        Images read and checked, 4 crops of each.
    seconds : float
        From the end of the first batch to the end of the last.
    memory_bytes : list of int
        Memory of all workers together (their shares of it: PSS), after each tenth of the reads.
    growth_bytes : int
        The last of them less the first.
    """

    start_method: str
    workers: int
    reads: int
    seconds: float
    memory_bytes: list[int]
    growth_bytes: int


def worker_reads(folder: Path, reads: int, start_method: str = "fork", *, workers: int = 16, num_images: int = 5000) -> WorkerReads:
    """Read one file at random with the workers of a DataLoader, check every read, and watch their memory."""
    from torch.utils.data import DataLoader

    path = folder / "known.slc"
    write_known(path, num_images)
    num_batches = -(-reads // BATCH)
    how = {"num_workers": workers, "multiprocessing_context": start_method, "worker_init_fn": _use_one_thread}
    seen: set[int] = set()
    memory: list[int] = []
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than processors, and forking beside threads: both are meant
        loader = DataLoader(Reads(path, num_batches), batch_size=None, **how)
        for number, (images, process) in enumerate(loader, start=1):
            if number == 1:
                start = time.monotonic()
            done += images
            seen.add(process)
            if number * 10 // num_batches > (number - 1) * 10 // num_batches:
                assert len(seen) == workers, f"{number} batches: too few for {workers} workers to show how their memory grows"
                memory.append(sum(map(memory_of, seen)))
    assert done == num_batches * BATCH >= reads, f"expected {reads} reads, got {done}"
    return WorkerReads(start_method, workers, done, time.monotonic() - start, memory, memory[-1] - memory[0])


def _use_one_thread(worker: int) -> None:
    import torch

    torch.set_num_threads(1)


def memory_of(process: int | str) -> int:
    """Return a process's share of the memory in bytes: pages that n processes have in common count 1/n for each of them."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    assert found, f"process {process}: the kernel does not say how much memory it takes"
    return int(found[1]) * 1024


# Many threads


@dataclass(frozen=True)
class ThreadReads:
    """What came of threads that share one reader.

    Attributes
    ----------
    threads : int
    reads : int
        Images read and checked.
    seconds : float
    """

    threads: int
    reads: int
    seconds: float


def thread_reads(folder: Path, reads: int, *, threads: int = 8, num_images: int = 5000) -> ThreadReads:
    """Read one file at random with threads that share a reader, in all ways, while they are switched as often as Python can."""
    path = folder / "known.slc"
    write_known(path, num_images)
    num_batches = -(-reads // BATCH)
    start = time.monotonic()
    with switching_often(), SoftLabelReader(path) as reader, ThreadPoolExecutor(threads) as pool:
        names: set[str] = set()
        barrier = threading.Barrier(threads)

        def read(thread: int) -> int:
            barrier.wait()  # nobody reads before all threads are there
            names.add(threading.current_thread().name)
            return sum(read_some(reader, number) for number in range(thread, num_batches, threads))

        done = sum(pool.map(read, range(threads)))
    assert len(names) == threads, f"expected {threads} threads to read, got {len(names)}"
    assert done == num_batches * BATCH, f"expected {num_batches * BATCH} reads, got {done}"
    return ThreadReads(threads, done, time.monotonic() - start)


@contextmanager
def switching_often() -> Any:
    """Let Python switch threads after a microsecond instead of five milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


# Large files


@dataclass(frozen=True)
class LargeFile:
    """What came of a file that needs more than 32 bits for its offsets.

    Attributes
    ----------
    file_bytes, disk_bytes : int
        Its length, and what it takes of the disk.
    num_images, num_blocks : int
    last_block_offset, keys_offset, summary_offset, index_offset : int
        Where its parts begin that were read.
    verified : bool
        Every byte was read, and every label decoded.
    """

    file_bytes: int
    disk_bytes: int
    num_images: int
    num_blocks: int
    last_block_offset: int
    keys_offset: int
    summary_offset: int
    index_offset: int
    verified: bool


LARGE_CLASSES, LARGE_CROPS = 1000, 8192
LARGE_IMAGE_BYTES = 4 * LARGE_CLASSES * LARGE_CROPS
HOLE_BYTES = 2**24


def large_file(folder: Path, min_bytes: int = 4 * GIB, *, check_all: bool = True) -> LargeFile:
    """Write a sound file of more than `min_bytes` through the writer, read the images at its end and verify it.

    The labels are logits that are nearly all zero, so that the writer stores them uncompressed, lest they look like a decompression
    bomb. Zeros are left out on the disk, where the file system knows holes.
    """
    path = folder / "large.slc"
    num_images = min_bytes // LARGE_IMAGE_BYTES + 2
    with (
        mock.patch.object(store, "os", _SparseOs()),
        SoftLabelWriter(path, LARGE_CLASSES, "dense:f32,content=logits", {}, overwrite=True) as labels,
    ):
        for image in range(num_images):
            crops, flips = np.tile([0, 0, *IMAGE_SIZE], (LARGE_CROPS, 1)), np.zeros(LARGE_CROPS, np.bool_)
            labels.add(key_of(image), image_size=IMAGE_SIZE, crops=crops, flips=flips, vectors=_large_logits(image, range(LARGE_CROPS)))
        labels.finish(skipped_keys=[key_of(num_images)])
    with SoftLabelReader(path) as reader:
        for image in (0, num_images - 2, num_images - 1):
            chosen = [0, image % LARGE_CROPS, LARGE_CROPS - 1]
            found = reader.read(key_of(image), chosen).labels.vectors
            assert np.array_equal(found, _large_logits(image, chosen)), f"image {image}: what was read is not what was written"
        result = _large(reader, min_bytes, num_images, check_all)
    assert not check_all or verify(path, deep=True).ok, f"{path}: verify finds something wrong"
    path.unlink()
    return result


def _large_logits(image: int, crops: Any) -> NDArray[np.float32]:
    """Return logits of crops: zero but for one crop of each image and the last one."""
    logits = np.zeros((len(crops), LARGE_CLASSES), np.float32)
    for row, crop in enumerate(crops):
        if crop in (image % LARGE_CROPS, LARGE_CROPS - 1):
            logits[row] = np.arange(LARGE_CLASSES) + image + crop / 2
    return logits


def one_block(path: Path, num_images: int) -> tuple[Beginning, WholeBlock]:
    """Write a file of known images in a single block and return what it begins with, and the block."""
    with mock.patch.object(writer, "TARGET_BYTES_PER_BLOCK", 2**20):
        write_known(path, num_images)
    source = FileSource(path)
    beginning = read_beginning(source)
    (block,) = BlockScan(source, beginning).all()
    source.close()
    return beginning, block


class _SparseOs:
    """Stands in for `os` in `store.py`: what is zero is not written but left as a hole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        page = 4096
        zeros = bytes(page)
        for start in range(-(offset % page), len(data), page):  # holes begin where pages of the disk do
            part = data[max(0, start) : start + page]
            if part != zeros[: len(part)]:
                assert os.pwrite(descriptor, part, offset + max(0, start)) == len(part), "a short write"
        if os.fstat(descriptor).st_size < offset + len(data):
            os.ftruncate(descriptor, offset + len(data))
        return len(data)


def _large(reader: SoftLabelReader, min_bytes: int, num_images: int, verified: bool) -> LargeFile:
    """Check keys, summary and offsets of a large file and return them."""
    trailer = reader.container.trailer
    last_block = int(reader.container.index.starts[-2])
    offsets = last_block, trailer.keys_offset, trailer.summary_offset, trailer.index_offset
    assert len(reader) == num_images, f"expected {num_images} images, got {len(reader)}"
    assert min(offsets) >= min_bytes, f"expected the last block and what follows beyond {min_bytes} bytes, got {offsets}"
    assert [reader.keys.index(key_of(image)) for image in range(num_images)] == list(range(num_images)), "keys are not those written"
    assert reader.summary["skipped_keys"] == [key_of(num_images)], "the summary is not the one written"
    disk_bytes = os.stat(reader.path).st_blocks * 512
    return LargeFile(trailer.file_length, disk_bytes, num_images, trailer.num_blocks, *offsets, verified)


def holes_before_the_end(folder: Path, min_bytes: int = 4 * GIB) -> LargeFile:
    """Make a file of more than `min_bytes` of which only the end is sound, in no time, and read that: all blocks before are a hole."""
    seed, path = folder / "seed.slc", folder / "holes.slc"
    num_holes = min_bytes // HOLE_BYTES + 1
    beginning, block = one_block(seed, 4)
    last = pack_block(block.data[BLOCK_HEAD.size :], beginning.metadata_crc32, num_holes)
    images = num_holes + len(block.images.keys)
    keys = [key_of(image).encode() for image in range(images)]
    last_offset = len(beginning.data) + num_holes * HOLE_BYTES
    lengths, numbers = [HOLE_BYTES] * num_holes + [len(last)], [1] * num_holes + [images - num_holes]
    crops = np.full(images, NUM_CROPS)
    parts = [
        last,
        pack_key_pages(keys, key_order(keys)),
        pack_summary(keys, [key_of(images)]),
        Index(np.array(lengths, np.uint32), np.array(numbers, np.uint16), (crops - 1).astype(np.uint16)).pack(),
        pack_copy(beginning.data),
    ]
    offsets = (last_offset + np.cumsum([len(part) for part in parts])).tolist()
    trailer = Trailer(
        *offsets[:4], offsets[4] + TRAILER.size, images, num_holes + 1, int(crops.sum()), 0, hashlib.sha256(b"unknown").digest()
    )
    with path.open("wb") as file:
        file.write(beginning.data)
        file.seek(last_offset)
        file.write(b"".join(parts) + trailer.pack())
    with SoftLabelReader(path) as reader:
        numbers_of_crops = np.arange(NUM_CROPS)
        for place in range(images - num_holes):  # the last block holds the images of the seed file
            check_read(reader.read(key_of(num_holes + place)), np.full(NUM_CROPS, place), numbers_of_crops)
        result = _large(reader, min_bytes, images, verified=False)
    path.unlink()
    return result


# Many images


IMAGES_PER_BLOCK = 125


@dataclass(frozen=True)
class ManyImages:
    """What came of a file of very many images. Opening and looking up happened in a process of their own.

    Attributes
    ----------
    num_images, file_bytes : int
    ascending : bool
        Whether the keys stand in ascending order, as those of an image folder do.
    open_seconds : float
    open_bytes, used_bytes : int
        Memory that the process took more when the file was open, and after all reading and looking up.
    look_ups : int
        Random keys that were found, and as many that were not there.
    look_up_microseconds : float
        For each of those that were found.
    """

    num_images: int
    file_bytes: int
    ascending: bool
    open_seconds: float
    open_bytes: int
    used_bytes: int
    look_ups: int
    look_up_microseconds: float


def many_images(folder: Path, num_images: int = 10**7, look_ups: int = 1000, *, ascending: bool = False) -> ManyImages:
    """Index very many images, and open, look up and read in a fresh process."""
    path = folder / "many.slc"
    write_repeated(path, num_images, ascending)
    command = [sys.executable, __file__, str(path), str(look_ups), *(["ascending"] if ascending else [])]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return ManyImages(num_images, path.stat().st_size, ascending, **json.loads(run.stdout))


def write_repeated(path: Path, num_images: int, ascending: bool) -> None:
    """Write a file of so many images that repeats one block under other keys, as writing them all would take an hour."""
    assert num_images % IMAGES_PER_BLOCK == 0, f"expected a multiple of {IMAGES_PER_BLOCK} images, got {num_images}"
    seed = path.with_name("seed.slc")
    beginning, block = one_block(seed, IMAGES_PER_BLOCK)
    payload, counts = block.data[BLOCK_HEAD.size :], block.images.num_crops.tolist()
    with PartialFile(path, overwrite=True, unfinished="discard") as file:
        assembly = Assembly(file)
        assembly.begin(beginning.data)
        for number in range(num_images // IMAGES_PER_BLOCK):
            keys = [key_of(number * IMAGES_PER_BLOCK + place, ascending) for place in range(IMAGES_PER_BLOCK)]
            assembly.add_payload(payload, beginning.metadata_crc32, keys, counts)
        assembly.finish([])


def open_many(path: str, look_ups: int, ascending: bool) -> dict[str, float]:
    """Return what it takes this process to open a file, to look up random keys and to read what they stand for."""
    before = memory_of("self")
    start = time.perf_counter()
    reader = SoftLabelReader(path)
    open_seconds = time.perf_counter() - start
    open_bytes = memory_of("self") - before
    images = np.random.default_rng(0).integers(0, len(reader), look_ups).tolist()
    keys = [key_of(image, ascending) for image in images]
    start = time.perf_counter()
    found = [reader.keys.index(key) for key in keys]
    look_up_seconds = time.perf_counter() - start
    assert found == images, "keys were found at other images"
    assert not any(f"{key}x" in reader for key in keys), "keys were found that are not there"
    for image in (0, *images[:100], len(reader) - 1):
        place = np.full(NUM_CROPS, image % IMAGES_PER_BLOCK)
        check_read(reader.read(key_of(image, ascending)), place, np.arange(NUM_CROPS))
    used_bytes = memory_of("self") - before
    return {
        "open_seconds": open_seconds,
        "open_bytes": open_bytes,
        "used_bytes": used_bytes,
        "look_ups": look_ups,
        "look_up_microseconds": look_up_seconds / look_ups * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(open_many(sys.argv[1], int(sys.argv[2]), "ascending" in sys.argv[3:])))
