"""`open_images`: from what a user names to an `ImageSource`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from softlabel_codec.checks.user_code import call_function
from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageSource, where_is
from softlabel_codec.images.sources.arrays import ArraySource, NpzSource
from softlabel_codec.images.sources.columns import ColumnSource
from softlabel_codec.images.sources.folder import FolderSource, MappingSource
from softlabel_codec.images.sources.map_style import HuggingFaceSource, MapStyleSource
from softlabel_codec.images.sources.shards import ShardSource
from softlabel_codec.images.sources.tables import INFO, SPLITS, STATE, ParquetFiles, SavedDataset
from softlabel_codec.storage.patterns import files_of, is_url

_TAR, _PARQUET, _NPZ = ".tar", ".parquet", ".npz"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
KINDS = "a folder of images, SHARDS.tar, FILES.parquet, FILE.npz, or FILE.py:FACTORY"


def open_images(images: Any, column: str | None = None) -> ImageSource:
    """Return a source of images, whatever they lie in.

    Parameters
    ----------
    images : path, mapping, array, dataset or ImageSource
        ======================================  =====================================================  ==================================
        what                                    how to name it                                         keys
        ======================================  =====================================================  ==================================
        a folder                                its path                                               paths in it, with `/`
        WebDataset shards                       `shards-{000000..000146}.tar`, `*.tar`, one tar file,  names of the members
                                                local or a URL that fsspec opens
        Parquet files                           `*.parquet`, or `*.parquet:COLUMN`, likewise           paths of the images, or row numbers
        what Hugging Face `save_to_disk` wrote  its folder, or `FOLDER:COLUMN`                         likewise
        a `datasets.Dataset`                    the object                                             likewise
        a `.npz` file                           its path; arrays `images`, `keys`, `labels`            `keys`, or row numbers
        a uint8 array (N, H, W, 3)              the object, or `ArraySource(images, keys, labels)`     likewise
        a map-style dataset without transform   the object                                             paths in its `root`, or item numbers
        a mapping                               the object                                             its keys
        anything else with these methods        an `ImageSource`                                       its `keys()`
        one of these, made by a function        `FILE.py:FACTORY` or `MODULE:FACTORY`                  its keys
        ======================================  =====================================================  ==================================

        Numbers that serve as keys have eight digits.
    column : str, optional
        The column of a table that holds images, if several could.

    Raises
    ------
    ArgumentError
        If there is nothing of this kind, or it holds no images.
    MismatchError
        If a key occurs twice.
    OSError
        If files cannot be read.
    StateError
        If a package is missing that this source needs; the text says what to install.
    """
    if isinstance(images, str | os.PathLike):
        return _at_path(os.fspath(images), column)
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, np.ndarray):
        return ArraySource(images)
    of_hugging_face = type(images).__module__.partition(".")[0] == "datasets"
    if of_hugging_face and isinstance(images, Mapping):
        raise ArgumentError(f"images: expected one dataset, got {type(images).__name__} of {', '.join(images)}. Pass one of them")
    if isinstance(images, Mapping):
        return MappingSource(images)
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not isinstance(images, bytes):
        return HuggingFaceSource(images, column) if of_hugging_face else MapStyleSource(images)
    others = "a mapping, an array, a dataset with len() and numbered items, or an object with keys, read and targets"
    raise ArgumentError(f"images: expected {KINDS}, {others}, got {type(images).__name__}")


def _at_path(text: str, column: str | None) -> ImageSource:
    if text.startswith("pipe:"):
        raise ArgumentError(f"images: {text}: commands are not run. Name the shards by paths, or by URLs that fsspec opens, such as s3://")
    if not text:
        raise ArgumentError(f"images: expected {KINDS}, got an empty path")
    if Path(text).is_dir():
        return _in_folder(Path(text), column)
    if text.endswith(_COMPRESSED):
        raise ArgumentError(f"{text}: members of a compressed tar file cannot be read by position. Unpack it to a plain {_TAR}")
    name = text.partition("?")[0] if is_url(text) else text
    if name.endswith(_TAR):
        return ShardSource(files_of(text))
    if name.endswith(_PARQUET):
        return ColumnSource(ParquetFiles(tuple(files_of(text))), column)
    if Path(text).is_file():
        if text.endswith(_NPZ):
            return NpzSource(text)
        raise ArgumentError(f"{text}: expected {KINDS}, got another file")
    where, colon, name = text.rpartition(":")
    if colon and (where.endswith(_PARQUET) or Path(where).is_dir()):
        return open_images(where, name)
    if colon and where and name.isidentifier() and not is_url(text):
        return MadeSource(where, name).opened()
    raise ArgumentError(f"{text}: does not exist: expected {KINDS}")


def _in_folder(folder: Path, column: str | None) -> ImageSource:
    if (folder / SPLITS).is_file():
        splits = sorted(entry.parent.name for entry in folder.glob(f"*/{STATE}"))
        raise ArgumentError(f"{folder}: holds several datasets: name one of {', '.join(str(folder / split) for split in splits)}")
    if (folder / STATE).is_file() and (folder / INFO).is_file():
        return ColumnSource(SavedDataset(folder), column)
    if column is not None:
        raise ArgumentError(f"{folder}: column {column!r}: expected a dataset that 'datasets' saved, got another folder")
    return FolderSource(folder)


@dataclass(frozen=True)
class MadeSource:
    """A source that a function in the user's file makes; each process calls it for itself.

    Attributes
    ----------
    module, name : str
        `FILE.py` or a module, and the function in it. It takes no arguments and returns anything that `open_images` takes.
    """

    module: str
    name: str

    def opened(self) -> MadeSource:
        """Return this source, after its function was called."""
        _ = self.source
        return self

    @cached_property
    def source(self) -> ImageSource:
        """What the function made."""
        return open_images(call_function("images", self.module, self.name)[1])

    def keys(self) -> Any:
        return self.source.keys()

    def read(self, key: str) -> Any:
        return self.source.read(key)

    def targets(self) -> Any:
        return self.source.targets()

    def where(self, key: str) -> str:
        return where_is(self.source, key)

    def __reduce__(self) -> tuple[type[MadeSource], tuple[str, str]]:
        return MadeSource, (self.module, self.name)

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"
