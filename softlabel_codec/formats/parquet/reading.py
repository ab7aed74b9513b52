"""Reads labels in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import ABOUT, CROPS, FLIPS, NUM_CLASSES, OF_IMAGE, WHY_NO_CROPS, About, Form
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found
from softlabel_codec.formats.labels import kind_name
from softlabel_codec.formats.parquet.columns import Column, is_list, stacked
from softlabel_codec.storage.clients import installed
from softlabel_codec.storage.patterns import open_file

KEY = "key"
SINGULAR = {CROPS: "crop", FLIPS: "flip"}
"""Columns that have another name in rows of crops."""
BYTES_AT_ONCE = 2**23
"""Bytes of rows that are in memory at a time."""


@dataclass(frozen=True)
class ParquetSource:
    """Labels in Parquet files.

    Attributes
    ----------
    files : sequence of str
        The files, in their order.
    num_classes : int or None
        C, if the caller says it.
    """

    files: Sequence[str]
    num_classes: int | None = None

    @cached_property
    def found(self) -> Found:
        """What the files hold, by their schema and their first image.

        Raises
        ------
        MismatchError
            If columns are missing, or are not of these types.
        CorruptError
            If a file is damaged.
        """
        form, about = self._form, self._about
        rows, num_bytes = self._counted
        num_images = rows if not self._of_crops else max(1, round(rows / form.num_crops))
        return Found(
            format="parquet",
            kind=form.kind,
            num_images=num_images,
            num_crops=rows if self._of_crops else rows * form.num_crops,
            crops=form.crops,
            source_bytes=num_bytes,
            provenance={"files": len(self.files)},
            metadata=about.metadata,
            stored_as=about.codec,
            image_checksums=form.image_checksums,
            lost=(*form.lost, *self._unread()),
            why_no_crops=WHY_NO_CROPS.replace("array", "column") if form.crops == NO_CROPS else "",
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images in order; some rows are in memory at a time."""
        form = self._form
        for where, key, arrays in self._images():
            yield Entry(key, where, partial(form.image, arrays), sum(array.nbytes for array in arrays.values()))

    @cached_property
    def _schema(self) -> Any:
        with _opened(self.files[0]) as opened:
            schema = opened.schema_arrow
            names = schema.names  # damaged ones are found here
        if KEY not in names:
            raise MismatchError(f"{self.files[0]}: expected a column 'key' with the names of the images, got {', '.join(names)}")
        return schema

    @cached_property
    def _of_crops(self) -> bool:
        """Whether a row is a crop: labels are lists of numbers then, not lists of lists."""
        from pyarrow import types  # noqa: PLC0415  only tables need it

        try:
            kind = self._schema.field(kind_name(self._schema.names)).type
        except MismatchError as error:
            raise MismatchError(f"{self.files[0]}: {error}") from None
        if not is_list(kind):
            raise MismatchError(f"{self.files[0]}: expected lists of labels, got {kind}")
        inner = kind.value_type
        if not (types.is_integer(inner) or types.is_floating(inner) or (is_list(inner) and not is_list(inner.value_type))):
            raise MismatchError(f"{self.files[0]}: expected lists of numbers, or lists of lists of numbers, got {kind}")
        return not is_list(inner)

    @cached_property
    def _columns(self) -> dict[str, str]:
        """Names of the columns that are read, by the names of the arrays."""
        names = {name: SINGULAR.get(name, name) if self._of_crops else name for name in OF_IMAGE}
        return {name: column for name, column in names.items() if column in self._schema.names}

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Number of rows and bytes of all files, whose columns must be the same."""
        rows = num_bytes = 0
        for file in self.files:
            with _opened(file) as opened:
                if not opened.schema_arrow.equals(self._schema):
                    raise MismatchError(f"{file}: expected the same columns and types as in {self.files[0]}")
                rows += opened.metadata.num_rows
                num_bytes += sum(opened.metadata.row_group(group).total_byte_size for group in range(opened.num_row_groups))
        if not rows:
            raise MismatchError(f"{self.files[0]}: expected labels, got no rows")
        return rows, sum(Path(file).stat().st_size for file in self.files) if all(
            Path(file).is_file() for file in self.files
        ) else num_bytes

    @cached_property
    def _about(self) -> About:
        text = (self._schema.metadata or {}).get(ABOUT.encode())
        return About() if text is None else About.parse(text.decode(errors="replace"), self.files[0])

    @cached_property
    def _form(self) -> Form:
        _, first = self._counted, next(self._images(), None)
        if first is None:
            raise CorruptError(f"{self.files[0]}: expected rows, got none")
        stated = self._stated_classes()
        if None not in (stated, self.num_classes) and stated != self.num_classes:
            raise MismatchError(f"{self.files[0]}: expected {self.num_classes} classes, got {stated}")
        try:
            return Form.of(first[2], self._about, self.num_classes or stated)
        except MismatchError as error:
            raise MismatchError(f"{first[0]}: {error}") from None

    def _stated_classes(self) -> int | None:
        text = (self._schema.metadata or {}).get(NUM_CLASSES.encode())
        if text is None and NUM_CLASSES in self._schema.names:
            with _opened(self.files[0]) as opened:
                text = str(next(opened.iter_batches(1, columns=[NUM_CLASSES])).column(0)[0]).encode()
        if text is None:
            return None
        if not text.isdigit() or len(text) > 10:
            raise CorruptError(f"{self.files[0]}: num_classes: expected an integer, got {text[:20]!r}")
        return int(text)

    def _unread(self) -> Iterator[str]:
        known = {*self._columns.values(), KEY, NUM_CLASSES}
        for name in self._schema.names:
            if name not in known:
                yield f"column {name!r}"

    def _images(self) -> Iterator[tuple[str, str, dict[str, NDArray[Any]]]]:
        """Yield where each image is, its key, and its arrays."""
        rows = self._joined() if self._of_crops else self._rows()
        for where, key, arrays in rows:
            if not isinstance(key, str):
                raise MismatchError(f"{where}: key: expected a string, got {key!r}")
            yield where, key, arrays

    def _rows(self) -> Iterator[tuple[str, Any, dict[str, NDArray[Any]]]]:
        """Yield the rows: where each is, its key, and its arrays."""
        for file in self.files:
            number = 0
            with _opened(file) as opened:
                for batch in opened.iter_batches(self._rows_at_once(opened), columns=[KEY, *self._columns.values()], use_threads=False):
                    keys = batch.column(KEY).to_pylist()
                    columns = {name: Column(batch.column(column), f"{file}: {column}") for name, column in self._columns.items()}
                    for row, key in enumerate(keys):
                        yield f"{file}: row {number + row}", key, {name: column.row(row) for name, column in columns.items()}
                    number += len(keys)

    def _joined(self) -> Iterator[tuple[str, Any, dict[str, NDArray[Any]]]]:
        """Yield images whose crops have a row each."""
        crops: list[dict[str, NDArray[Any]]] = []
        where, key = "", None
        for row_where, row_key, arrays in self._rows():
            if crops and (row_key != key or len(crops) > MAX_CROPS_PER_IMAGE):
                yield where, key, stacked(crops, where)
                crops = []
            if not crops:
                where, key = row_where, row_key
            crops.append(arrays)
        if crops:
            yield where, key, stacked(crops, where)

    @staticmethod
    def _rows_at_once(opened: Any) -> int:
        rows = max(1, opened.metadata.num_rows)
        num_bytes = sum(opened.metadata.row_group(group).total_byte_size for group in range(opened.num_row_groups))
        return int(min(4096, max(1, BYTES_AT_ONCE * rows // max(1, num_bytes))))


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    with installed("formats"):
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  only tables need it
    try:
        with open_file(file) as opened:
            yield parquet.ParquetFile(opened)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorruptError(f"{file}: not a readable Parquet file: {error}") from None
