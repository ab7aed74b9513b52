"""Writes labels to Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.formats.arrays import CROPS
from softlabel_codec.formats.labels import INDICES, KINDS, VALUES
from softlabel_codec.formats.parquet.reading import BYTES_AT_ONCE, KEY
from softlabel_codec.storage.clients import installed

_LISTED = {*KINDS, VALUES, CROPS}


class ParquetWriter:
    """Writes a Parquet file with a row for each image.

    Parameters
    ----------
    path : path
        The file.
    texts : mapping of str to str
        Metadata of the schema.
    """

    def __init__(self, path: Path, texts: Mapping[str, str]) -> None:
        self._path, self._texts = path, {name.encode(): text.encode() for name, text in texts.items()}
        self._rows: list[tuple[str, Mapping[str, NDArray[Any]]]] = []
        self._num_bytes = 0
        self._writer: Any = None

    def add(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write an image; padding of its labels is left out."""
        self._rows.append((key, arrays))
        self._num_bytes += sum(array.nbytes for array in arrays.values())
        if self._num_bytes >= BYTES_AT_ONCE:
            self._write()

    def close(self) -> None:
        """Write the rest, and the end of the file."""
        self._write()
        self.discard()

    def discard(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self) -> None:
        with installed("formats"):
            import pyarrow  # noqa: PLC0415  only tables need it
            from pyarrow import parquet  # noqa: PLC0415
        columns = {KEY: pyarrow.array([key for key, _ in self._rows], pyarrow.string())}
        for name in self._rows[0][1] if self._rows else ():
            columns[name] = _column(name, [arrays for _, arrays in self._rows])
        table = pyarrow.table(columns)
        if self._writer is None:
            schema = table.schema.with_metadata(self._texts)
            self._writer = parquet.ParquetWriter(self._path, schema, compression="zstd")
        if self._rows:
            self._writer.write_table(table.replace_schema_metadata(self._texts))
        self._rows, self._num_bytes = [], 0


def _column(name: str, rows: Sequence[Mapping[str, NDArray[Any]]]) -> Any:
    import pyarrow  # noqa: PLC0415  only tables need it

    arrays = [row[name] for row in rows]
    if arrays[0].ndim == 0:
        return pyarrow.array(np.stack(arrays))
    if name in _LISTED:
        kept = [row[INDICES] >= 0 if name in (INDICES, VALUES) else np.ones(row[name].shape, np.bool_) for row in rows]
        numbers = pyarrow.array(np.concatenate([array[mask] for array, mask in zip(arrays, kept, strict=True)]))
        widths = np.concatenate([mask.sum(axis=1) for mask in kept])
        inner = pyarrow.ListArray.from_arrays(pyarrow.array(_starts(widths)), numbers)
    else:
        inner = pyarrow.array(np.concatenate(arrays))
    return pyarrow.ListArray.from_arrays(pyarrow.array(_starts([len(array) for array in arrays])), inner)


def _starts(widths: Any) -> NDArray[np.int32]:
    return np.cumsum([0, *widths], dtype=np.int32)
