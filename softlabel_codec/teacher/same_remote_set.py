"""What is in a label set in object storage, compared with what a worker would make."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from softlabel_codec.errors import FormatError, MismatchError, SoftLabelError
from softlabel_codec.label_set.folder import Contents
from softlabel_codec.label_set.making import images_of_shard
from softlabel_codec.label_set.remote_folder import RemoteSetFolder
from softlabel_codec.storage.at_once import for_each
from softlabel_codec.storage.location import Location
from softlabel_codec.teacher.finished import FinishedFile, check_is_shard
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.reports import MadeShard
from softlabel_codec.teacher.same_set import SameSet


class SameRemoteSet(SameSet):
    """The set that a worker and others make in object storage. Each finished shard is compared once, also its keys.

    Parameters
    ----------
    job : Job
        What this worker labels, and how.
    place : RemoteSetFolder
        Where.
    """

    _at_a_time = 16

    def __init__(self, job: Job, place: RemoteSetFolder) -> None:
        super().__init__(job, place)
        self._remote = place
        self._belonging: set[int] = set()

    def has_index(self) -> bool:
        """Return whether there is an index of what is there: one of other shards stays until it is replaced."""
        if self._place.has_index():
            with suppress(FileExistsError, SoftLabelError):
                self._check_finished()
                return True
        return False

    def contents(self) -> Contents:
        """Return what is there; an error if there are shards of another set that must not be replaced."""
        found = self._place.contents()
        self._refuse_others(found)
        if not self._overwrite:
            return found
        unknown = sorted(found.finished - self._belonging)
        others = {number for number, belongs in zip(unknown, for_each(self._belongs, unknown, self._at_a_time), strict=True) if not belongs}
        finished = found.finished - others
        measured = {number: found.bytes_of_some[number] for number in finished}
        return replace(found, finished=finished, bytes_of_some=measured)

    def is_made(self, number: int) -> bool:
        """Return whether a shard is uploaded now and need not be replaced."""
        self._belonging.discard(number)
        try:
            return self._belongs(number)
        except FileNotFoundError:
            return False

    def check(self, number: int) -> None:
        """Raise MismatchError unless the shard that is there belongs to the set."""
        if number not in self._belonging:
            self._check(self._remote.finished_shard(number), number)
            self._belonging.add(number)

    def waiting(self, number: int) -> MadeShard | None:
        """Return what is in a shard that is finished in the folder of this machine, and only needs to be uploaded; None if there is none.

        One that does not belong to the set is an error, or is removed if it may be replaced.
        """
        path = self._remote.shard(number)
        if not path.exists():
            return None
        try:
            found = self._check(path, number)
        except (FormatError, MismatchError):
            if not self._overwrite:
                raise
            path.unlink()
            return None
        return MadeShard(found.num_images, found.num_images, found.skipped, found.num_bytes)

    def _check(self, path: Location, number: int) -> FinishedFile:
        images = images_of_shard(len(self._job.keys), number, self._place.num_shards)
        try:
            return check_is_shard(path, self._job.description, self._job.keys[images.start : images.stop])
        except FormatError as error:
            raise type(error)(f"{error}. Pass overwrite=True (--overwrite) to replace this shard") from None

    def _belongs(self, number: int) -> bool:
        """Return whether a shard belongs to the set; if it does not, that is an error if it must not be replaced."""
        try:
            self.check(number)
        except (FormatError, MismatchError):
            if not self._overwrite:
                raise
            return False
        return True

    def _compare_found(self, found: Contents) -> None:
        for_each(self.check, sorted(found.finished - self._belonging), self._at_a_time)
        for number in sorted(found.unfinished)[:1]:
            self._compare(min(found.unfinished[number]))

    def _drop_index(self) -> None:
        """Leave the index: who reads it meanwhile is told of shards that are replaced or missing."""
