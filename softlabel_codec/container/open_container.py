"""`OpenContainer`: a finished file, opened, and all its parts. Readers, reports and `recover` use it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column
from softlabel_codec.block.layout import BlockImages
from softlabel_codec.checks.limits import MAX_SUMMARY_BYTES
from softlabel_codec.container.files import PARTIAL_SUFFIX, Source, located
from softlabel_codec.container.framing import TRAILER, Index, Trailer, unpack_copy
from softlabel_codec.container.index import BlockIndex, Blocks
from softlabel_codec.container.keys import Keys
from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.container.scan import Beginning, read_beginning
from softlabel_codec.container.sources import open_source
from softlabel_codec.container.stored_labels import ImagesOfFile
from softlabel_codec.container.summary import keys_sha256, unpack_summary
from softlabel_codec.errors import CorruptError, FormatError, TruncatedError
from softlabel_codec.storage.cache import Cache
from softlabel_codec.storage.location import Location

CHUNK_BYTES = 2**24


class OpenContainer:
    """A finished file, open for reading. Threads and forked processes may share it.

    Parameters
    ----------
    path : path or URL
        The file.
    cache : Cache, optional
        Fetches and keeps the file if it is behind a URL.
    fingerprint : str, optional
        What its fingerprint is to be, if that is known: it is not asked for if the cache keeps it. (It is not checked here.)

    Attributes
    ----------
    source : Source
        The open file.
    beginning : Beginning
        Its header and metadata.
    description : Description
        The parsed metadata.
    layout : Layout
        How its blocks are laid out.
    trailer : Trailer
        Numbers of images, blocks and crops, and where its parts are.
    index : BlockIndex
        Where its blocks are, and how many crops each image has.
    blocks : Blocks
        Contents of its blocks.
    keys : Keys
        Keys of its images.
    num_crops : int64 (num_images,)
        Number of crops of each image.
    summary : dict
        The parsed summary section.
    crops_checked : bool
        Whether it is known that our sampler gives the crops that were labelled; true if crops are stored.

    Raises
    ------
    FormatError
        One of its subclasses, if the file is not a valid, finished container.
    OSError
        If the file cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str], cache: Cache | None = None, fingerprint: str = "") -> None:
        self.source = open_source(path, cache, fingerprint)
        try:
            self.beginning = read_beginning(self.source)
            self.description = self.beginning.description
            self.layout = self.description.layout
            self.trailer = read_trailer(self.source, self.beginning)
            self.source.read_together(self.trailer.summary_offset, self.trailer.trailer_offset)
            self.index = _read_index(self.source, self.beginning, self.trailer)
            self.blocks = Blocks(self.source, self.index, self.beginning.metadata_crc32)
            self.summary = read_summary(self.source, self.trailer)
            self.keys = Keys(self.source, self.trailer)
            self.num_crops = self.index.num_crops
            self.crops_checked = not self.layout.derived
        except BaseException:
            self.source.close()
            raise

    @property
    def path(self) -> Location:
        """The file."""
        return self.source.path

    @property
    def num_images(self) -> int:
        """Number of images."""
        return self.trailer.num_images

    @property
    def total_crops(self) -> int:
        """Number of crops of all images."""
        return self.trailer.num_crops

    @property
    def num_bytes(self) -> int:
        """Length of the file."""
        return self.source.length

    @property
    def fingerprint(self) -> str:
        """64 hex digits that differ if anything in the file differs: the SHA-256 of its trailer, which holds that of the rest."""
        return hashlib.sha256(self.trailer.pack()).hexdigest()

    def file_of(self, number: int) -> tuple[OpenContainer, int]:
        """Return this file, and the number of an image in it: what differs for the files of a set."""
        return self, number

    def files_of(self, numbers: NDArray[np.int64]) -> Iterator[Sequence[ImagesOfFile]]:
        """Yield this file as the only one that holds some images (B,)."""
        yield (ImagesOfFile(self, slice(None), numbers),)

    def columns(self, block: int) -> list[Column]:
        """Return the content of a block as the named columns that this package's writer makes."""
        return self.layout.pack(self.layout.unpack_all(self.blocks.content(block)))

    def check_block(self, block: int) -> BlockImages:
        """Decode everything in a block, compare it with index and keys, and return it; CorruptError if anything is wrong."""
        content = self.blocks.content(block)
        first, last = int(self.index.first_images[block]), int(self.index.first_images[block + 1])
        try:
            images = self.layout.unpack_all(content)
            self.layout.quantiser.dequantise(images.codes, self.layout.codec.policy)
            if images.keys != self.keys[first:last] or images.num_crops.tolist() != self.index.num_crops[first:last].tolist():
                raise CorruptError("its keys or numbers of crops are not those of the index")
        except FormatError as error:
            raise self.blocks.located(error, block) from None
        return images

    def check_crops(self, block: int) -> None:
        """Check that our sampler gives the crops of a block that were labelled; CorruptError if not."""
        self.check_block(block)
        self.crops_checked = True

    def find_corrupt(self, numbers: NDArray[np.int64]) -> FormatError | None:
        """Return the error of the first block with one of these images that fails a full check; None if all are sound."""
        for block in np.unique(self.index.first_images.searchsorted(numbers, side="right") - 1).tolist():
            try:
                self.check_block(block)
            except FormatError as found:
                return found
        return None

    def check_keys(self) -> None:
        """Raise a FormatError unless the keys match the fingerprint in the summary and have the order that binary search needs."""
        if keys_sha256(self.keys.raw()) != self.summary["keys_sha256"]:
            raise CorruptError(f"{self.source.path}: the keys do not match the fingerprint in the summary")
        if any(before >= after for before, after in pairwise(self.keys.raw_in_order())):
            raise CorruptError(f"{self.source.path}: the order of keys is wrong, or a key appears twice")

    def check_copy(self) -> None:
        """Raise a FormatError unless the copy at the end of the file equals header and metadata."""
        start, end = self.trailer.copy_offset, self.trailer.trailer_offset
        try:
            same = unpack_copy(self.source.read_at(start, end - start)) == self.beginning.data
        except FormatError as error:
            raise located(error, self.source, f"copy at byte {start}") from None
        if not same:
            what = "expected the same header and metadata as at the beginning"
            raise located(CorruptError(what), self.source, f"copy at byte {start}")

    def check_sha256(self) -> str:
        """Return the SHA-256 of the whole file, 64 hex digits; CorruptError unless what is before the trailer has that which it says."""
        digest = hashlib.sha256()
        end = self.trailer.trailer_offset
        for start in range(0, end, CHUNK_BYTES):
            digest.update(self.source.read_at(start, min(CHUNK_BYTES, end - start)))
        if digest.digest() != self.trailer.sha256:
            raise CorruptError(f"{self.source.path}: the SHA-256 of the file differs from that in its trailer")
        digest.update(self.source.read_at(end, self.source.length - end))
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        self.blocks.forget()
        self.source.close()

    def __enter__(self) -> OpenContainer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_trailer(source: Source, beginning: Beginning) -> Trailer:
    """Return the trailer of a file, or raise a FormatError that names the file."""
    length = source.length
    try:
        if length < beginning.blocks_offset + TRAILER.size:
            raise TruncatedError("the file ends before its trailer")
        return Trailer.unpack(source.read_at(length - TRAILER.size, TRAILER.size), length, beginning.blocks_offset)
    except TruncatedError as error:
        unfinished = "an unfinished file. " if source.path.name.endswith(PARTIAL_SUFFIX) else ""
        advice = "Continue it with the program that started it, or save its complete blocks with 'slcodec recover'"
        raise located(TruncatedError(f"{unfinished}{error}. {advice}"), source) from None
    except FormatError as error:
        raise located(error, source, "trailer") from None


def read_summary(source: Source, trailer: Trailer) -> Plain:
    """Return the summary of a file, or raise a FormatError that names the file."""
    start, end = trailer.summary_offset, trailer.index_offset
    try:
        return unpack_summary(source.read_at(start, min(end - start, MAX_SUMMARY_BYTES + 5)))
    except FormatError as error:
        raise located(error, source, f"summary at byte {start}") from None


def _read_index(source: Source, beginning: Beginning, trailer: Trailer) -> BlockIndex:
    try:
        data = source.read_at(trailer.index_offset, trailer.copy_offset - trailer.index_offset)
        return BlockIndex(Index.unpack(data, trailer.num_blocks, trailer.num_images), beginning.blocks_offset, trailer)
    except FormatError as error:
        raise located(error, source, f"index at byte {trailer.index_offset}") from None
