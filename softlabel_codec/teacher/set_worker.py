"""A worker that makes shards of a label set, beside any number of others on any machines that share its folder."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.checks.wording import counted, rate
from softlabel_codec.errors import FormatError, MismatchError, SoftLabelError, StateError
from softlabel_codec.label_set.folder import Contents, SetFolder, remove_unfinished
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.locks import LOOK_SECONDS, Lock, LockLostError, Watch
from softlabel_codec.label_set.making import images_of_shard, read_shards
from softlabel_codec.teacher.finished import check_made_alike, check_same_set, described
from softlabel_codec.teacher.interrupted import Interrupted, saying_what_is_kept
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.labelling import Progress, label_images, none_readable
from softlabel_codec.teacher.pace import Pace
from softlabel_codec.teacher.reports import EncodeReport, SetReport
from softlabel_codec.writer import SoftLabelWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Made:
    """A shard that this worker has finished."""

    images: int
    resumed: int
    skipped: dict[str, str]
    file_bytes: int


class SetWorker:
    """Makes shards that nobody else is making until none is left, and the index if all are finished.

    Parameters
    ----------
    job : Job
        What is labelled, and how.
    place : SetFolder
        Where.
    progress : callable
        Called with the number of images done so far by all workers, about, and in all.
    """

    def __init__(self, job: Job, place: SetFolder, progress: Progress) -> None:
        self._job, self._place = job, place
        self._progress = progress
        self._overwrite = job.config.overwrite
        self._chosen = list(job.config.chosen_shards)
        self._made: dict[int, _Made] = {}
        self._pace = Pace(place, len(job.keys), progress)
        self._compared: set[tuple[Path, int]] = set()

    def run(self, started: float) -> EncodeReport:
        """Do it, and report. `started` is when the run began, by the monotonic clock."""
        self._place.folder.mkdir(exist_ok=True)
        before = self._finished_before()
        if before is not None:
            logger.info("%s: finished before, with the same options", self._place.folder)
            return self._report(before, started, before=True)
        with self._saying_how_far_it_is():
            self._make_shards()
            self._make_index()
        return self._report(self._made, started)

    def _finished_before(self) -> dict[int, _Made] | None:
        """Return what is in a set that is complete and was made with the same options; None if there is no complete set.

        An index that does not belong to what is there is removed, if that is allowed.
        """
        index, found = self._place.index, self._place.contents()
        if index.exists() and found.complete and not found.of_others:
            try:
                return self._check_finished(index)
            except (FileExistsError, SoftLabelError):
                if not self._overwrite:
                    raise
        self._refuse_others(found)
        if index.exists():
            logger.warning("%s: removed, as the set is not complete. It is written again when all shards are finished", index)
            index.unlink(missing_ok=True)
        return None

    def _check_finished(self, index: Path) -> dict[int, _Made]:
        """Return what is in a complete set; an error if its index is not that of its shards, or they were made with other options."""
        there = [(path.name, path.stat().st_size) for path in self._place.shards]
        try:
            listed = [(shard.file, shard.bytes) for shard in SetIndex.unpack(index.read_bytes()).shards]
        except FormatError as error:
            raise type(error)(f"{index}: {error}. Delete it and run the same command again") from None
        if listed != there:
            raise MismatchError(f"{index}: expected the index of the shards beside it. Delete it and run the same command again")
        files = [check_made_alike(path, self._job.description, self._job.config.on_error) for path in self._place.shards]
        return {
            number: _Made(file.num_images, file.num_images, file.skipped, num_bytes)
            for number, (file, (_, num_bytes)) in enumerate(zip(files, there, strict=True))
        }

    def _refuse_others(self, found: Contents) -> None:
        """Raise an error if the folder holds shards of another set, unless they may be replaced."""
        if self._overwrite:
            return
        if found.of_others:
            what = f"is of a label set with another number of shards than {self._place.num_shards}. Pass the number of that set, or"
            raise FileExistsError(errno.EEXIST, f"{what} overwrite=True (--overwrite) to replace it", str(found.of_others[0]))
        first = min((*found.finished, *found.unfinished), default=None)  # the same one for all workers
        if first is not None:
            self._compare(self._place.shard(first) if first in found.finished else min(found.unfinished[first]))

    def _compare(self, path: Path) -> None:
        """Raise MismatchError if a shard, finished or not, does not describe itself as those of this worker."""
        try:
            which = path, path.stat().st_ino
            found = None if which in self._compared else described(path)
        except FileNotFoundError:  # it has just been renamed
            return
        if found is not None:
            check_same_set(path, found, self._job.description)
            self._compared.add(which)

    def _is_made(self, number: int, found: Contents) -> bool:
        """Return whether a shard is finished and need not be replaced."""
        if number not in found.finished or not self._overwrite:
            return number in found.finished
        try:
            self._compare(self._place.shard(number))
        except MismatchError:
            return False
        return True

    def _make_shards(self) -> None:
        """Make shards until none of those that this worker may make is left, or others are making them and live."""
        order, watch = self._order(), Watch()
        while left := self._left(order):
            if self._make_one(left, watch):
                watch = Watch()
            elif all(watch.is_alive(self._place.lock_path(number)) for number in left):
                break
            else:
                time.sleep(LOOK_SECONDS)
        if self._job.config.shard is not None and left == order and len(left) == 1:
            raise StateError(f"{self._place.shard(left[0])}: another worker is making this shard: {self._place.owner(left[0])}")

    def _order(self) -> list[int]:
        """Return the shards that this worker may make, in its own order, so that workers do not all try the same one first."""
        rank, workers = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        start = rank * len(self._chosen) // workers if workers > 1 else secrets.randbelow(len(self._chosen))
        return self._chosen[start:] + self._chosen[:start]

    def _left(self, order: list[int]) -> list[int]:
        """Return the shards that are not finished, those that are locked last."""
        found = self._place.contents()
        self._refuse_others(found)
        return sorted((number for number in order if not self._is_made(number, found)), key=lambda number: number in found.locked)

    def _make_one(self, left: list[int], watch: Watch) -> bool:
        """Make the first of these shards that can be locked; return whether there was one."""
        for number in left:
            lock = watch.take(self._place.lock_path(number))
            if lock is not None:
                with lock:
                    self._make(number, lock)
                return True
        return False

    def _make(self, number: int, lock: Lock) -> None:
        path = self._place.shard(number)
        try:
            try:
                self._label(number, lock)
            except OSError as error:
                lock.check()  # the file may have failed because another worker has removed it
                if not isinstance(error, FileExistsError) or not self._is_made(number, self._place.contents()):
                    raise
                remove_unfinished(self._place.unfinished_file(number, lock))
        except LockLostError as error:
            logger.warning("%s: left to another worker: %s", path, error)

    def _label(self, number: int, lock: Lock) -> None:
        """Label the images of a shard, those that nobody has labelled yet, and finish it."""
        place, began = self._place, time.monotonic()
        images = images_of_shard(len(self._job.keys), number, place.num_shards)
        older = place.inherit(number, lock)
        if self._is_made(number, place.contents()):  # just now, by a worker that has released the lock
            return
        with self._writer(number, lock) as writer:
            for path in older:
                remove_unfinished(path)
            resumed = len(writer)
            earlier = f", {resumed} of them before" if resumed else ""
            logger.info("shard %d of %d: labelling %s%s", number, place.num_shards, counted(len(images), "image"), earlier)
            with saying_what_is_kept(writer):
                told, keys = self._pace.of_shard(number, writer), self._job.keys[images.start : images.stop]
                skipped = label_images(self._job, keys, writer, told, may_write=lock.check)
                lock.check()
                writer.finish(skipped_keys=list(skipped))
        self._made[number] = _Made(len(writer), resumed, skipped, place.shard(number).stat().st_size)
        speed = f"{rate(len(writer) - resumed, time.monotonic() - began)} images/s"
        logger.info("shard %d of %d: finished with %s, %d skipped, %s", number, place.num_shards, len(writer), len(skipped), speed)

    def _writer(self, number: int, lock: Lock) -> SoftLabelWriter:
        own = self._place.unfinished_file(number, lock)
        try:
            return self._job.writer(self._place.shard(number), own)
        except BaseException:
            remove_unfinished(own)  # which is a copy, if it is anything
            raise

    def _make_index(self) -> None:
        """Write the index, if all shards are finished and nobody else is writing it."""
        watch = Watch()
        while self._is_complete() and not self._place.index.exists():
            lock = watch.take(self._place.lock_path(None))
            if lock is not None:
                with lock:
                    self._write_index(lock)
            elif watch.is_alive(self._place.lock_path(None)):
                break
            else:
                time.sleep(LOOK_SECONDS)

    def _is_complete(self) -> bool:
        found = self._place.contents()
        return found.complete and all(self._is_made(number, found) for number in range(self._place.num_shards))

    def _write_index(self, lock: Lock) -> None:
        place = self._place
        if place.index.exists():
            return
        logger.info("%s: checking %s", place.index, counted(place.num_shards, "shard"))
        try:
            index = read_shards(place.shards)
        except FormatError as error:
            raise type(error)(f"{error}. Delete this shard and run the same command again, which makes it anew") from None
        if not index.num_images:
            raise none_readable(self._job, {})
        try:
            place.write_index(index, lock)
        except LockLostError as error:
            logger.warning("%s: left to another worker: %s", place.index, error)
            return
        place.remove_left_over(others=self._overwrite)
        logger.info("%s: finished with %s in %s", place.index, counted(index.num_images, "image"), counted(place.num_shards, "shard"))

    @contextmanager
    def _saying_how_far_it_is(self) -> Iterator[None]:
        """Let an interruption say how many shards are finished, beside what is kept of the one that was begun."""
        try:
            yield
        except KeyboardInterrupt as error:
            finished = f"{len(self._place.contents().finished)} of {counted(self._place.num_shards, 'shard')} are finished"
            raise Interrupted(f"{finished}. {error or 'Run the same command again to continue'}") from error

    def _report(self, made: dict[int, _Made], started: float, before: bool = False) -> EncodeReport:
        place, found = self._place, self._place.contents()
        finished = found.complete and place.index.exists()
        open_shards = [number for number in range(place.num_shards) if number not in found.finished]
        owners = {number: owner for number in open_shards if number in found.locked and (owner := place.owner(number))}
        return EncodeReport(
            path=str(place.index if finished else place.folder),
            num_images=sum(one.images for one in made.values()),
            resumed_images=sum(one.resumed for one in made.values()),
            crops_per_image=self._job.crops_per_image,
            skipped={key: reason for one in made.values() for key, reason in one.skipped.items()},
            other_files=self._job.other_files(),
            file_bytes=sum(one.file_bytes for one in made.values()),
            seconds=time.monotonic() - started,
            finished_before=before,
            label_set=SetReport(
                finished=finished,
                num_shards=place.num_shards,
                made=sorted(self._made),
                being_made=owners,
                missing=[number for number in open_shards if number not in owners],
            ),
        )
