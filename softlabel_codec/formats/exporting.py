"""Writes labels of a container file in formats of others."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.copying.belonging import in_another_codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.formats.arrays import ABOUT, KEYS, NUM_CLASSES, PLURALS, About
from softlabel_codec.formats.fkd.exporting import FkdWriter, lost_in_fkd
from softlabel_codec.formats.labels import INDICES, PROBS, VALUES
from softlabel_codec.formats.npz import StoredArray, write_npz
from softlabel_codec.formats.parquet.writing import ParquetWriter
from softlabel_codec.formats.safetensors import write_safetensors
from softlabel_codec.formats.webdataset import ShardWriter
from softlabel_codec.labels import BatchLabels, DenseLabels, ImageLabels, SparseLabels
from softlabel_codec.quantise.transcoding import stored_alike
from softlabel_codec.reader import UNKNOWN_CROPS, SoftLabelReader

logger = logging.getLogger(__name__)
_NUMBERS_AT_ONCE = 2**22
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes
    ----------
    path : str
        What was written; the pattern of several shards.
    format : str
        Its format.
    num_images, num_crops, num_files : int
        What is in it.
    lost : list of str
        What the label file says and the format does not, a line each.
    file_bytes : int
        Its size.
    seconds : float
        Time taken.
    """

    path: str
    format: str
    num_images: int
    num_crops: int
    num_files: int
    lost: list[str]
    file_bytes: int
    seconds: float


class _Writer(Protocol):
    def add(self, key: str, arrays: Arrays) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


