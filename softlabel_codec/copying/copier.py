"""Carries images from the sources of a copy to its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.files import PartialFile
from softlabel_codec.container.joined import JoinedFile
from softlabel_codec.container.pending import PendingBlock, PendingImage
from softlabel_codec.copying.dividing import Division, Progressed
from softlabel_codec.copying.output import Destination
from softlabel_codec.copying.recoding import Recoder
from softlabel_codec.copying.survey import Survey, SurveyedFile
from softlabel_codec.writer import is_full

_FAST_KEYS_BYTES = 512
"""Where images have at least so many bytes, pages of keys that are made anew are compressed fast: that costs less than 0.2 %."""


class Copier:
    """A copy that is being made, in a `with` block.

    Parameters
    ----------
    plan : Survey
        What is copied.
    crops : int or None
        How many crops are kept of each image at most.
    division : Division
        Which of it goes into which file.
    out : Destination
        Makes the files.
    progress : callable
        Called with the number of images so far and in all.
    """

    def __init__(self, plan: Survey, crops: int | None, division: Division, out: Destination, progress: Callable[[int, int], None]) -> None:
        self._plan, self._crops, self._division, self._out, self._progress = plan, crops, division, out, progress
        self._layout = plan.beginning.description.layout
        self._pending = PendingBlock()
        self._copied_images = self._num_crops = self._num_files = self._copied_blocks = self._decoded_blocks = 0
        self._open = ExitStack()
        self._file, self._partial = self._begin_file()

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def done(self) -> tuple[int, int, int, int, int]:
        """Return numbers of images, crops and files so far, and of blocks that were copied as they are, and decoded."""
        return self._copied_images, self._num_crops, self._num_files, self._copied_blocks, self._decoded_blocks

    def run(self) -> None:
        """Copy all images, and write all files to their end."""
        self._progress(0, self._plan.num_images)
        for file in self._plan.files:
            if file.num_wanted:
                self._copy_file(file)
        self._write_pending()
        while self._num_files + 1 < (self._division.num_files or 0):
            self._next_file()  # it has no images
        self._end_file(self._plan.skipped_keys)

    def _copy_file(self, file: SurveyedFile) -> None:
        with file.open() as source:
            first_images = source.index.first_images
            wanted = np.ones(source.trailer.num_images, np.bool_) if file.wanted is None else file.wanted
            recoder = Recoder(source, self._layout, self._crops)
            unchanged = recoder.unchanged(wanted)
            for first, end in _runs(unchanged, np.logical_or.reduceat(wanted, first_images[:-1])):
                if unchanged[first]:
                    self._copy_blocks(recoder, first, end)
                    continue
                slots = np.flatnonzero(wanted[first_images[first] : first_images[end]])
                self._recode(recoder, first, slots)

    def _copy_blocks(self, recoder: Recoder, first: int, end: int) -> None:
        """Copy adjacent blocks as they are, except where a file ends within one."""
        self._write_pending()
        while first < end:
            self._go_on_if_full()
            room = self._division.room(self._so_far, recoder.source, first, end)
            if room.end > first:
                self._file.add_blocks(recoder.source, first, room.end, self._count)
                self._copied_blocks += room.end - first
            first = room.end
            if room.images:
                counts = recoder.source.index.first_images[first : first + 2]
                self._recode(recoder, first, np.arange(counts[1] - counts[0]))
                self._write_pending()
                first += 1
            elif first < end:
                self._next_file()

    def _recode(self, recoder: Recoder, block: int, slots: NDArray[np.int64]) -> None:
        """Decode images of a block, by their places there, and put them into new blocks."""
        self._decoded_blocks += 1
        for image in recoder.images(block, slots):
            self._go_on_if_full()
            self._add_image(image)
            self._count(1)

    def _add_image(self, image: PendingImage) -> None:
        if not self._pending.has_room(image):
            self._write_pending()
        self._pending.add(image, self._layout.quantiser.expected_bytes(image.codes))
        if is_full(self._pending):
            self._write_pending()

    def _write_pending(self) -> None:
        if self._pending.images:
            self._file.add_images(self._pending.gather(self._layout))
            self._pending = PendingBlock()

    def _count(self, num_images: int) -> None:
        self._copied_images += num_images
        self._progress(self._copied_images, self._plan.num_images)

    @property
    def _so_far(self) -> Progressed:
        return Progressed(self._file, self._num_files, self._copied_images)

    def _go_on_if_full(self) -> None:
        while self._division.is_full(self._so_far):
            self._write_pending()
            self._next_file()

    def _next_file(self) -> None:
        self._end_file([])
        self._file, self._partial = self._begin_file()

    def _begin_file(self) -> tuple[JoinedFile, PartialFile]:
        partial = self._out.new_file()
        file = JoinedFile(partial, self._plan.beginning, fast_keys=self._plan.bytes_per_image >= _FAST_KEYS_BYTES)
        return self._open.enter_context(file), partial

    def _end_file(self, skipped_keys: list[str]) -> None:
        joined = self._file.finish(skipped_keys)
        self._open.close()
        self._out.add(self._partial, joined)
        self._num_files += 1
        self._num_crops += joined.trailer.num_crops


def _runs(unchanged: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield ranges of adjacent blocks that are copied as they are, and each other block of which an image is wanted."""
    changes = np.flatnonzero(np.diff(unchanged)) + 1
    for first, end in pairwise([0, *changes.tolist(), len(unchanged)]):
        if unchanged[first]:
            yield first, end
        else:
            yield from ((block, block + 1) for block in (first + np.flatnonzero(wanted[first:end])).tolist())
