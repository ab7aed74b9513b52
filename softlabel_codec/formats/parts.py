"""Converts the images of a source part by part: in this process, or in several at once. The blocks that come out are the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.pending import PendingImage
from softlabel_codec.container.preparing import GivenImage, Preparer
from softlabel_codec.errors import ArgumentError, LimitError, MismatchError, SoftLabelError, StateError
from softlabel_codec.formats.fractions import exact_crops
from softlabel_codec.formats.importing import PIXELS, Entry, SourceImage
from softlabel_codec.formats.labels import Kind, Notes
from softlabel_codec.writer import PackedBlock, pack_blocks

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)
Size = tuple[int, int]
_MOST_NUMBERS = 2**22
"""Of labels that are in memory before they are quantised, but for those of the last image."""


class Item(NamedTuple):
    """An image to convert: what the source says of it, how to find its size if that is needed, and whether it is in the file already."""

    entry: Entry
    size: Callable[[], Size] | None
    stored: bool


@dataclass
class Converted:
    """What became of a part of a source.

    Attributes
    ----------
    blocks : list of PackedBlock
        Its images, but those that are in the file already; up to the last full block if there is an error.
    num_entries, num_crops, uncertain_crops : int
        Images that were looked at, crops of those that could be read, and crops that fractions do not determine.
    skipped : dict
        Keys of images that could not be read, and why.
    notes : Notes
        What had to be repaired.
    error : SoftLabelError or None
        Why the import ends here.
    """

    blocks: list[PackedBlock] = field(default_factory=list)
    num_entries: int = 0
    num_crops: int = 0
    uncertain_crops: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    error: SoftLabelError | None = None

    def add(self, other: Converted) -> None:
        """Add another part, but for its blocks."""
        self.num_entries += other.num_entries
        self.num_crops += other.num_crops
        self.uncertain_crops += other.uncertain_crops
        self.skipped |= other.skipped
        self.notes.add(other.notes)


@dataclass(frozen=True)
class Conversion:
    """How images of a source become blocks of a file. It can be pickled.

    Attributes
    ----------
    kind : Kind
        What labels the source has.
    codec : Codec
        In which they are stored.
    crops : str
        How crops are stored.
    description : Description
        The file.
    fails : bool
        Whether an image that cannot be read ends the import.
    """

    kind: Kind
    codec: Codec
    crops: str
    description: Description
    fails: bool

    def convert(self, items: Sequence[Item]) -> Converted:
        """Convert a part of a source."""
        result = Converted()
        blocks = list(pack_blocks(self._images(items, result), self.description.layout))
        result.blocks = blocks if result.error is None else blocks[:-1]  # the last may not be full
        return result

    def _images(self, items: Sequence[Item], result: Converted) -> Iterator[PendingImage]:
        """Yield images as blocks take them, and note in the result what there is to say of them."""
        preparer = Preparer(self.description)
        given: list[GivenImage] = []
        places: list[Entry] = []
        numbers = 0
        for entry, size, stored in items:
            try:
                image = entry.load()
                found, unsure = self._given(entry.key, image, size() if size else image.image_size, None if stored else result.notes)
            except SoftLabelError as error:
                if self._fails(result, entry, error):
                    break
                continue
            result.num_entries += 1
            result.notes.count({} if stored else image.repaired)
            result.uncertain_crops += unsure
            result.num_crops += len(found.crops)  # type: ignore[arg-type]
            if not stored:
                given.append(found)
                places.append(entry)
                numbers += sum(array.size for array in image.labels.values())
            if numbers > _MOST_NUMBERS:  # there are more crops than the first image has
                yield from self._prepared(preparer, given, places, result)
                if result.error is not None:
                    return
                given, places, numbers = [], [], 0
        yield from self._prepared(preparer, given, places, result)

    def _fails(self, result: Converted, entry: Entry, error: SoftLabelError) -> bool:
        """Note what is wrong with an image, and return whether this ends the import."""
        result.num_entries += 1
        if self.fails:
            result.error = type(error)(_located(entry.where, error))
        else:
            result.skipped[entry.key] = str(error)
        return self.fails

    def _prepared(self, preparer: Preparer, given: list[GivenImage], places: list[Entry], result: Converted) -> list[PendingImage]:
        """Return images as blocks take them: all at once, or one by one if anything is wrong with one of them."""
        try:
            return preparer.images(given)
        except SoftLabelError:
            found = []
            for one, entry in zip(given, places, strict=True):
                try:
                    found.append(preparer.image(one))
                except SoftLabelError as error:
                    result.num_crops -= len(one.crops)  # type: ignore[arg-type]
                    result.num_entries -= 1
                    stated = MismatchError(f"its labels cannot be stored: image {one.key!r}: {error}")
                    if self._fails(result, entry, stated):
                        break
            return found

    def _given(self, key: str, image: SourceImage, size: Size | None, notes: Notes | None) -> tuple[GivenImage, int]:
        """Return what a writer is given of an image, and how many of its crops are not certain."""
        crops, flips, unsure = self._geometry(image, size)
        try:
            labels = self.kind.for_writer(image.labels, self.codec, notes or Notes())
        except (ArgumentError, LimitError, MismatchError) as error:
            raise MismatchError(f"its labels cannot be stored: {error}") from None
        return GivenImage(key, size, crops, flips, labels, image.image_crc32), unsure

    def _geometry(self, image: SourceImage, size: Size | None) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
        """Return the crops of an image as they are stored, its flips, and how many crops are not certain."""
        num_crops = len(next(iter(image.labels.values())))
        if image.crops is None:
            return np.tile(np.array(WHOLE_IMAGE, np.float32), (num_crops, 1)), np.zeros(num_crops, np.bool_), 0
        if len(image.crops) != num_crops:
            raise MismatchError(f"expected as many crops as labels, {num_crops}, got {len(image.crops)}")
        flips = np.zeros(num_crops, np.bool_) if image.flips is None else image.flips
        if self.crops == PIXELS and image.crops.dtype.kind == "f":
            if size is None:
                raise MismatchError("the size of the image is not known, so that fractions cannot be converted to pixels")
            crops, unsure = exact_crops(image.crops, size)
            return crops, flips, unsure
        return image.crops, flips, 0


def _located(where: str, error: SoftLabelError) -> str:
    return str(error) if where in str(error) else f"{where}: {error}"


def converted(parts: Iterable[list[Item]], conversion: Conversion, workers: int) -> Generator[Converted, None, None]:
    """Yield what becomes of parts of a source, in their order.

    Parameters
    ----------
    parts : iterable of list of Item
        The parts. With workers, their entries must be such as can be pickled.
    conversion : Conversion
        What to do with them.
    workers : int
        Number of processes that do it; 0: this one does.

    Raises
    ------
    StateError
        If one of the processes ends unexpectedly.
    """
    if not workers:
        yield from map(conversion.convert, parts)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (conversion,)) as pool:
        waiting: deque[Future[Converted]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(_convert, part))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise StateError("a process of the import ended unexpectedly, perhaps for want of memory. The same call continues") from None
        finally:
            pool.shutdown(cancel_futures=True)


_conversion: Conversion | None = None


def _begin(conversion: Conversion) -> None:
    """Prepare a process of the pool: it ends at once with Ctrl-C, and when the main process is killed."""
    global _conversion  # noqa: PLW0603  what a process of the pool is told once
    _conversion = conversion
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as where a script started the import in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = multiprocessing.parent_process()
    assert main is not None

    def end_with_main() -> None:
        main.join()
        os._exit(1)

    threading.Thread(target=end_with_main, daemon=True).start()


def _convert(part: list[Item]) -> Converted:
    assert _conversion is not None
    return _conversion.convert(part)
