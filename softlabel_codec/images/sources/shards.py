"""Images in WebDataset shards: tar files, of which only the headers are read at first."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.paths import SUFFIXES
from softlabel_codec.images.sources.keys import KeyList
from softlabel_codec.storage.patterns import open_file, read_at

logger = logging.getLogger(__name__)
_CLASS, _MOST_DIGITS = ".cls", 18
_AT_ONCE = 8
"""Shards whose headers are read at once: what counts is how long a remote one takes to answer."""


@dataclass
class _Shard:
    """Where the members of a shard lie: images by name, class numbers by the name of their sample; offset and length in bytes."""

    images: list[tuple[str, int, int]] = field(default_factory=list)
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)


class ShardSource:
    """Image files in WebDataset shards, read by position, in any order.

    Keys are the names of the members that are named like image files, in the order of the shards. The class of an image is the
    `.cls` member of its sample, as WebDataset groups members: by their names up to the first dot.

    Parameters
    ----------
    shards : sequence of str
        Tar files, local or URLs.

    Raises
    ------
    ArgumentError
        If there are no images in them, or a name is not valid text.
    MismatchError
        If two images have the same name.
    OSError
        If a shard cannot be read, is no tar file, or is cut off.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = list(shards)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(_index, shards))
        self._keys = KeyList((name for shard in found for name, _, _ in shard.images), str(self))
        self._shard_of_image = np.repeat(np.arange(len(found), dtype=np.int32), [len(shard.images) for shard in found])
        self._places = np.array([place for shard in found for _, *place in shard.images], np.int64)
        no_class = (0, 0)
        classes = [shard.classes.get(_sample(name), no_class) for shard in found for name, _, _ in shard.images]
        self._class_places = np.array(classes, np.int64) if no_class not in classes else None
        self._refuse_repeated()
        logger.info("%s: found %s in %s", self, counted(len(self._keys), "image"), counted(len(shards), "shard"))

    def _refuse_repeated(self) -> None:
        repeated = self._keys.repeated()
        if repeated is not None:
            first, second = (self._shard(number) for number in repeated)
            both = f"{first} and {second}: both hold" if first != second else f"{first}: holds twice"
            advice = "Labels are found by these names: give each image a name of its own"
            raise MismatchError(f"{both} an image {self._keys[repeated[0]]!r}: expected each name once in all shards. {advice}")

    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> bytes:
        number = self._keys.number(key)
        offset, length = self._places[number].tolist()
        return read_at(self._shard(number), offset, length)

    def targets(self) -> NDArray[np.int64] | None:
        if self._class_places is None:
            return None
        numbers = np.zeros(len(self._keys), np.int64)
        for shard, path in enumerate(self._shards):
            with open_file(path) as file:
                for image in np.flatnonzero(self._shard_of_image == shard).tolist():
                    offset, length = self._class_places[image].tolist()
                    file.seek(offset)
                    numbers[image] = self._class_number(image, file.read(length))
        return numbers

    def _class_number(self, image: int, data: bytes) -> int:
        text = data.strip()
        if not text.isdigit() or len(text) > _MOST_DIGITS:
            raise MismatchError(f"{self.where(self._keys[image])}: expected a class number in its {_CLASS} member, got {data[:20]!r}")
        return int(text)

    def where(self, key: str) -> str:
        return f"{self._shard(self._keys.number(key))}: {key}"

    def length_of(self, key: str) -> int:
        """Return the number of bytes of an image's file."""
        return int(self._places[self._keys.number(key), 1])

    def _shard(self, image: int) -> str:
        return self._shards[int(self._shard_of_image[image])]

    def __str__(self) -> str:
        return self._shards[0] if len(self._shards) == 1 else f"{self._shards[0]} to {self._shards[-1]}"


def _index(path: str) -> _Shard:
    """Return where the members of a shard lie."""
    shard, links = _Shard(), []
    with open_file(path) as file:
        for member in _members(file, path):
            name = member.name.removeprefix("./")
            suffix = PurePosixPath(name).suffix.lower()
            if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")) or suffix not in (*SUFFIXES, _CLASS):
                continue
            if not member.isreg() or member.issparse():
                links.append(name)
            elif suffix == _CLASS:
                shard.classes[_sample(name)] = member.offset_data, member.size
            else:
                shard.images.append((name, member.offset_data, member.size))
    if links:
        raise ArgumentError(f"{path}: expected image files, got a link or a folder named {links[0]!r}. Write the shard without links")
    return shard


def _members(file: BinaryIO, path: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file. It must end as such files do: Python's module takes a damaged header for the end."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
            file.seek(tar.offset)
    except tarfile.TarError as error:
        advice = "Members of compressed ones cannot be read by position: unpack it to a plain .tar"
        raise OSError(f"{path}: not a readable tar file: {error}. {advice}") from None
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        what = "a damaged header" if any(end) else "no end marker: it is cut off"
        raise OSError(f"{path}: not a readable tar file: expected its next member or its end at byte {tar.offset}, got {what}")


def _sample(name: str) -> str:
    """Return the name of the sample that a member belongs to."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"
