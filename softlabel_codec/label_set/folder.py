"""`SetFolder`: a folder in which a label set is made, by any number of workers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.container.files import CUT_SUFFIX, PARTIAL_SUFFIX, fsync_folder
from softlabel_codec.container.whole_files import whole_file
from softlabel_codec.errors import ArgumentError
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.locks import Lock, LockLostError, see
from softlabel_codec.label_set.making import images_of_shard, index_path, shard_name
from softlabel_codec.storage.location import Location

LOCK_SUFFIX = ".lock"
_AFTER_NAME = re.compile(rf"(?P<lock>{re.escape(LOCK_SUFFIX)})|(?P<partial>\.[0-9a-f]+{re.escape(PARTIAL_SUFFIX)})|(?P<beside>\..+)|")
_MEASURED_SHARDS = 64


@dataclass(frozen=True)
class Contents:
    """What there is of a set that is being made.

    Attributes
    ----------
    num_shards : int
        Number of shards of the set.
    finished : frozenset of int
        Shards that are finished.
    bytes_of_some : dict
        Length of some of them.
    unfinished : dict
        Unfinished files of each shard that has any, and their lengths in bytes.
    locked : frozenset of int
        Shards that are locked.
    beside : list of Path
        Files beside the shards that nobody needs any more when these are finished.
    of_others : list of Path or Url
        Shards of a set of the same name with another number of shards, finished or not.
    """

    num_shards: int
    finished: frozenset[int]
    bytes_of_some: Mapping[int, int]
    unfinished: Mapping[int, Mapping[Path, int]]
    locked: frozenset[int]
    beside: list[Path]
    of_others: list[Location]

    @property
    def complete(self) -> bool:
        """Whether all shards are finished."""
        return len(self.finished) == self.num_shards

    def images_done(self, num_images: int, bytes_per_image: float = 0.0) -> dict[int, int]:
        """Return how many images each shard that was begun has labels of, as far as lengths of files tell; 0 if they do not.

        Parameters
        ----------
        num_images : int
            Images of the whole set.
        bytes_per_image : float
            About how many bytes the labels of an image take, if no shard is finished that tells.
        """
        images = {number: len(images_of_shard(num_images, number, self.num_shards)) for number in (*self.finished, *self.unfinished)}
        measured = sum(images[number] for number in self.bytes_of_some)
        if measured:
            bytes_per_image = sum(self.bytes_of_some.values()) / measured
        done = {number: images[number] for number in self.finished}
        for number, files in self.unfinished.items():
            found = round(max(files.values()) / bytes_per_image) if bytes_per_image else 0
            done.setdefault(number, min(found, images[number]))
        return done


class SetFolder:
    """A folder in which a label set is made; the set has the name of the folder.

    Whoever makes a shard holds its lock (`lock_path`) and writes a file of its own (`unfinished_file`), which it renames when it is
    finished. So a worker that was stopped and has lost its lock cannot write into the file of the next one, nor rename it. At most it
    finishes the shard, too: with the same bytes.

    Parameters
    ----------
    folder : path
        The folder. It need not exist.
    num_shards : int
        Number of shards of the set.

    Raises
    ------
    ArgumentError
        If a set cannot have the name of the folder, or it is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], num_shards: int) -> None:
        self.folder, self.num_shards = Path(folder), num_shards
        self.name = os.path.basename(os.path.abspath(folder))
        if not self.name or self.name.endswith((".slc", ".json")):
            raise ArgumentError(f"{self.folder}: expected the name of a folder for the shards of a label set, such as 'labels'")
        if self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError(f"{self.folder}: expected a folder for the shards of a label set, got a file. Choose another name")

    @property
    def index(self) -> Path:
        """The index of the set."""
        return index_path(self.folder, self.name)

    @property
    def where(self) -> Location:
        """Where the set is when it is finished."""
        return self.folder

    @property
    def finished_index(self) -> Location:
        """Where the index is when it is finished."""
        return self.index

    @property
    def finished_shards(self) -> list[Location]:
        """Where all shards are when they are finished, in order."""
        return [self.finished_shard(number) for number in range(self.num_shards)]

    def finished_shard(self, number: int) -> Location:
        """Return where a shard is when it is finished."""
        return self.shard(number)

    def make(self) -> None:
        """Make the folder if it is not there."""
        self.folder.mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Return whether there is such a folder."""
        return self.folder.is_dir()

    def has_index(self) -> bool:
        """Return whether there is a finished index."""
        return self.index.exists()

    def shard(self, number: int) -> Path:
        """Return the path at which a shard is written."""
        return self.folder / shard_name(self.name, number, self.num_shards)

    def lock_path(self, number: int | None) -> Path:
        """Return the path of the lock of a shard; for None, that of the index."""
        path = self.index if number is None else self.shard(number)
        return path.with_name(path.name + LOCK_SUFFIX)

    def owner(self, number: int | None) -> str:
        """Return who holds a lock; empty if nobody does."""
        sight = see(self.lock_path(number))
        return str(sight) if sight else ""

    def unfinished_file(self, number: int, lock: Lock) -> Path:
        """Return the unfinished file of whoever holds the lock of a shard."""
        path = self.shard(number)
        return path.with_name(f"{path.name}.{lock.token}{PARTIAL_SUFFIX}")

    def unfinished_files(self, number: int) -> list[Path]:
        """Return the unfinished files of a shard, the longest last."""
        start = f"{self.shard(number).name}."
        found: list[tuple[int, Path]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(start) and entry.name.endswith(PARTIAL_SUFFIX):
                    with suppress(FileNotFoundError):  # it may be renamed just now
                        found.append((entry.stat().st_size, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def inherit(self, number: int, lock: Lock) -> list[Path]:
        """Copy what others have written of a shard to the unfinished file of the holder of its lock; return their files.

        They may be removed as soon as the copy has been opened, if the lock is still held then: else they may be those of its next holder.
        An owner that is only stopped keeps its file open, without a name.
        """
        older = self.unfinished_files(number)
        if older:
            with suppress(FileNotFoundError), open(older[-1], "rb") as file, open(self.unfinished_file(number, lock), "xb") as copy:
                shutil.copyfileobj(file, copy)
                copy.flush()
                os.fsync(copy.fileno())
        return older

    def contents(self) -> Contents:
        """Look into the folder."""
        finished: set[int] = set()
        locked: set[int] = set()
        some: dict[int, int] = {}
        unfinished: dict[int, dict[Path, int]] = {}
        beside: list[Path] = []
        of_others: list[Location] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                named = self.parse(entry.name)
                if named is None:
                    continue
                number, num_shards, kind = named
                path = Path(entry.path)
                if num_shards != self.num_shards:
                    if kind in ("shard", "partial"):
                        of_others.append(path)
                elif kind == "lock":
                    locked.add(number)
                elif kind == "partial":
                    with suppress(FileNotFoundError):  # it may be renamed just now
                        unfinished.setdefault(number, {})[path] = entry.stat().st_size
                elif kind == "beside":
                    beside.append(path)
                else:
                    finished.add(number)
                    if len(some) < _MEASURED_SHARDS:
                        some[number] = entry.stat().st_size
        return Contents(self.num_shards, frozenset(finished), some, unfinished, frozenset(locked), beside, sorted(of_others, key=str))

    def files(self) -> Iterator[tuple[Location, bool]]:
        """Yield the shards that are there, and whether they are finished."""
        if self.exists():
            found = self.contents()
            yield from ((self.finished_shard(number), True) for number in sorted(found.finished))
            yield from ((path, False) for number in sorted(found.unfinished) for path in sorted(found.unfinished[number]))

    def parse(self, file: str) -> tuple[int, int, str] | None:
        """Return what the name of a file tells, if it is a shard of a set of this name, or is named like one and goes on after that.

        That is the number of the shard, how many there are, and `shard`, `partial`, `lock` or `beside`.
        """
        parts = re.fullmatch(rf"{re.escape(self.name)}-(\d+)-of-(\d+)\.slc(.*)", file, re.DOTALL)
        after = _AFTER_NAME.fullmatch(parts[3]) if parts else None
        if not parts or not after:
            return None
        number, num_shards = int(parts[1]), int(parts[2])
        if file != shard_name(self.name, number, num_shards) + parts[3] or number >= num_shards:
            return None
        return number, num_shards, after.lastgroup or "shard"

    def write_index(self, index: SetIndex, lock: Lock) -> None:
        """Write the index, completely or not at all. `lock` is that of the index."""
        own = self.index.with_name(f"{self.index.name}.{lock.token}")
        with whole_file(own) as file:
            file.write(index.pack())
        try:
            lock.check()
        except LockLostError:
            own.unlink(missing_ok=True)
            raise
        own.replace(self.index)
        fsync_folder(self.folder)

    def remove_left_over(self, others: bool = False) -> None:
        """Remove what nobody needs when there is an index, locks too; if `others`, also shards of a set with another number of them."""
        found = SetFolder.contents(self)  # what is in this folder, wherever finished shards are
        unfinished = [path for files in found.unfinished.values() for path in files]
        locks = [self.lock_path(number) for number in found.locked]
        of_index = [path for path in self.folder.glob("*.slc.index.json.*") if path.name.startswith(f"{self.index.name}.")]
        of_others = [path for path in found.of_others if others and isinstance(path, Path)]
        for path in (*found.beside, *unfinished, *locks, *of_index, *of_others):
            path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove an unfinished file, and what was once cut off it."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + CUT_SUFFIX).unlink(missing_ok=True)
