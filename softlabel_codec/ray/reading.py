"""Label files and sets as Ray Datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from softlabel_codec.labels import DenseLabels, ImageLabels, SparseLabels, Tails
from softlabel_codec.reader import SoftLabelReader

BLOCK_BYTES = 2**25
"""Rows that are made at a time, about: a fraction of Ray's target of 128 MiB, so that few are in memory twice."""


def read_labels(path: str | os.PathLike[str], *, dense: bool = False) -> ray.data.Dataset:
    """Return the labels of a file or set as a Ray Dataset, one row for each image.

    Rows come in the order of the images if Ray is told to keep it (`DataContext.execution_options.preserve_order`).

    Parameters
    ----------
    path : path or URL
        The file, or the folder or index of the set. All nodes of the cluster must be able to read it.
    dense : bool
        Give the target of every class in the column `target`, in place of the columns of sparse labels.

    Returns
    -------
    Dataset
        With the columns `key` (str); `image_size` (2,), height and width in pixels, 0 if they are not known; `crops` (M, 4) and `flips`
        (M,), as in `ImageLabels`; `image_crc32`, if it is stored. Of sparse codecs `indices` and `values` (M, K) and `remainder`
        (M,), as in `SparseLabels`, and if they keep tails `tail_classes` and `tail_weights` (N,) and `tail_floor`, as in `Tails`; with
        `tail=all` also `tail_slopes` (C,) and `tail_main_class`. Of dense codecs `vectors` (M, C). With `dense`, in place of these,
        `target`, float32 (M, C).

    Raises
    ------
    FormatError, OSError
        If it is not sound, or cannot be read. A damaged block, or a missing shard, is found when it is read.
    """
    return ray.data.read_datasource(LabelDatasource(path, dense))


class LabelDatasource(Datasource):  # type: ignore[misc]  # of a library without types
    """Reads a label file or set in parallel: each task reads a range of images, and yields as many rows as it was said to."""

    def __init__(self, path: str | os.PathLike[str], dense: bool) -> None:
        super().__init__()
        with SoftLabelReader(path) as reader:
            self._rows = _Rows(os.fspath(reader.path.absolute()), dense)
            self._num_images = len(reader)
            self._row_bytes = _num_bytes(self._rows.of(reader, range(1))) if self._num_images else 0

    def get_name(self) -> str:
        return "Labels"

    def estimate_inmemory_data_size(self) -> int:
        return self._num_images * self._row_bytes

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        tasks = max(1, min(parallelism, self._num_images))
        bounds = [task * self._num_images // tasks for task in range(tasks + 1)]
        return [self._task(range(*pair), per_task_row_limit) for pair in pairwise(bounds)]

    def _task(self, images: range, limit: int | None) -> ReadTask:
        rows, at_a_time = self._rows, max(1, BLOCK_BYTES // max(1, self._row_bytes))
        about = BlockMetadata(num_rows=len(images), size_bytes=len(images) * self._row_bytes, input_files=[rows.path], exec_stats=None)
        return ReadTask(lambda: rows.read(images, at_a_time), about, per_task_row_limit=limit)


@dataclass(frozen=True)
class _Rows:
    """What rows are made of: a label file or set, and whether they hold dense targets."""

    path: str
    dense: bool

    def read(self, images: range, at_a_time: int) -> Iterator[Block]:
        """Yield blocks of the rows of some images."""
        with SoftLabelReader(self.path) as reader:
            for start in range(images.start, images.stop, at_a_time):
                columns = self.of(reader, images[start - images.start :][:at_a_time])
                yield BlockAccessor.batch_to_arrow_block(columns)

    def of(self, reader: SoftLabelReader, images: range) -> dict[str, NDArray[Any]]:
        """Return the columns of the rows of some images."""
        batch = reader.read_batch(images)
        rows = list(batch)
        columns: dict[str, NDArray[Any]] = {
            "key": np.array(reader.keys[images.start : images.stop], dtype=object),
            "image_size": batch.image_sizes,
            "crops": _column([row.crops for row in rows]),
            "flips": _column([row.flips for row in rows]),
        }
        if batch.image_crc32s is not None:
            columns["image_crc32"] = batch.image_crc32s
        return columns | self._labels(rows)

    def _labels(self, rows: Sequence[ImageLabels]) -> dict[str, NDArray[Any]]:
        if self.dense:
            return {"target": _column([row.labels.dense() for row in rows])}
        labels = [_as_few_classes(row.labels) for row in rows if isinstance(row.labels, SparseLabels)]
        if not labels:
            return {"vectors": _column([row.labels.vectors for row in rows if isinstance(row.labels, DenseLabels)])}
        columns = {name: _column([getattr(one, name) for one in labels]) for name in ("indices", "values", "remainder")}
        tails = [_listed(one.tails) for one in labels if one.tails is not None]
        if tails:
            columns |= {f"tail_{name}": _column([tail[name] for tail in tails]) for name in tails[0]}
        return columns


def _as_few_classes(labels: SparseLabels) -> SparseLabels:
    """Return the labels of an image without padding that no crop of it needs: a row does not depend on what is read together."""
    width = int(labels.counts.max())
    return replace(labels, indices=labels.indices[:, :width], values=labels.values[:, :width])


def _listed(tail: Tails) -> dict[str, NDArray[Any]]:
    """Return the tail of one image, without padding."""
    listed = tail.classes[0] >= 0
    found = {"classes": tail.classes[0, listed], "weights": tail.weights[0, listed], "floor": tail.floor[0]}
    if tail.slopes is None or tail.main_class is None:
        return found
    return {**found, "slopes": tail.slopes[0], "main_class": tail.main_class[0]}


def _column(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays as a column: stacked if all have the same shape, else as they are."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    column = np.empty(len(rows), object)
    column[:] = rows
    return column


def _num_bytes(columns: dict[str, NDArray[Any]]) -> int:
    return sum(int(column.nbytes) for column in columns.values())