class Exporter:
    """Labels of a label file or set as arrays of each image.

    Parameters
    ----------
    reader : SoftLabelReader
        The labels.
    dense : bool
        Give the targets of all classes in place of what is stored.

    Raises
    ------
    ArgumentError
        If arrays cannot say what is stored.
    """

    def __init__(self, reader: SoftLabelReader, dense: bool) -> None:
        self.reader, self.dense = reader, dense
        codec = reader.parsed_codec
        if reader.padding.pixels:
            why = "crops count from the corner of padded images, which no reader of this format knows"
            raise ArgumentError(f"{reader.path}: {why}: export is for labels without padding")
        if dense and codec.content == "features":
            raise ArgumentError(f"{reader.path}: --dense: features have no targets: leave it out")
        if not dense and (codec.tail or codec.family == "field"):
            what = "a function of the crop" if codec.family == "field" else "a tail, along which the remainder is spread"
            ways = "Write the targets of all classes (--dense), or drop it first: slcodec copy --codec marginal_smoothing:k=5"
            ways = ways if codec.tail else "Write the targets of all classes (--dense)"
            raise ArgumentError(f"{reader.path}: labels of {str(codec)!r} have {what}, for which there are no arrays. {ways}")
        self._float = np.dtype("<f2") if codec.values == "f16" and not dense else np.dtype("<f4")
        targets = Codec("dense")
        changes = dense and not stored_alike(codec, targets)
        self.about = About(targets, in_another_codec(reader.metadata, codec)) if changes else About(codec, reader.metadata)

    def lost(self) -> Iterator[str]:
        """Yield what the label file says and arrays do not."""
        if self.reader.crops == "derived":
            yield "that crops come from a sampler: they are written as numbers"
        if self.reader.summary.get("skipped_keys"):
            yield "the list of images that were skipped"
        if self.dense:
            yield f"how labels were stored, in {self.reader.codec}"

    def most_classes(self) -> int:
        """Return how many classes are kept of a crop at most, for which labels with a threshold are read once."""
        codec = self.reader.parsed_codec
        if codec.t is None or self.dense:
            return codec.kept_classes or 0
        return max((batch.labels.indices.shape[1] for _, batch in self._batches() if isinstance(batch.labels, SparseLabels)), default=0)

    def images(self, progress: Callable[[int, int], None]) -> Iterator[tuple[str, Arrays]]:
        """Yield keys and arrays of all images."""
        reader, done = self.reader, 0
        for numbers, batch in self._batches():
            for number, image in zip(numbers.tolist(), batch, strict=True):
                yield reader.keys[number], self._arrays(image)
                done += 1
                progress(done, len(reader))

    def _batches(self) -> Iterator[tuple[NDArray[np.int64], BatchLabels]]:
        reader = self.reader
        width = reader.num_classes if self.dense or reader.parsed_codec.family != "sparse" else 64
        rows = max(1, int(reader.num_crops.max(initial=1)) * width)
        at_once = max(1, min(256, _NUMBERS_AT_ONCE // rows))
        for start in range(0, len(reader), at_once):
            numbers = np.arange(start, min(start + at_once, len(reader)))
            yield numbers, reader.read_batch(numbers)

    def _arrays(self, image: ImageLabels) -> Arrays:
        found = self._labels(image)
        if UNKNOWN_CROPS not in self.reader.metadata:
            kind = image.crops.dtype if image.crops.dtype.kind == "f" else np.dtype("<i4")
            found |= {"crops": image.crops.astype(kind), "flips": image.flips}
        if image.image_size != (0, 0):
            found["image_size"] = np.array(image.image_size, "<i4")
        if image.image_crc32 is not None:
            found["image_crc32"] = np.array(image.image_crc32, "<u4")
        return found

    def _labels(self, image: ImageLabels) -> Arrays:
        labels = image.labels
        if self.dense:
            return {PROBS: labels.dense()}
        if isinstance(labels, DenseLabels):
            return {labels.content: labels.vectors.astype(self._float)}
        indices = {INDICES: labels.indices.astype("<i4")}
        return indices if self.reader.parsed_codec.name == "hard" else {**indices, VALUES: labels.values.astype(self._float)}


class _ArrayFileWriter:
    """Writes arrays of all images to files of their own, which become one `.npz` or safetensors file at the end."""

    def __init__(self, path: Path, exporter: Exporter, format: str) -> None:
        self._path, self._exporter, self._format = path, exporter, format
        self._folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
        self._files: dict[str, Any] = {}
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._keys: list[str] = []
        reader = exporter.reader
        self._width = exporter.most_classes()
        if len(reader) and reader.num_crops.min() != reader.num_crops.max():
            shutil.rmtree(self._folder)
            found = f"{reader.num_crops.min()} to {reader.num_crops.max()}"
            ways = f"Parquet files and WebDataset shards take them; slcodec copy --crops {reader.num_crops.min()} makes them equal"
            raise ArgumentError(f"{reader.path}: images have {found} crops, but arrays (N, M, ...) as many for each. {ways}")

    def add(self, key: str, arrays: Arrays) -> None:
        self._keys.append(key)
        for name, array in arrays.items():
            padded = self._padded(name, array)
            plural = PLURALS.get(name, name)
            if plural not in self._files:
                self._files[plural] = (self._folder / plural).open("wb")
                self._shapes[plural] = padded.shape, padded.dtype
            self._files[plural].write(np.ascontiguousarray(padded).tobytes())

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        count = len(self._keys)
        stored = {name: StoredArray((count, *shape), dtype, self._folder / name) for name, (shape, dtype) in self._shapes.items()}
        about, num_classes = self._exporter.about.text(), self._exporter.reader.num_classes
        if self._format == "npz":
            extra = {KEYS: np.array(self._keys, np.str_), NUM_CLASSES: np.array(num_classes), ABOUT: np.array(about)}
            write_npz(self._path, {**extra, **stored})
        else:
            if any("\n" in key for key in self._keys):
                raise MismatchError(f"{self._path}: a key has a line feed, which ends keys in this format")
            text = "".join(f"{key}\n" for key in self._keys).encode()
            (self._folder / KEYS).write_bytes(text)
            stored[KEYS] = StoredArray((len(text),), np.dtype(np.uint8), self._folder / KEYS)
            write_safetensors(self._path, {**stored, NUM_CLASSES: np.array(num_classes)}, about)
        self.discard()

    def discard(self) -> None:
        """Remove the files that were written on the way."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _padded(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return labels whose rows are all as wide as the widest of all images."""
        if name not in (INDICES, VALUES):
            return array
        missing = self._width - array.shape[1]
        return np.pad(array, ((0, 0), (0, missing)), constant_values=-1 if name == INDICES else 0)


def export_source(
    exporter: Exporter,
    outs: Sequence[Path],
    format: str,
    *,
    name: str,
    overwrite: bool,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write labels to files, each of which appears when it is complete, with about as many images in each.

    Parameters
    ----------
    exporter : Exporter
        The labels.
    outs : sequence of path
        The files; one, or several shards.
    format : str
        `npz`, `safetensors`, `parquet`, `webdataset` or `fkd`.
    name : str
        What to call them in the report.
    overwrite : bool
        Replace files that are there.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Raises
    ------
    FileExistsError
        If a file is there and `overwrite` is not set.
    ArgumentError, MismatchError
        If the format cannot say what is stored.
    """
    started = time.monotonic()
    for out in outs:
        if out.exists() and not overwrite:
            raise FileExistsError(17, "exists; --overwrite replaces it", str(out))
    reader = exporter.reader
    lost = list(exporter.lost())
    if format == "fkd":
        lost += lost_in_fkd(reader, exporter.dense)
    for line in lost:
        logger.info("will be lost: %s", line)
    logger.info("%s: writing %s of %s as %s", name, counted(len(reader), "image"), reader.path, format)
    images = exporter.images(progress or (lambda done, total: None))
    bounds = np.linspace(0, len(reader), len(outs) + 1).round().astype(int).tolist()
    for out, first, end in zip(outs, bounds, bounds[1:], strict=False):
        _write_file(out, exporter, format, images, end - first)
    total = sum(file.stat().st_size for out in outs for file in (out.rglob("*.tar") if out.is_dir() else [out]))
    num_crops = int(reader.num_crops.sum())
    return ExportReport(name, format, len(reader), num_crops, len(outs), lost, total, time.monotonic() - started)


def _write_file(out: Path, exporter: Exporter, format: str, images: Iterator[tuple[str, Arrays]], number: int) -> None:
    partial = out.with_name(f"{out.name}.partial")
    writer = _writer(partial, exporter, format)
    try:
        for _ in range(number):
            writer.add(*next(images))
        writer.close()
        if not partial.is_dir():
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(out)
    finally:
        writer.discard()
        partial.unlink(missing_ok=True)


def _writer(path: Path, exporter: Exporter, format: str) -> _Writer:
    about, num_classes = exporter.about.text(), exporter.reader.num_classes
    if format == "parquet":
        return ParquetWriter(path, {ABOUT: about, NUM_CLASSES: str(num_classes)})
    if format == "webdataset":
        return ShardWriter(path, about, num_classes)
    if format == "fkd":
        return FkdWriter(path, num_classes)
    return _ArrayFileWriter(path, exporter, format)
