"""Images in a column of a table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.files import read_size
from softlabel_codec.images.sources.keys import class_numbers, label_column, path_keys, unique_keys
from softlabel_codec.images.sources.tables import Table

_LOOKED_AT = 8


class ColumnSource:
    """Images in a column of Parquet files, or of a dataset that Hugging Face `datasets` saved.

    The column holds the bytes of image files, or structs `{bytes, path}` as `datasets` writes them. Keys are the paths if every row has
    one and they differ, else the numbers of the rows, with eight digits. Classes are an integer column called `label` or the like.
    Rows are read in groups, of which the last two are kept: rows in their order are read fast, rows of a Parquet file in random order
    slowly.

    Parameters
    ----------
    table : Table
        The files: `ParquetFiles` or `SavedDataset`.
    column : str, optional
        Name of the column; it can be left out if only one can hold images.

    Raises
    ------
    ArgumentError
        If there is no such column, several could hold images, or this one does not.
    MismatchError
        If files have different columns, or a path occurs twice.
    OSError
        If a file cannot be read.
    StateError
        If pyarrow is not installed.
    """

    def __init__(self, table: Table, column: str | None = None) -> None:
        self._table = table
        self._groups = table.groups()
        if not self._groups:
            raise ArgumentError(f"{table}: expected images, found no rows")
        self._ends = np.cumsum([group.rows for group in self._groups])
        self._kept: dict[int, Future[Any]] = {}
        self._kept_in = os.getpid()
        schema = table.schema(self._groups[0].file)
        self._column = _choose_column(schema, column, str(table))
        kind = schema.field(self._column).type
        self._check_same_columns()
        self._in_struct = _is_struct(kind)
        has_paths = self._in_struct and kind.get_field_index("path") >= 0
        paths: list[str | None] = self._all(self._column, "path") if has_paths else [None] * int(self._ends[-1])
        self._keys = unique_keys(path_keys(paths), str(table))
        self._check_images()

    def _check_same_columns(self) -> None:
        files = list(dict.fromkeys(group.file for group in self._groups))
        for file in files[1:]:
            wanted, found = (_types(self._table.schema(one)).get(self._column) for one in (files[0], file))
            if found != wanted:
                raise MismatchError(f"{file}: column {self._column!r}: expected {wanted}, as in {files[0]}, got {found or 'none'}")

    def _all(self, name: str, field: str | None = None) -> list[Any]:
        return [value for group in self._groups for value in self._table.column(group, name, field).to_pylist()]

    def _check_images(self) -> None:
        """Raise ArgumentError if none of the first rows can be read as an image."""
        problem = ""
        for row in range(min(_LOOKED_AT, len(self._keys))):
            try:
                read_size(self._read(row), self._where(row))
            except OSError as error:
                problem = problem or str(error)
            else:
                return
        raise ArgumentError(f"{self._table}: column {self._column!r}: expected images, got something else: {problem}")

    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> bytes:
        return self._read(self._keys.number(key))

    def _read(self, row: int) -> bytes:
        number, place = self._group_of(row)
        value = self._column_of(number)[place].as_py()
        data = value["bytes"] if self._in_struct and value is not None else value
        if data is None:
            held = f"only the path {value.get('path')!r}. Store the bytes too, as save_to_disk does" if value is not None else "nothing"
            raise OSError(f"{self._where(row)}: expected the bytes of an image file, got {held}")
        return bytes(data)

    def _column_of(self, number: int) -> Any:
        """Return the column of a group, which is read by one thread while others wait for it, as groups may be large."""
        if self._kept_in != os.getpid():  # a thread of the process that forked this one may have been reading
            self._kept, self._kept_in = {}, os.getpid()
        mine: Future[Any] = Future()
        read = self._kept.setdefault(number, mine)
        if read is mine:
            self._read_group(number, mine)
        return read.result()

    def _read_group(self, number: int, column: Future[Any]) -> None:
        kept = self._kept
        for earlier in list(kept)[: -self._table.kept_groups]:
            kept.pop(earlier, None)
        try:
            column.set_result(self._table.column(self._groups[number], self._column))
        except BaseException as error:
            kept.pop(number, None)
            column.set_exception(error)

    def _group_of(self, row: int) -> tuple[int, int]:
        """Return the group of a row, and the row's place in it."""
        number = int(np.searchsorted(self._ends, row, "right"))
        return number, row - (int(self._ends[number]) - self._groups[number].rows)

    def targets(self) -> NDArray[np.int64] | None:
        files = dict.fromkeys(group.file for group in self._groups)
        first, *others = (label_column(_types(self._table.schema(file))) for file in files)
        if first is None or any(other != first for other in others):
            return None
        return class_numbers(self._all(first), len(self._keys))

    def where(self, key: str) -> str:
        return self._where(self._keys.number(key))

    def _where(self, row: int) -> str:
        number, place = self._group_of(row)
        group = self._groups[number]
        return f"{group.file}: row {group.first + place}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def __str__(self) -> str:
        return str(self._table)


def _choose_column(schema: Any, wanted: str | None, where: str) -> str:
    """Return the name of the column that holds images."""
    types = _types(schema)
    listed = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "none"
    able = [name for name in types if _may_hold_images(schema.field(name).type)]
    if wanted is not None:
        if wanted not in able:
            found = types.get(wanted, "no such column")
            raise ArgumentError(f"{where}: column {wanted!r}: expected bytes or structs {{bytes, path}}, got {found}; columns: {listed}")
        return wanted
    able = [name for name in able if name in _marked_as_images(schema)] or able
    if len(able) != 1:
        found = f"several: {', '.join(able)}. Say which, as in PATH:{able[0]}" if able else f"none; columns: {listed}"
        raise ArgumentError(f"{where}: expected one column that can hold images, got {found}")
    return able[0]


def _types(schema: Any) -> dict[str, str]:
    return {name: str(schema.field(number).type) for number, name in enumerate(schema.names)}


def _marked_as_images(schema: Any) -> set[str]:
    """Return the columns that `datasets` marked as images, not as audio or anything else."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "Image"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return set()


def _may_hold_images(kind: Any) -> bool:
    return _is_binary(kind) or _is_struct(kind)


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _is_binary(kind: Any) -> bool:
    return str(kind).startswith(("binary", "large_binary"))
