"""The formats that soft labels are kept in today.

Each stores the same: crops, flips, top-K classes and probabilities, losing at most what float16 loses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import zstandard
from numpy.typing import NDArray

from benchmarks.measure.common import TopK

IMAGES_PER_ROW_GROUP = 8


class Crops(NamedTuple):
    """Chosen crops of one image: coordinates (n, 4) in pixels or fractions, flips (n,), classes and probabilities (n, K)."""

    crops: NDArray[Any]
    flips: NDArray[Any]
    classes: NDArray[Any]
    probs: NDArray[Any]


class Peer(Protocol):
    """A format: writes its files when made, and knows their size.

    Attributes
    ----------
    num_bytes : int
        Of all files.
    """

    num_bytes: int

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        """Return chosen crops of an image."""


class FkdFiles:
    """One file per image as FKD's generator writes it, read as its loader does: `torch.load`, then picking the crops."""

    def __init__(self, labels: TopK, folder: Path, dtype: str = "f2") -> None:
        folder.mkdir()
        self._paths = [folder / f"{image}.tar" for image in range(len(labels.keys))]
        scales = np.tile(labels.image_sizes, 2)
        for image, path in enumerate(self._paths):
            fractions = (labels.crops[image] / scales[image]).astype(dtype)
            stored = np.stack([labels.indices[image], labels.values[image]], axis=1).astype(dtype)
            torch.save([fractions, labels.flips[image], stored], path)
        self.num_bytes = sum(path.stat().st_size for path in self._paths)

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        fractions, flips, stored = torch.load(self._paths[image], weights_only=False)
        picked = stored[chosen]
        return Crops(fractions[chosen], flips[chosen], picked[:, 0], picked[:, 1])


def _columns(labels: TopK, image: int | slice) -> Crops:
    classes, probs = labels.indices[image].astype(np.uint16), labels.values[image].astype(np.float16)
    return Crops(labels.crops[image].astype(np.uint16), labels.flips[image].astype(np.uint8), classes, probs)


class Lmdb:
    """LMDB: for each image its columns, zstd-3. `value_bytes` are those columns alone, without the pages that they lie in."""

    def __init__(self, labels: TopK, folder: Path) -> None:
        self._num_crops, self._k = labels.indices.shape[1:]
        compressor = zstandard.ZstdCompressor(level=3)
        self.value_bytes = 0
        environment = lmdb.open(str(folder), map_size=2**32)
        with environment.begin(write=True) as transaction:
            for image in range(len(labels.keys)):
                columns = b"".join(np.ascontiguousarray(column.T).tobytes() for column in _columns(labels, image))
                value = compressor.compress(columns)
                transaction.put(b"%08d" % image, value)
                self.value_bytes += len(value)
        environment.close()
        self.num_bytes = (folder / "data.mdb").stat().st_size
        self._transaction = lmdb.open(str(folder), readonly=True, lock=False).begin(buffers=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        data = self._decompressor.decompress(self._transaction.get(b"%08d" % image))
        num, k = self._num_crops, self._k
        crops = np.frombuffer(data, np.uint16, 4 * num).reshape(4, num)
        flips = np.frombuffer(data, np.uint8, num, 8 * num)
        classes = np.frombuffer(data, np.uint16, k * num, 9 * num).reshape(k, num)
        probs = np.frombuffer(data, np.float16, k * num, (9 + 2 * k) * num).reshape(k, num)
        return Crops(crops[:, chosen].T, flips[chosen], classes[:, chosen].T, probs[:, chosen].T)


class Hdf5:
    """HDF5: four datasets in chunks of one image, shuffle and gzip-9."""

    def __init__(self, labels: TopK, folder: Path) -> None:
        folder.mkdir()
        path = folder / "labels.h5"
        with h5py.File(path, "w", libver="latest") as file:
            for name, column in _columns(labels, slice(None))._asdict().items():
                chunks = (1, *column.shape[1:])
                file.create_dataset(name, data=column, chunks=chunks, shuffle=True, compression="gzip", compression_opts=9)
        self.num_bytes = path.stat().st_size
        self._file = h5py.File(path, "r")
        self._datasets = [self._file[name] for name in Crops._fields]

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        return Crops(*(dataset[image][chosen] for dataset in self._datasets))


class Parquet:
    """Parquet: a row per crop, a column per number, 8 images per row group, zstd-19, byte-split columns."""

    def __init__(self, labels: TopK, folder: Path, *, split: bool = True) -> None:
        folder.mkdir()
        self._num_crops, k = labels.indices.shape[1:]
        columns = _columns(labels, slice(None))
        named = {
            name: column
            for group, width in (("crops", 4), ("classes", k), ("probs", k))
            for name, column in self._split(columns, group, width)
        }
        table = pyarrow.table({"flip": columns.flips.reshape(-1), **named})
        path = folder / "labels.parquet"
        encoding = {"use_dictionary": False, "use_byte_stream_split": list(named)} if split else {}
        rows = IMAGES_PER_ROW_GROUP * self._num_crops
        pyarrow.parquet.write_table(table, path, row_group_size=rows, compression="zstd", compression_level=19, **encoding)
        self.num_bytes = path.stat().st_size
        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        self._k = k

    @staticmethod
    def _split(columns: Crops, group: str, width: int) -> list[tuple[str, NDArray[Any]]]:
        column = getattr(columns, group)
        return [(f"{group}_{place}", np.ascontiguousarray(column[:, :, place]).reshape(-1)) for place in range(width)]

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        group, place = divmod(image, IMAGES_PER_ROW_GROUP)
        table = self._file.read_row_group(group, use_threads=False)
        rows = chosen + place * self._num_crops
        flips, *others = (column.to_numpy()[rows] for column in table.columns)
        k = self._k
        return Crops(np.stack(others[:4], 1), flips, np.stack(others[4 : 4 + k], 1), np.stack(others[4 + k :], 1))


class Npz:
    """One compressed .npz per image."""

    def __init__(self, labels: TopK, folder: Path) -> None:
        folder.mkdir()
        self._paths = [folder / f"{image}.npz" for image in range(len(labels.keys))]
        for image, path in enumerate(self._paths):
            np.savez_compressed(path, **_columns(labels, image)._asdict())
        self.num_bytes = sum(path.stat().st_size for path in self._paths)

    def read(self, image: int, chosen: NDArray[np.int64]) -> Crops:
        with np.load(self._paths[image]) as file:
            return Crops(*(file[name][chosen] for name in Crops._fields))


def check_agreement(peer: Peer, labels: TopK, image: int) -> None:
    """Raise AssertionError unless a peer returns what was stored, up to float16."""
    chosen = np.array([3, 1, labels.flips.shape[1] - 1, 1])
    read, size = peer.read(image, chosen), labels.image_sizes[image]
    crops = read.crops * np.tile(size, 2) if read.crops.dtype.kind == "f" else read.crops
    assert np.allclose(crops, labels.crops[image, chosen], atol=0 if read.crops.dtype.kind != "f" else 2e-3 * size.max()), type(peer)
    assert np.array_equal(read.flips.astype(bool), labels.flips[image, chosen]), type(peer)
    assert np.array_equal(read.classes.astype(int), labels.indices[image, chosen]), type(peer)
    assert np.array_equal(read.probs.astype(np.float16), labels.values[image, chosen].astype(np.float16)), type(peer)
