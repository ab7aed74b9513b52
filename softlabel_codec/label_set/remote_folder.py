"""`RemoteSetFolder`: a label set in object storage that is made by way of working folders on the machines of its workers."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import replace as replaced
from pathlib import Path

from softlabel_codec.errors import ArgumentError
from softlabel_codec.label_set.folder import Contents, SetFolder
from softlabel_codec.label_set.index_file import SUFFIX, SetIndex
from softlabel_codec.label_set.locks import Lock
from softlabel_codec.label_set.making import shard_name
from softlabel_codec.storage.cache import usual_folder
from softlabel_codec.storage.location import Location, Url
from softlabel_codec.storage.objects import sizes_in
from softlabel_codec.storage.uploading import check_can_upload, upload

_ADVICE = "Who makes a label set there must be able to list it"


class WorkFolder:
    """The folder of this machine in which files are written that are uploaded when they are finished.

    Parameters
    ----------
    url : Url
        Where they are to be.
    parent : path, optional
        In which folder it is to be; by default in that in which caches are.

    Attributes
    ----------
    path : Path
        The folder, which is another for each URL and has the last part of the URL for its name.
    """

    def __init__(self, url: Url, parent: str | os.PathLike[str] | None = None) -> None:
        home = Path(usual_folder(), "work") if parent is None else Path(parent)
        address = hashlib.sha256(url.full.rstrip("/").encode()).hexdigest()[:16]
        self.path = home.expanduser().absolute() / address / url.name

    def make(self) -> None:
        """Make the folder if it is not there; OSError if that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"{error.strerror}. Pass another folder for shards that are being made: work=FOLDER (--work FOLDER)"
            raise type(error)(error.errno, what, str(self.path)) from None

    def remove_if_empty(self) -> None:
        """Remove the folder, if nothing is in it."""
        with suppress(OSError):
            self.path.rmdir()
            self.path.parent.rmdir()


class RemoteSetFolder(SetFolder):
    """A label set under a URL, and the folder of this machine in which shards are made before they are uploaded.

    What counts is what is under the URL. Locks and unfinished shards are in the folder, so they hold for all processes that share it.

    Parameters
    ----------
    url : Url
        Where the set is to be; it has the name of the last part.
    num_shards : int
        Number of shards of the set.
    work : path, optional
        Where the folder is to be: see `WorkFolder`.
    overwrite : bool
        Replace the index and shards that are there.

    Raises
    ------
    ArgumentError
        If no set can be made there.
    OSError
        If it is known that nothing can be uploaded there, as there are no credentials, or there is no bucket.
    """

    def __init__(self, url: Url, num_shards: int, work: str | os.PathLike[str] | None = None, overwrite: bool = False) -> None:
        if url.name in ("", ".", "..") or url.name.endswith((".slc", ".json", ":")):
            raise ArgumentError(f"{url}: expected the URL of a folder for the shards of a label set, such as s3://BUCKET/labels")
        self._work, self.url, self._overwrite = WorkFolder(url, work), url, overwrite
        super().__init__(self._work.path, num_shards)
        check_can_upload(self.url.joined(self.name + SUFFIX))

    @property
    def where(self) -> Location:
        """Where the set is when it is finished."""
        return self.url

    @property
    def finished_index(self) -> Url:
        """Where the index is when it is finished."""
        return self.url.joined(self.name + SUFFIX)

    def finished_shard(self, number: int) -> Url:
        """Return where a shard is when it is finished."""
        return self.url.joined(shard_name(self.name, number, self.num_shards))

    def make(self) -> None:
        """Make the folder of this machine, if it is not there."""
        self._work.make()

    def exists(self) -> bool:
        """Return True: it is looked at wherever it is."""
        return True

    def has_index(self) -> bool:
        """Return whether there is a finished index."""
        return self.finished_index.name in self._sizes()

    def contents(self) -> Contents:
        """Look at what is finished, under the URL, and at what is not, in the folder."""
        sizes = {named: size for file, size in self._sizes().items() if (named := self.parse(file)) and named[2] == "shard"}
        finished = {number: size for (number, num_shards, _), size in sizes.items() if num_shards == self.num_shards}
        of_others: list[Location] = [
            self.url.joined(shard_name(self.name, number, num_shards))
            for number, num_shards, _ in sorted(sizes)
            if num_shards != self.num_shards
        ]
        here = super().contents() if self.folder.exists() else Contents(self.num_shards, frozenset(), {}, {}, frozenset(), [], [])
        return replaced(here, finished=frozenset(finished), bytes_of_some=finished, of_others=[*of_others, *here.of_others])

    def upload_shard(self, number: int, replace: bool) -> None:
        """Upload a shard that is finished in the folder, and remove it there.

        Raises
        ------
        FileExistsError
            If there is another one, and `replace` is not set.
        OSError
            If the upload fails. The shard is kept.
        """
        upload(self.shard(number), self.finished_shard(number), overwrite=replace)
        self.shard(number).unlink(missing_ok=True)

    def write_index(self, index: SetIndex, lock: Lock) -> None:
        """Upload the index."""
        super().write_index(index, lock)
        try:
            upload(self.index, self.finished_index, overwrite=self._overwrite)
        finally:
            self.index.unlink(missing_ok=True)

    def remove_left_over(self, others: bool = False) -> None:
        """Remove what nobody needs when there is an index, in the folder, and the folder. Nothing under the URL is removed."""
        if self.folder.exists():
            for number in SetFolder.contents(self).finished:
                self.shard(number).unlink(missing_ok=True)  # of a worker that was killed while it was uploading
            super().remove_left_over(others)
        self._work.remove_if_empty()

    def _sizes(self) -> dict[str, int]:
        try:
            return sizes_in(self.url, _ADVICE)
        except FileNotFoundError:
            return {}
