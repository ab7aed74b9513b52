"""A worker that makes shards of a label set, beside any number of others on any machines that share its folder."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from softlabel_codec.checks.interrupted import Interrupted, saying_what_is_kept
from softlabel_codec.checks.wording import counted, rate
from softlabel_codec.errors import FormatError, SoftLabelError, StateError
from softlabel_codec.label_set.folder import Contents, SetFolder, remove_unfinished
from softlabel_codec.label_set.locks import LOOK_SECONDS, Lock, LockLostError, Watch
from softlabel_codec.label_set.making import images_of_shard, read_shards
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.labelling import Progress, label_images, none_readable
from softlabel_codec.teacher.pace import Pace
from softlabel_codec.teacher.reports import EncodeReport, MadeShard, SetProgress
from softlabel_codec.teacher.same_set import SameSet
from softlabel_codec.writer import SoftLabelWriter

logger = logging.getLogger(__name__)


class SetWorker:
    """Makes shards that nobody else is making until none is left, and the index if all are finished.

    Parameters
    ----------
    job : Job
        What is labelled, and how.
    place : SetFolder
        Where.
    same_set : SameSet
        Compares what is there with what this worker makes.
    progress : callable
        Called with the number of images done so far by all workers, about, and in all.
    """

    def __init__(self, job: Job, place: SetFolder, same_set: SameSet, progress: Progress) -> None:
        self._job, self._place, self._set = job, place, same_set
        self._chosen = list(job.config.chosen_shards)
        self._made: dict[int, MadeShard] = {}
        self._pace = Pace(self._look, len(job.keys), progress)

    def run(self, started: float) -> EncodeReport:
        """Do it, and report. `started` is when the run began, by the monotonic clock."""
        self._place.make()
        before = self._set.finished_before()
        if before is not None:
            logger.info("%s: finished before, with the same options", self._place.where)
            self._place.remove_left_over()
            return self._report(before, started, before=True)
        with self._saying_how_far_it_is():
            self._make_shards()
            self._make_index()
        return self._report(self._made, started)

    def _look(self) -> Contents:
        """Look how far the set is while a shard is being labelled."""
        return self._set.contents()

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
            raise StateError(f"{self._place.finished_shard(left[0])}: another worker is making this shard: {self._place.owner(left[0])}")

    def _order(self) -> list[int]:
        """Return the shards that this worker may make, in its own order, so that workers do not all try the same one first."""
        rank, workers = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
        start = rank * len(self._chosen) // workers if workers > 1 else secrets.randbelow(len(self._chosen))
        return self._chosen[start:] + self._chosen[:start]

    def _left(self, order: list[int]) -> list[int]:
        """Return the shards that are not finished, those that are locked last."""
        found = self._set.contents()
        return sorted((number for number in order if number not in found.finished), key=lambda number: number in found.locked)

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
        """Make a shard, unless others do so while this process is stopped."""
        path, own = self._place.shard(number), self._place.unfinished_file(number, lock)
        try:
            try:
                self._label(number, lock)
            except (OSError, SoftLabelError) as error:
                lock.check()  # perhaps another worker has taken the file away
                if not isinstance(error, FileExistsError) or not self._set.is_made(number):
                    raise
                remove_unfinished(own)
        except LockLostError as error:
            logger.warning("%s: left to another worker: %s", path, error)
            if path.exists():
                remove_unfinished(own)

    def _label(self, number: int, lock: Lock) -> None:
        """Label the images of a shard, those that nobody has labelled yet, and finish it."""
        place, began = self._place, time.monotonic()
        images = images_of_shard(len(self._job.keys), number, place.num_shards)
        older = self._set.inherit(number, lock)
        if self._set.is_made(number):  # just now, by a worker that has released the lock
            remove_unfinished(place.unfinished_file(number, lock))
            return
        with self._writer(number, lock) as writer:
            lock.check()  # else some may be those of the worker that has taken over
            for path in older:
                remove_unfinished(path)
            resumed = len(writer)
            earlier = f", {resumed} of them before" if resumed else ""
            logger.info("shard %d of %d: labelling %s%s", number, place.num_shards, counted(len(images), "image"), earlier)
            with saying_what_is_kept(writer):
                told, keys = self._pace.of_shard(number, writer), self._job.keys[images.start : images.stop]
                skipped = label_images(self._job, keys, writer, told, may_write=partial(self._check_own, number, lock))
                self._check_own(number, lock)
                writer.finish(skipped_keys=list(skipped))
        self._made[number] = MadeShard(len(writer), resumed, skipped, place.shard(number).stat().st_size)
        labelled, speed = counted(len(writer), "image"), rate(len(writer) - resumed, time.monotonic() - began)
        logger.info("shard %d of %d: finished with %s, %d skipped, %s images/s", number, place.num_shards, labelled, len(skipped), speed)

    def _check_own(self, number: int, lock: Lock) -> None:
        """Raise LockLostError if a shard is not to be made by this worker any more."""
        lock.check()

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
        while self._set.contents().complete and not self._set.has_index():
            lock = watch.take(self._place.lock_path(None))
            if lock is not None:
                with lock:
                    self._write_index(lock)
            elif watch.is_alive(self._place.lock_path(None)):
                break
            else:
                time.sleep(LOOK_SECONDS)

    def _write_index(self, lock: Lock) -> None:
        place = self._place
        if self._set.has_index():
            return
        logger.info("%s: checking %s", place.finished_index, counted(place.num_shards, "shard"))
        try:
            index = read_shards(place.finished_shards)
        except FormatError as error:
            raise type(error)(f"{error}. Delete this shard and run the same command again, which makes it anew") from None
        if not index.num_images:
            raise none_readable(self._job, {})
        try:
            place.write_index(index, lock)
        except LockLostError as error:
            logger.warning("%s: left to another worker: %s", place.finished_index, error)
            return
        place.remove_left_over(others=self._job.config.overwrite)
        images, shards = counted(index.num_images, "image"), counted(place.num_shards, "shard")
        logger.info("%s: finished with %s in %s", place.finished_index, images, shards)

    @contextmanager
    def _saying_how_far_it_is(self) -> Iterator[None]:
        """Let an interruption say what this worker has finished, beside what is kept of the shard that it had begun."""
        try:
            yield
        except KeyboardInterrupt as error:
            finished = f"{counted(len(self._made), 'shard')} of {self._place.num_shards} finished by this worker"
            raise Interrupted(f"{finished}. {error if str(error) else 'Run the same command again to continue'}") from error

    def _report(self, made: dict[int, MadeShard], started: float, before: bool = False) -> EncodeReport:
        place = self._place
        found = place.contents() if before else self._set.contents()
        finished = before or (found.complete and place.has_index())
        left = [number for number in range(place.num_shards) if number not in found.finished]
        owners = {number: owner for number in left if number in found.locked and (owner := place.owner(number))}
        missing = [number for number in left if number not in owners]
        return EncodeReport(
            path=str(place.finished_index if finished else place.where),
            num_images=sum(one.images for one in made.values()),
            resumed_images=sum(one.resumed for one in made.values()),
            crops_per_image=self._job.mean_crops,
            skipped={key: reason for one in made.values() for key, reason in one.skipped.items()},
            other_files=self._job.other_files(),
            file_bytes=sum(one.file_bytes for one in made.values()),
            seconds=time.monotonic() - started,
            finished_before=before,
            codec_choice=self._job.choice,
            label_set=SetProgress(finished, place.num_shards, sorted(self._made), owners, missing),
        )
