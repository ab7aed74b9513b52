"""Storage: bytes per crop of every strategy and value encoding, and of the formats in use today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure.common import K, Labels, top_k, write_container
from benchmarks.measure.peers import FkdFiles, Hdf5, Lmdb, Npz, Parquet

IMAGENET_IMAGES = 1_281_167
IMAGENET_CROPS = 200, 500
VALUES = "", "f16", "f32"
STRATEGIES = (
    "smoothing",
    "marginal_smoothing:k=5",
    "marginal_smoothing:k=10",
    "marginal_smoothing:t=0.02",
    "marginal_smoothing:t=0.05",
    "marginal_smoothing:t=0.1",
    "marginal_renorm:k=5",
)
TAILS = "marginal_smoothing:t=0.1,tail=30", "marginal_smoothing:t=0.05,tail=100"
DENSE = "dense", "dense:values=f16", "dense:values=log8", "dense:values=log8,step=0.5"
DENSE_IMAGES = 20
FKD_FLOATS = {"full labels": 1000, "marginal smoothing, k=10": 20, "marginal smoothing, k=5": 10, "smoothing": 2, "hard": 1}
LMDB = "LMDB + zstd-3"
PEERS = {
    "FKD .tar, f32": lambda labels, folder: FkdFiles(labels, folder, "f4"),
    "FKD .tar, f16": FkdFiles,
    ".npz per image": Npz,
    "Parquet + zstd-19, default encodings": lambda labels, folder: Parquet(labels, folder, split=False),
    "Parquet + zstd-19, byte-split": Parquet,
    LMDB: Lmdb,
    "HDF5 + shuffle + gzip-9": Hdf5,
}


def codecs() -> list[str]:
    """Return the codec strings of the table."""
    sparse = [name + (f"{',' if ':' in name else ':'}values={values}" if values else "") for name in STRATEGIES for values in VALUES]
    return ["hard", *sparse, *TAILS]


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return bytes per crop of ours, with stored and derived crops, and of the peers."""
    ours = {codec: _sizes(labels, folder, codec) for codec in codecs() if labels.possible(codec)}
    some = labels.first(DENSE_IMAGES)
    ours |= {codec: _sizes(some, folder, codec) for codec in DENSE}
    topk = top_k(labels, K)
    made = {name: make(topk, folder / f"peer{number}") for number, (name, make) in enumerate(PEERS.items())}
    peers = {name: peer.num_bytes / topk.num_crops for name, peer in made.items()}
    peers[f"{LMDB}, values without pages"] = made[LMDB].value_bytes / topk.num_crops
    arithmetic = {name: {"bytes_per_crop": 4 * (floats + 5), **projected(4 * (floats + 5))} for name, floats in FKD_FLOATS.items()}
    return {
        "bytes_per_crop": ours,
        "peers_bytes_per_crop": peers,
        "fkd_arithmetic": arithmetic,
        "dense_images": DENSE_IMAGES,
        "imagenet_images": IMAGENET_IMAGES,
    }


def projected(bytes_per_crop: float) -> dict[str, float]:
    """Return the size in GB of labels of ImageNet-1k with M crops per image."""
    return {f"GB, M={crops}": bytes_per_crop * crops * IMAGENET_IMAGES / 1e9 for crops in IMAGENET_CROPS}


def _sizes(labels: Labels, folder: Path, codec: str) -> dict[str, float]:
    path = folder / "labels.slc"
    sizes = {name: write_container(labels, path, codec, derived=name == "derived") for name in ("stored", "derived")}
    return {name: size / labels.num_crops for name, size in sizes.items()}
