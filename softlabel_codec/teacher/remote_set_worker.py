"""A worker that makes shards of a label set in object storage, beside any number of others on any machines."""

from __future__ import annotations

import logging
import os
import secrets
import time

from softlabel_codec.label_set.folder import Contents
from softlabel_codec.label_set.locks import LOOK_SECONDS, Lock, LockLostError
from softlabel_codec.label_set.remote_folder import RemoteSetFolder
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.labelling import Progress
from softlabel_codec.teacher.same_remote_set import SameRemoteSet
from softlabel_codec.teacher.set_worker import SetWorker

logger = logging.getLogger(__name__)


class RemoteSetWorker(SetWorker):
    """Makes shards in a folder of this machine and uploads them. The first upload of a shard decides: others do not replace it.

    Workers that share the folder divide the shards by locks. Others know of each other only what is uploaded. So each takes shards in
    an order of its own, and leaves one that another has uploaded meanwhile.

    Parameters
    ----------
    job : Job
        What is labelled, and how.
    place : RemoteSetFolder
        Where.
    progress : callable
        Called with the number of images done so far by all workers, about, and in all.
    """

    def __init__(self, job: Job, place: RemoteSetFolder, progress: Progress) -> None:
        self._remote, self._remote_set = place, SameRemoteSet(job, place)
        self._seen: Contents | None = None
        super().__init__(job, place, self._remote_set, progress)

    def _order(self) -> list[int]:
        """Return the shards that this worker may make: under torchrun first its share of them, then the others by chance."""
        order = super()._order()
        workers = int(os.environ.get("WORLD_SIZE", "1"))
        own = len(order) // workers if workers > 1 else 0
        others = order[own:]
        secrets.SystemRandom().shuffle(others)
        return order[:own] + others

    def _look(self) -> Contents:
        """Look how far the set is; what was seen before counts as long as the service does not answer."""
        try:
            self._seen = super()._look()
        except OSError as error:
            logger.warning("%s: how far the set is cannot be told: %s", self._remote.where, error)
        return self._seen or Contents(self._remote.num_shards, frozenset(), {}, {}, frozenset(), [], [])

    def _check_own(self, number: int, lock: Lock) -> None:
        super()._check_own(number, lock)
        if self._seen is not None and number in self._seen.finished:
            raise LockLostError(f"{self._remote.finished_shard(number)}: another worker has uploaded it")

    def _label(self, number: int, lock: Lock) -> None:
        """Label the images of a shard, unless it is finished, and upload it."""
        self._seen = None
        if self._set.is_made(number):  # just now, or the service does not list it yet
            time.sleep(LOOK_SECONDS)
            return
        made = self._remote_set.waiting(number)
        if made is not None:
            logger.info("shard %d of %d: was finished before, and is uploaded now", number, self._remote.num_shards)
            self._made[number] = made
        else:
            super()._label(number, lock)
        if self._remote.shard(number).exists():
            self._upload(number)

    def _upload(self, number: int) -> None:
        here, there = self._remote.shard(number), self._remote.finished_shard(number)
        replace = self._job.config.overwrite and not self._set.is_made(number)
        try:
            self._remote.upload_shard(number, replace)
        except FileExistsError:
            self._remote_set.check(number)
            logger.warning("%s: another worker was faster. Its shard stays, and that of this worker is removed", there)
            here.unlink(missing_ok=True)
            self._made.pop(number, None)
        except OSError as error:
            what = f"{error.strerror or error}. The shard is kept in {here}: run the same command again to upload it"
            raise OSError(error.errno, what, str(there)) from error
        else:
            logger.info("shard %d of %d: uploaded", number, self._remote.num_shards)
