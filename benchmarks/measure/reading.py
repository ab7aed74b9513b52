"""Reading a few crops of random images, warm: each format in turn, same labels, same crops, ratios within each round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.common import SAMPLER, Labels, TopK, spread, time_side_by_side, top_k, write_container
from benchmarks.measure.common import K as KEPT
from benchmarks.measure.peers import FkdFiles, Hdf5, Lmdb, Npz, Parquet, Peer, check_agreement
from softlabel_codec import SoftLabelReader

CROPS = 4
BATCH = 256
READS = 1024
ROUNDS = 9
REPEATED = 40
FKD, LMDB = "FKD .tar, f16", "LMDB + zstd-3"
PEERS: dict[str, tuple[Any, int]] = {
    FKD: (FkdFiles, 512),
    LMDB: (Lmdb, READS),
    "HDF5": (Hdf5, 256),
    ".npz": (Npz, 128),
    "Parquet": (Parquet, 64),
}
CODEC, EXACT = f"marginal_smoothing:k={KEPT}", f"marginal_smoothing:k={KEPT},values=f16"
SMALL, FAITHFUL = "marginal_smoothing:t=0.1,tail=30", "marginal_smoothing:t=0.05,tail=100"
OURS = [(CODEC, "stored"), (CODEC, "derived"), (EXACT, "stored"), (EXACT, "derived")]
FROM_PROBS = [(SMALL, "derived"), (FAITHFUL, "derived")]


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return microseconds per image and ratios, on the labels as they are and on a larger set made of them."""
    topk = top_k(labels, KEPT)
    many = topk.repeated(REPEATED)
    return {
        f"{len(topk.keys)} images": _measure_set(topk, labels, 1, folder / "few"),
        f"{len(many.keys)} images": _measure_set(many, labels, REPEATED, folder / "many"),
        "crops": CROPS,
        "batch": BATCH,
    }


def _measure_set(topk: TopK, labels: Labels, copies: int, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, len(topk.keys), READS)
    chosen = rng.integers(0, topk.flips.shape[1], (READS, CROPS))
    ways: dict[str, Callable[[], object]] = {}
    reads: dict[str, int] = {}
    for number, (name, (make, count)) in enumerate(PEERS.items()):
        peer = make(topk, folder / f"peer{number}")
        check_agreement(peer, topk, int(images[0]))
        ways[name], reads[name] = _read_peer(peer, images[:count].tolist(), chosen), count
    blocks = {}
    for codec, crops in OURS + FROM_PROBS:
        path = folder / f"{len(ways)}.slc"
        if not labels.possible(codec):
            continue
        if (codec, crops) in FROM_PROBS:
            write_container(labels, path, codec, derived=True, copies=copies)
        else:
            write_container(topk, path, codec, derived=crops == "derived")
        reader = SoftLabelReader(path)
        _check_ours(reader, topk, int(images[0]))
        for way, read in (("read", _read_one_by_one), ("read_batch", _read_in_batches)):
            name = f"{way}, {codec}, {crops}"
            ways[name], reads[name] = read(reader, images, chosen), READS
        blocks[f"{codec}, {crops}"] = _blocks_per_batch(reader, images)
    return {**_times(time_side_by_side(ways, ROUNDS), reads), "distinct_blocks_per_batch": blocks}


def _times(seconds: dict[str, NDArray[np.float64]], reads: dict[str, int]) -> dict[str, Any]:
    each = {name: times / reads[name] * 1e6 for name, times in seconds.items()}
    return {
        "microseconds_per_image": {name: spread(times) for name, times in each.items()},
        "times_faster_than_fkd": {name: spread(each[FKD] / times) for name, times in each.items()},
        "times_faster_than_lmdb": {name: spread(each[LMDB] / times) for name, times in each.items()},
    }


def _read_peer(peer: Peer, images: list[int], chosen: NDArray[np.int64]) -> Callable[[], None]:
    def read() -> None:
        for image, crops in zip(images, chosen, strict=False):
            peer.read(image, crops)

    return read


def _read_one_by_one(reader: SoftLabelReader, images: NDArray[np.int64], chosen: NDArray[np.int64]) -> Callable[[], None]:
    def read() -> None:
        for image, crops in zip(images.tolist(), chosen, strict=True):
            reader.read(image, crops=crops)

    return read


def _read_in_batches(reader: SoftLabelReader, images: NDArray[np.int64], chosen: NDArray[np.int64]) -> Callable[[], None]:
    def read() -> None:
        for start in range(0, len(images), BATCH):
            reader.read_batch(images[start : start + BATCH], crops=chosen[start : start + BATCH])

    return read


def _blocks_per_batch(reader: SoftLabelReader, images: NDArray[np.int64]) -> dict[str, int]:
    blocks = {reader.container.index.locate(image)[0] for image in images[:BATCH].tolist()}
    return {"distinct": len(blocks), "images": BATCH, "blocks_in_file": reader.container.trailer.num_blocks}


def _check_ours(reader: SoftLabelReader, topk: TopK, image: int) -> None:
    """Raise AssertionError unless both ways of reading return what was stored: up to float16, or within half a log8 step."""
    chosen = np.array([3, 1, topk.flips.shape[1] - 1, 1])
    crops, flips = topk.crops[image], topk.flips[image]
    if reader.crops == "derived":
        crops, flips = SAMPLER.sample(topk.keys[image], tuple(topk.image_sizes[image].tolist()), range(len(flips)))
    for read in (reader.read(image, crops=chosen), next(iter(reader.read_batch([image], crops=chosen[None])))):
        assert np.array_equal(read.crops, crops[chosen])
        assert np.array_equal(read.flips, flips[chosen])
        if reader.codec not in (CODEC, EXACT):
            continue
        values = topk.values[image, chosen]
        assert np.array_equal(read.labels.indices, topk.indices[image, chosen])
        if reader.codec == EXACT:
            assert np.array_equal(read.labels.values.astype(np.float16), values.astype(np.float16))
        else:
            error = np.log(read.labels.values / read.labels.values[:, :1]) - np.log(values / values[:, :1])
            assert np.abs(error).max() < 0.1 + 1e-4
