"""Keys of the images of a source, in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_key
from softlabel_codec.errors import ArgumentError, LimitError, MismatchError

_DIGITS = 8
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class KeyList(Sequence[str]):
    """Keys in their order, which can be looked up; about 16 bytes of memory for each beside its text.

    Parameters
    ----------
    keys : iterable of str
        The keys.
    where : str
        Where the images lie, for errors.

    Raises
    ------
    ArgumentError
        If there are none, or one cannot be the key of an image.
    """

    def __init__(self, keys: Iterable[str], where: str) -> None:
        try:
            coded = [check_key(key).encode() for key in keys]
        except (ArgumentError, LimitError) as error:
            raise ArgumentError(f"{where}: {error}") from None
        if not coded:
            raise ArgumentError(f"{where}: expected images, found none")
        self._text = b"".join(coded)
        self._ends = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        crc32s = np.fromiter(map(zlib.crc32, coded), np.uint32, len(coded))
        self._order = np.argsort(crc32s, kind="stable").astype(np.uint32)
        self._crc32s = crc32s[self._order]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        return self._coded(range(len(self))[place]).decode()

    def __iter__(self) -> Iterator[str]:
        return (self._text[start:end].decode() for start, end in pairwise(self._ends.tolist()))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def number(self, key: str) -> int:
        """Return the place of a key; KeyError if it is not there."""
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def repeated(self) -> tuple[int, int] | None:
        """Return the first two places that hold the same key; None if each key is there once."""
        places: dict[bytes, int] = {}
        suspects = np.isin(self._crc32s, self._crc32s[1:][self._crc32s[1:] == self._crc32s[:-1]])
        pairs = ((places.setdefault(self._coded(number), number), number) for number in self._order[suspects].tolist())
        return min((pair for pair in pairs if pair[0] != pair[1]), default=None)

    def _find(self, key: str) -> int | None:
        wanted = key.encode(errors="surrogatepass")
        return next((number for number in self._alike(zlib.crc32(wanted)) if self._coded(number) == wanted), None)

    def _alike(self, crc32: int) -> list[int]:
        """Return the places of keys with this checksum, in ascending order."""
        low, high = (int(np.searchsorted(self._crc32s, np.uint32(crc32), side)) for side in _SIDES)
        found: list[int] = self._order[low:high].tolist()
        return found

    def _coded(self, number: int) -> bytes:
        return self._text[int(self._ends[number]) : int(self._ends[number + 1])]


def unique_keys(keys: Iterable[str], where: str) -> KeyList:
    """Return keys of which each is there once; MismatchError if one is there twice."""
    found = keys if isinstance(keys, KeyList) else KeyList(keys, where)
    repeated = found.repeated()
    if repeated is not None:
        first, second = repeated
        raise MismatchError(f"{where}: expected each key once, got {found[first]!r} for image {first} and for image {second}")
    return found


def row_keys(count: int) -> list[str]:
    """Return keys of images that have no names: the number of the row, with eight digits."""
    return [f"{row:0{_DIGITS}d}" for row in range(count)]


def path_keys(paths: Sequence[str | None]) -> list[str]:
    """Return the keys of rows of a table whose images may have paths: these, if every row has one and they differ; else the row numbers.

    Of an absolute path only the name counts, which is what `datasets` keeps of it when it stores a table.
    """
    names = [PurePath(path).name if path and PurePath(path).is_absolute() else path for path in paths]
    keys = [name for name in names if name]
    return keys if len(set(keys)) == len(paths) else row_keys(len(paths))


LABELS = ("label", "labels", "target", "targets", "cls", "class", "fine_label")
"""What a column of class numbers may be called."""


def label_column(types: Mapping[str, str]) -> str | None:
    """Return the column of class numbers, by the types of all columns: an integer column with one of these names, or None."""
    return next((name for name in LABELS if types.get(name, "").startswith(("int", "uint"))), None)


def class_numbers(labels: object, count: int) -> NDArray[np.int64] | None:
    """Return class numbers as int64 (count,); None if they are something else."""
    try:
        numbers = np.asarray(labels)
    except ValueError:  # lists of different lengths
        return None
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu" or (count and not 0 <= int(numbers.min()) <= int(numbers.max()) < 2**63):
        return None
    return numbers.astype(np.int64)
