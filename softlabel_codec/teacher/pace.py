"""How fast a worker of a label set labels, and how far the set is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from softlabel_codec.checks.wording import counted, duration, rate
from softlabel_codec.label_set.folder import Contents
from softlabel_codec.writer import SoftLabelWriter

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 10.0
"""Time between two looks at what other workers have done."""
logger = logging.getLogger(__name__)


class Pace:
    """Counts what a worker does, and tells about every half minute, through the logger, how it and the set get on.

    Parameters
    ----------
    contents : callable
        Returns what is in the folder of the set. What others have done follows from it, so it is not exact.
    num_images : int
        Images of the whole set.
    progress : callable
        Called with the number of images done so far by all workers, and in all.
    """

    def __init__(self, contents: Callable[[], Contents], num_images: int, progress: Callable[[int, int], None]) -> None:
        self._contents, self._num_images, self._progress = contents, num_images, progress
        self._started = self._told = time.monotonic()
        self._looked = -SECONDS_BETWEEN_LOOKS
        self._own = self._of_others = self._of_set = 0
        self._bytes_per_image, self._lengths_tell = 0.0, False
        self._first: tuple[float, int] | None = None

    def of_shard(self, number: int, writer: SoftLabelWriter) -> Callable[[int, int], None]:
        """Return a function that is called with the number of images of a shard that are done, and of all."""
        before = len(writer)  # by an earlier run, which does not count for the rate
        self._looked = -SECONDS_BETWEEN_LOOKS

        def show(done: int, total: int) -> None:
            nonlocal before
            self._own += done - before
            before = done
            if writer.num_stored and writer.partial.exists():
                self._bytes_per_image = writer.partial.stat().st_size / writer.num_stored
            self._show(number, done, total)

        return show

    def _show(self, number: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            found = self._contents()
            images = found.images_done(self._num_images, self._bytes_per_image)
            self._of_others = sum(count for shard, count in images.items() if shard != number)
            self._lengths_tell = bool(self._bytes_per_image or found.bytes_of_some)
        self._of_set = of_set = max(self._of_set, min(self._of_others + done, self._num_images))
        self._progress(of_set, self._num_images)
        if self._first is None and self._lengths_tell:  # before that, the files of others say nothing
            self._first = now, of_set
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            own = f"{rate(self._own, now - self._started)} images/s by this worker"
            where = f"shard {number}: {done} of {counted(total, 'image')}, {own}"
            logger.info("%s; of the set %.0f%%%s", where, 100 * of_set / self._num_images, self._left(now, of_set))

    def _left(self, now: float, of_set: int) -> str:
        """Return how long the set will take, at the pace of all workers since this one began."""
        when, before = self._first or (now, of_set)
        if of_set <= before:
            return ""
        return f", {duration((self._num_images - of_set) * (now - when) / (of_set - before))} left"
