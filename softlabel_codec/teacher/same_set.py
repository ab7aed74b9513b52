"""What is in the folder of a label set, compared with what a worker would make."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path

from softlabel_codec.errors import FormatError, MismatchError, SoftLabelError
from softlabel_codec.label_set.finding import read_index
from softlabel_codec.label_set.folder import Contents, SetFolder
from softlabel_codec.label_set.locks import Lock
from softlabel_codec.storage.at_once import for_each
from softlabel_codec.teacher.finished import check_made_alike, check_same_set, described
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.reports import MadeShard

logger = logging.getLogger(__name__)


class SameSet:
    """The set that a worker and others make; shards that are not of it are refused, or count as absent if they may be replaced.

    Parameters
    ----------
    job : Job
        What this worker labels, and how.
    place : SetFolder
        Where.
    """

    _at_a_time = 1

    def __init__(self, job: Job, place: SetFolder) -> None:
        self._job, self._place = job, place
        self._overwrite = job.config.overwrite
        self._alike: set[tuple[Path, int]] = set()

    def finished_before(self) -> dict[int, MadeShard] | None:
        """Return what is in a set that is complete and was made with the same options; None if there is no complete set.

        An index that does not belong to what is there is removed, if that is allowed.

        Raises
        ------
        FileExistsError, MismatchError, FormatError
            If there is another set, and it must not be replaced.
        """
        found, has_index = self._place.contents(), self._place.has_index()
        if has_index and found.complete and not found.of_others:
            try:
                return self._check_finished()
            except (FileExistsError, SoftLabelError):
                if not self._overwrite:
                    raise
        self._refuse_others(found)
        if has_index:
            self._drop_index()
        return None

    def has_index(self) -> bool:
        """Return whether there is an index of what is there, after `finished_before`."""
        return self._place.has_index()

    def contents(self) -> Contents:
        """Return what is in the folder; an error if it holds shards of another set that must not be replaced."""
        found = self._place.contents()
        if not self._overwrite:
            self._refuse_others(found)
            return found
        finished = frozenset(number for number in found.finished if self.is_made(number))
        measured = {number: found.bytes_of_some[number] for number in finished.intersection(found.bytes_of_some)}
        return replace(found, finished=finished, bytes_of_some=measured)

    def is_made(self, number: int) -> bool:
        """Return whether a shard is finished and need not be replaced."""
        path = self._place.shard(number)
        try:
            if self._overwrite:
                self._compare(path)
        except MismatchError:
            return False
        return path.exists()

    def inherit(self, number: int, lock: Lock) -> list[Path]:
        """Do `SetFolder.inherit`, unless a file was made otherwise: that is an error if it must not be replaced."""
        if not self._overwrite:
            for path in self._place.unfinished_files(number):
                self._compare(path)
        return self._place.inherit(number, lock)

    def _check_finished(self) -> dict[int, MadeShard]:
        """Return what is in a complete set; an error if its index is not that of its shards, or they were made with other options."""
        index, shards = self._place.finished_index, self._place.finished_shards
        try:
            listed = [(shard.file, shard.bytes, shard.fingerprint) for shard in read_index(index)[0].shards]
        except FormatError as error:
            raise type(error)(f"{error}. Delete it and run the same command again") from None
        files = for_each(lambda path: check_made_alike(path, self._job.description, self._job.config.on_error), shards, self._at_a_time)
        if listed != [(path.name, file.num_bytes, file.fingerprint) for path, file in zip(shards, files, strict=True)]:
            raise MismatchError(f"{index}: expected the index of the shards beside it. Delete it and run the same command again")
        return {number: MadeShard(file.num_images, file.num_images, file.skipped, file.num_bytes) for number, file in enumerate(files)}

    def _drop_index(self) -> None:
        index = self._place.index
        logger.warning("%s: removed, as the set is not complete. It is written again when all shards are finished", index)
        index.unlink(missing_ok=True)

    def _refuse_others(self, found: Contents) -> None:
        """Raise an error if the folder holds shards of another set, unless they may be replaced."""
        if self._overwrite:
            return
        if found.of_others:
            what = f"is of a label set with another number of shards than {self._place.num_shards}. Pass the number of that set, or"
            raise FileExistsError(errno.EEXIST, f"{what} overwrite=True (--overwrite) to replace it", str(found.of_others[0]))
        self._compare_found(found)

    def _compare_found(self, found: Contents) -> None:
        first = min((*found.finished, *found.unfinished), default=None)  # the same one for all workers
        if first is not None:
            self._compare(self._place.shard(first) if first in found.finished else min(found.unfinished[first]))

    def _compare(self, path: Path) -> None:
        """Raise MismatchError if a shard, finished or not, does not describe itself as those of this worker."""
        try:
            which = path, path.stat().st_ino
            found = None if which in self._alike else described(path)
        except FileNotFoundError:  # it has just been renamed
            return
        if found is not None:
            check_same_set(path, found, self._job.description)
            self._alike.add(which)
