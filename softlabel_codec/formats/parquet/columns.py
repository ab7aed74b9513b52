"""Columns of Parquet tables as arrays of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import MismatchError
from softlabel_codec.formats.labels import INDICES, VALUES


class Column:
    """A column of a batch of rows.

    Parameters
    ----------
    column : pyarrow.Array
        Numbers, lists of them, or lists of lists.
    where : str
        What to call it in errors.
    """

    def __init__(self, column: Any, where: str) -> None:
        self._where, self._offsets = where, list[NDArray[np.int64]]()
        while is_list(column.type):
            if column.null_count:
                raise MismatchError(f"{where}: expected a list in each row, got null")
            self._offsets.append(_offsets(column))
            column = column.flatten()
        if column.null_count:
            raise MismatchError(f"{where}: expected numbers, got null")
        self._numbers = np.asarray(column.to_numpy(zero_copy_only=False))
        if self._numbers.dtype.kind not in "biuf":
            raise MismatchError(f"{where}: expected numbers, got {column.type}")

    def row(self, row: int) -> NDArray[Any]:
        """Return the numbers of a row: one, (M,) or (M, K)."""
        if not self._offsets:
            return self._numbers[row]  # type: ignore[no-any-return]  # a numpy scalar, which has shape and dtype
        start, end = self._offsets[0][row : row + 2].tolist()
        if len(self._offsets) == 1:
            return self._numbers[start:end]
        inner = self._offsets[1][start : end + 1]
        widths = np.diff(inner)
        if not len(widths):
            return self._numbers[:0].reshape(0, 0)
        numbers, widest = self._numbers[inner[0] : inner[-1]], int(widths.max())
        if (widths == widest).all():
            return numbers.reshape(len(widths), widest)
        if not self._where.endswith((f": {INDICES}", f": {VALUES}")):
            raise MismatchError(f"{self._where}: expected as many numbers for each crop, got {widths.min()} to {widest}")
        padded = np.full((len(widths), widest), -1 if self._where.endswith(INDICES) else 0, numbers.dtype)
        padded[np.arange(widest) < widths[:, None]] = numbers
        return padded


def _offsets(column: Any) -> NDArray[np.int64]:
    """Return where the lists of a column begin in its flattened numbers, and where the last one ends."""
    from pyarrow import types  # noqa: PLC0415  only tables need it

    if types.is_fixed_size_list(column.type):
        return np.asarray(np.arange(len(column) + 1) * column.type.list_size)
    offsets = column.offsets.to_numpy().astype(np.int64)
    return np.asarray(offsets - offsets[0])


def stacked(crops: list[dict[str, NDArray[Any]]], where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an image of those of its crops."""
    found = {}
    for name in crops[0]:
        rows = [np.asarray(crop[name]) for crop in crops]
        if name in ("image_size", "image_crc32"):
            if any((row != rows[0]).any() for row in rows):
                raise MismatchError(f"{where}: {name}: expected the same in all rows of an image")
            found[name] = rows[0]
            continue
        widths = {row.shape for row in rows}
        if len(widths) > 1:
            fewest, most = min(map(len, rows)), max(map(len, rows))
            raise MismatchError(f"{where}: {name}: expected as many numbers in each row, got {fewest} to {most}")
        found[name] = np.stack(rows)
    return found


def is_list(kind: Any) -> bool:
    """Return whether a type of pyarrow is one of lists."""
    from pyarrow import types  # noqa: PLC0415  only tables need it

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
