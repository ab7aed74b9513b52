"""Labels in Parquet files, as pyarrow, pandas and Hugging Face `datasets` read and write them.

One row for each image, with lists for its crops:

=============  ==========================  ==================================================================
column         type                        what
=============  ==========================  ==================================================================
`key`          string                      name of the image
`image_size`   list<int32>                 height and width
`image_crc32`  uint32                      CRC-32 of the image's file; may be left out
`crops`        list<list<int32 or float>>  top, left, height, width of each crop; pixels, or floats as fractions
`flips`        list<bool>                  whether it is mirrored
`probs`        list<list<float>>           probabilities of all classes; or `logits`, or `features`; or else
`indices`      list<list<int32>>           the most probable classes of each crop
`values`       list<list<float>>           their probabilities; without them labels are `hard`
=============  ==========================  ==================================================================

Files with one row for each crop are read as well: `key`, `image_size`, `crop` (list), `flip` (bool), and `probs`, `logits`, `features`,
or `indices` and `values` (list). The rows of an image must follow one another.

`num_classes` is an entry of the schema's metadata, or a column; so is `about` (see `softlabel_codec.formats.arrays`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import ABOUT, CROPS, FLIPS, NUM_CLASSES, OF_IMAGE, WHY_NO_CROPS, About, Form
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found
from softlabel_codec.formats.labels import INDICES, KINDS, VALUES, kind_name
from softlabel_codec.storage.clients import installed
from softlabel_codec.storage.patterns import open_file

KEY = "key"
SINGULAR = {CROPS: "crop", FLIPS: "flip"}
"""Columns that have another name in rows of crops."""
_LISTED = {*KINDS, VALUES, CROPS}
_BYTES_AT_ONCE = 2**23


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
            yield Entry(key, where, partial(form.image, arrays))

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
        if not _is_list(kind):
            raise MismatchError(f"{self.files[0]}: expected lists of labels, got {kind}")
        inner = kind.value_type
        if not (types.is_integer(inner) or types.is_floating(inner) or (_is_list(inner) and not _is_list(inner.value_type))):
            raise MismatchError(f"{self.files[0]}: expected lists of numbers, or lists of lists of numbers, got {kind}")
        return not _is_list(inner)

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
                    columns = {name: _Column(batch.column(column), f"{file}: {column}") for name, column in self._columns.items()}
                    for row, key in enumerate(keys):
                        yield f"{file}: row {number + row}", key, {name: column.row(row) for name, column in columns.items()}
                    number += len(keys)

    def _joined(self) -> Iterator[tuple[str, Any, dict[str, NDArray[Any]]]]:
        """Yield images whose crops have a row each."""
        crops: list[dict[str, NDArray[Any]]] = []
        where, key = "", None
        for row_where, row_key, arrays in self._rows():
            if crops and (row_key != key or len(crops) > MAX_CROPS_PER_IMAGE):
                yield where, key, _stacked(crops, where)
                crops = []
            if not crops:
                where, key = row_where, row_key
            crops.append(arrays)
        if crops:
            yield where, key, _stacked(crops, where)

    @staticmethod
    def _rows_at_once(opened: Any) -> int:
        rows = max(1, opened.metadata.num_rows)
        num_bytes = sum(opened.metadata.row_group(group).total_byte_size for group in range(opened.num_row_groups))
        return int(min(4096, max(1, _BYTES_AT_ONCE * rows // max(1, num_bytes))))


class _Column:
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
        while _is_list(column.type):
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


def _stacked(crops: list[dict[str, NDArray[Any]]], where: str) -> dict[str, NDArray[Any]]:
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


def _is_list(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415  only tables need it

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


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
        if self._num_bytes >= _BYTES_AT_ONCE:
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
