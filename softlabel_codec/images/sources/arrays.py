"""Images in arrays, and in `.npz` files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError
from softlabel_codec.image_source import ImageData
from softlabel_codec.images.sources.keys import class_numbers, row_keys, unique_keys

_EXPECTED = "uint8 of shape (N, H, W, 3) or (N, H, W), or the bytes of N image files"


class ArraySource:
    """Images that are rows of an array.

    Parameters
    ----------
    images : uint8 (N, H, W, 3) or (N, H, W), or bytes (N,)
        The images: their pixels; or the bytes of their files, as an array of dtype `S` or object, or a list.
    keys : sequence or array of str, optional
        Their keys; by default the number of the row, with eight digits.
    labels : int (N,), optional
        The numbers of their classes.
    where : str
        What to call the array in errors.

    Raises
    ------
    ArgumentError
        If these are no images, or the numbers of images, keys and labels differ.
    MismatchError
        If a key occurs twice.
    """

    def __init__(self, images: Any, keys: Sequence[str] | NDArray[Any] | None = None, labels: Any = None, where: str = "images") -> None:
        self._images, self._where = _checked(images, where), where
        count = len(self._images)
        given = row_keys(count) if keys is None else _as_text(keys, where)
        if len(given) != count:
            raise ArgumentError(f"{where}: keys: expected {count}, one for each image, got {len(given)}")
        self._keys = unique_keys(given, where)
        self._targets = None if labels is None else class_numbers(labels, count)
        if labels is not None and self._targets is None:
            found = np.asarray(labels)
            raise ArgumentError(f"{where}: labels: expected class numbers of shape ({count},), got {found.dtype} of shape {found.shape}")

    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> ImageData:
        image: ImageData = self._images[self._keys.number(key)]
        return bytes(image) if isinstance(image, bytes) else image

    def targets(self) -> NDArray[np.int64] | None:
        return self._targets

    def where(self, key: str) -> str:
        return f"{self._where}: {key}"

    def __str__(self) -> str:
        return self._where


def _as_text(keys: Sequence[str] | NDArray[Any], where: str) -> list[str]:
    if np.ndim(keys) != 1:
        raise ArgumentError(f"{where}: keys: expected one for each image, got an array of shape {np.shape(keys)}")
    try:
        return [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{where}: keys: expected text in UTF-8, got {error.object!r}") from None


def _checked(images: Any, where: str) -> Any:
    """Return images as an array (N, ...); ArgumentError if they are no images."""
    found = np.asarray(images, np.object_) if isinstance(images, list) else np.asarray(images)
    files = found.ndim == 1 and found.dtype.kind in "SO" and all(isinstance(image, bytes) for image in found)
    pixels = found.dtype == np.uint8 and (found.ndim == 3 or (found.ndim == 4 and found.shape[3] == 3))
    if not files and not pixels:
        raise ArgumentError(f"{where}: expected {_EXPECTED}, got {found.dtype} of shape {found.shape}")
    return found


class NpzSource(ArraySource):
    """Images in a `.npz` file: its arrays `images` and, if it has them, `keys` and `labels`, as for `ArraySource`.

    Images that are files must be of dtype `S`, as `np.array(list_of_bytes)` makes: an object array would have to be unpickled, which can
    run code. (numpy drops zero bytes at the end of each, where JPEG and PNG files have none.) The file is read as a whole, by each
    process for itself.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    ArgumentError
        If it is no such file, or lacks `images`; else as for `ArraySource`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        super().__init__(**_load(self._path), where=str(path))

    def __reduce__(self) -> tuple[type[NpzSource], tuple[Path]]:
        return NpzSource, (self._path,)


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path) as file:
            if "images" not in file:
                raise ArgumentError(f"{path}: expected an array 'images', got {', '.join(file) or 'none'}")
            return {name: file[name] for name in ("images", "keys", "labels") if name in file}
    except (ArgumentError, OSError, MemoryError):
        raise
    except Exception as error:  # damaged files make numpy and zipfile raise errors of many kinds
        advice = "Arrays of objects are not read, because they can run code: store bytes as np.array(list_of_bytes)"
        raise ArgumentError(f"{path}: expected a file that np.savez wrote, without objects: {error}. {advice}") from None
