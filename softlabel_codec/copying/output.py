"""Where a copy goes: one file, or a folder with the shards of a set and their index. Either appears whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from softlabel_codec.block.keys import decode_key
from softlabel_codec.checks.limits import MAX_SHARDS
from softlabel_codec.container.files import PARTIAL_SUFFIX, PartialFile, fsync_folder
from softlabel_codec.container.joined import Joined
from softlabel_codec.container.metadata import Description
from softlabel_codec.errors import ArgumentError, LimitError, StateError
from softlabel_codec.label_set.index_file import SetIndex, Shard
from softlabel_codec.label_set.making import index_path, shard_name


class Destination(Protocol):
    """Makes the files of a copy."""

    def new_file(self) -> PartialFile:
        """Return the next file, which is empty."""

    def add(self, file: PartialFile, joined: Joined) -> None:
        """Keep a file, which has been written to its end."""

    def finish(self, description: Description) -> int:
        """Give all files their names, and return how many bytes they have together."""


@contextmanager
def destination(path: Path, *, is_set: bool, overwrite: bool) -> Iterator[Destination]:
    """Open a file or a set to write. Without `finish`, or after an error in the `with` block, nothing stays of what was written."""
    made = _Set(path, overwrite) if is_set else _OneFile(path, overwrite)
    try:
        yield made
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("Nothing was written" if made.clean_up() else f"{path} is complete") from error
    except OSError as error:
        if made.clean_up() and error.errno is not None and str(error.filename).endswith(PARTIAL_SUFFIX):
            raise OSError(error.errno, f"{os.strerror(error.errno)}; nothing was written", error.filename) from error
        raise
    finally:
        made.clean_up()


class _OneFile:
    """One file."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        if path.is_dir():
            advice = "Name a file, or pass shards or shard_bytes (--shards, --shard-size) to write a set"
            raise IsADirectoryError(errno.EISDIR, f"a folder. {advice}", str(path))
        self._file: PartialFile | None = PartialFile(path, unfinished="discard" if overwrite else "refuse", overwrite=overwrite)
        self._num_bytes = 0

    def new_file(self) -> PartialFile:
        assert self._file is not None
        return self._file

    def add(self, file: PartialFile, joined: Joined) -> None:
        self._num_bytes = file.length

    def finish(self, description: Description) -> int:
        self.new_file().finish()
        self._file = None
        return self._num_bytes

    def clean_up(self) -> bool:
        """Remove what was written, and return True; unless it was finished."""
        file, self._file = self._file, None
        if file is not None:
            file.partial.unlink(missing_ok=True)
            file.close()
        return file is not None


class _Set:
    """A folder with a set of its name. Its index is open, and thereby locked, from the beginning."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self._folder, self._name = folder, folder.resolve().name
        self._shards: list[Shard] = []
        self._crop_counts: set[int] = set()
        self._open: PartialFile | None = None
        self._written: list[Path] = []
        if not self._name:
            raise ArgumentError(f"{folder}: expected a folder with a name, which its set gets")
        self._is_new = not folder.is_dir()
        if self._is_new:
            _make(folder)
        else:
            self._check_unfinished(overwrite)
        self._index: PartialFile | None = PartialFile(index_path(folder, self._name), unfinished="discard", overwrite=overwrite)
        for left in self._named(r"-[0-9]{5,}\.slc" + re.escape(PARTIAL_SUFFIX)):
            left.unlink()  # by a copy that was killed

    def _check_unfinished(self, overwrite: bool) -> None:
        if not overwrite and not index_path(self._folder, self._name).exists() and self._other_shards():
            advice = "Finish it, or discard it with overwrite=True (--overwrite)"
            raise StateError(f"{self._folder}: an unfinished set is there: {self._other_shards()[0].name} without an index. {advice}")

    def _other_shards(self) -> list[Path]:
        """Return the files in the folder that are named like shards of this set, and are not its own."""
        own = {shard.file for shard in self._shards}
        return [file for file in self._named(rf"-[0-9]{{5,}}-of-[0-9]{{5,}}\.slc({re.escape(PARTIAL_SUFFIX)})?") if file.name not in own]

    def _named(self, ending: str) -> list[Path]:
        """Return the files in the folder whose names are that of the set and an ending that fits this pattern."""
        name = re.compile(re.escape(self._name) + ending)
        return sorted(file for file in self._folder.iterdir() if name.fullmatch(file.name))

    def new_file(self) -> PartialFile:
        if len(self._written) >= MAX_SHARDS:
            raise LimitError(f"{self._folder}: expected at most {MAX_SHARDS} shards. Make larger ones")
        path = self._folder / f"{self._name}-{len(self._written):05d}.slc{PARTIAL_SUFFIX}"  # how many there will be may not be known
        self._open = PartialFile(path, partial=path, unfinished="discard", overwrite=True)
        self._written.append(path)
        return self._open

    def add(self, file: PartialFile, joined: Joined) -> None:
        trailer = joined.trailer
        fingerprint = hashlib.sha256(trailer.pack()).hexdigest()
        counts = trailer.num_images, trailer.num_crops
        ends = (None if key is None else decode_key(key) for key in (joined.first_key, joined.last_key))
        self._shards.append(Shard("", file.length, file.sha256().hex(), fingerprint, *counts, *ends))
        self._crop_counts |= joined.crop_counts
        file.finish()  # keeps its name

    def finish(self, description: Description) -> int:
        assert self._index is not None
        num_shards = len(self._shards)
        crops_per_image = next(iter(self._crop_counts)) if len(self._crop_counts) == 1 else None
        self._shards = [replace(shard, file=shard_name(self._name, number, num_shards)) for number, shard in enumerate(self._shards)]
        self._index.append(SetIndex(replace(description, other={}), tuple(self._shards), crops_per_image).pack())
        self._index.path.unlink(missing_ok=True)  # from here on a set that is replaced is unfinished
        for number, shard in enumerate(self._shards):
            self._written[number] = self._written[number].replace(self._folder / shard.file)
        fsync_folder(self._folder)
        self._index.finish()
        self._index = None
        for file in self._other_shards():
            file.unlink()
        return sum(shard.bytes for shard in self._shards)

    def clean_up(self) -> bool:
        """Remove what was written, and return True; unless it was finished."""
        index, self._index = self._index, None
        if index is None:
            return False
        for path in (*self._written, index.partial):
            path.unlink(missing_ok=True)
        for file in (self._open, index):
            if file is not None:
                file.close()
        if self._is_new:
            shutil.rmtree(self._folder)  # also what an interruption left between its creation and a note of it
        return True


def _make(folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(errno.EEXIST, "not a folder; a set of several files needs one", str(folder))
    if not folder.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; create it first", str(folder.parent))
    folder.mkdir()
