"""Tables: Parquet files, and what `save_to_disk` of Hugging Face `datasets` writes. The only module that imports pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from softlabel_codec.storage.patterns import installed, open_file

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
"""Files of a folder that `save_to_disk` wrote: two of a dataset, one of a dictionary of datasets."""


class Group(NamedTuple):
    """Rows that are read together: group `number` of a file, which begins with row `first` of it."""

    file: str
    number: int
    first: int
    rows: int


class Table(Protocol):
    """Rows in groups, each of which is read as a whole."""

    @property
    def kept_groups(self) -> int:
        """How many groups may be kept after they were read."""
        ...

    def groups(self) -> list[Group]:
        """Return all groups that have rows."""
        ...

    def schema(self, file: str) -> Any:
        """Return the `pyarrow.Schema` of a file."""
        ...

    def column(self, group: Group, name: str, field: str | None = None) -> Any:
        """Return a column of a group, or a field of a column of structs, as a `pyarrow.ChunkedArray`."""
        ...


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files, local or URLs. Each row group is read for itself.

    Attributes
    ----------
    files : tuple of str
        The files.
    """

    files: tuple[str, ...]

    kept_groups: ClassVar[int] = 2  # where threads read rows in their order, some are a group ahead

    def groups(self) -> list[Group]:
        return [group for file in self.files for group in self._groups_of(file)]

    def _groups_of(self, file: str) -> Iterator[Group]:
        with self._opened(file) as opened:
            first = 0
            for number in range(opened.num_row_groups):
                rows = opened.metadata.row_group(number).num_rows
                if rows:
                    yield Group(file, number, first, rows)
                first += rows

    def schema(self, file: str) -> Any:
        with self._opened(file) as opened:
            return opened.schema_arrow

    def column(self, group: Group, name: str, field: str | None = None) -> Any:
        with self._opened(group.file) as opened:
            wanted = name if field is None else f"{name}.{field}"
            read = opened.read_row_group(group.number, columns=[wanted], use_threads=False).column(name)  # a fork may have no threads
        return read if field is None else _field(read, field)

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        with installed():
            from pyarrow import ArrowException, parquet  # noqa: PLC0415  only tables need it
        try:
            with open_file(file) as opened:
                yield parquet.ParquetFile(opened)
        except ArrowException as error:
            raise OSError(f"{file}: not a readable Parquet file: {error}") from None

    def __str__(self) -> str:
        return self.files[0] if len(self.files) == 1 else f"{self.files[0]} to {self.files[-1]}"


@dataclass(frozen=True)
class SavedDataset:
    """The folder of a dataset that `save_to_disk` of Hugging Face `datasets` wrote: Arrow files, which are mapped into memory.

    Attributes
    ----------
    folder : Path
        The folder.
    """

    folder: Path

    kept_groups: ClassVar[int] = 10**6  # they are only mapped into memory

    def groups(self) -> list[Group]:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            files = [str(self.folder / Path(data["filename"]).name) for data in state["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{self.folder / STATE}: expected the names of data files, as datasets writes them: {error!r}") from None
        found = [Group(file, 0, 0, self._table(file).num_rows) for file in files]
        return [group for group in found if group.rows]

    def schema(self, file: str) -> Any:
        return self._table(file).schema

    def column(self, group: Group, name: str, field: str | None = None) -> Any:
        read = self._table(group.file).column(name)
        return read if field is None else _field(read, field)

    @staticmethod
    def _table(file: str) -> Any:
        with installed():
            import pyarrow  # noqa: PLC0415  only tables need it
        try:
            return pyarrow.ipc.open_stream(pyarrow.memory_map(file)).read_all()
        except pyarrow.ArrowException as error:
            raise OSError(f"{file}: not a readable Arrow file: {error}") from None

    def __str__(self) -> str:
        return str(self.folder)


def _field(column: Any, name: str) -> Any:
    from pyarrow import compute  # noqa: PLC0415  only tables need it

    return compute.struct_field(column, name)
