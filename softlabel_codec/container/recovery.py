"""Recovers the complete blocks of an unfinished or damaged file (spec/container-v1.md, section 10.1)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.builder import Assembly
from softlabel_codec.container.files import PARTIAL_SUFFIX, PartialFile, Source
from softlabel_codec.container.keys import Keys
from softlabel_codec.container.open_container import read_summary, read_trailer
from softlabel_codec.container.scan import Beginning, BlockScan, read_beginning, read_copy
from softlabel_codec.container.sources import open_source
from softlabel_codec.errors import CorruptError, FormatError
from softlabel_codec.storage.location import path_to_write

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """The result of `recover`.

    Attributes
    ----------
    num_images, num_blocks : int
        Images and blocks that were recovered.
    lost_keys : list of str or None
        Keys of the images in damaged blocks; a finished new file lists them among its skipped keys. None if the file has no
        valid list of keys.
    unused_bytes : int
        Bytes between the metadata and the end of the last block that belong to no whole block; for a file without a valid trailer,
        up to its end.
    """

    num_images: int
    num_blocks: int
    lost_keys: list[str] | None
    unused_bytes: int


def recover(source: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False, empty: bool = True) -> Recovery:
    """Write a file with all complete blocks of a damaged or unfinished file, wherever they are.

    Header and metadata are taken from the copy at the end of the file if they are damaged.

    Parameters
    ----------
    source : path
        The damaged file, or the unfinished one, usually `NAME.partial`; it is not changed.
    path : path
        The file to write. If its name ends in `.partial`, it is left unfinished, so that the program that started `source` can continue it.
    overwrite : bool
        Replace `path` if it exists.
    empty : bool
        If there is no complete block, write a file without images; if not set, raise an error and write nothing.

    Raises
    ------
    FormatError
        If header and metadata of `source` are damaged, and there is no valid copy of them; or if it has no whole block, and `empty` is
        not set.
    FileExistsError
        If `path` exists and `overwrite` is not set.
    """
    file = open_source(source)
    try:
        beginning = _any_beginning(file)
        if not empty and next(BlockScan(file, beginning).all(), None) is None:
            raise CorruptError(f"{source}: holds no complete block. Nothing was written")
        target = path_to_write(path)
        own_partial = target.with_name(f"{target.name}.recovered.partial")  # NAME.partial may be what is being recovered
        with PartialFile(target, unfinished="discard", overwrite=overwrite, partial=own_partial) as new:
            found = _copy_blocks(file, beginning, Assembly(new), finished=not target.name.endswith(PARTIAL_SUFFIX))
        logger.info("%s: recovered %s in %s", target, counted(found.num_images, "image"), counted(found.num_blocks, "block"))
        return found
    finally:
        file.close()


def _any_beginning(file: Source) -> Beginning:
    try:
        return read_beginning(file)
    except FormatError as error:
        try:
            return read_copy(file)
        except FormatError:
            raise error from None


def _copy_blocks(file: Source, beginning: Beginning, assembly: Assembly, *, finished: bool) -> Recovery:
    layout, whole_bytes = beginning.description.layout, 0
    assembly.begin(beginning.data)
    for block in BlockScan(file, beginning).all():
        assembly.add_images(block.images, layout, beginning.metadata_crc32)
        whole_bytes += len(block.data)
    end, keys, skipped = _what_there_was(file, beginning)
    lost = None if keys is None else [key for key in keys if key not in assembly.image_crc32s]
    if finished:
        assembly.finish([*skipped, *(lost or [])])
    else:
        assembly.leave()
    return Recovery(len(assembly.image_crc32s), assembly.num_blocks, lost, end - beginning.blocks_offset - whole_bytes)


def _what_there_was(file: Source, beginning: Beginning) -> tuple[int, list[str] | None, list[str]]:
    """Return where the blocks end, the keys of all images and those of skipped images, as far as the end of the file is readable."""
    end: int = file.length
    keys: list[str] | None = None
    try:
        trailer = read_trailer(file, beginning)
        end = trailer.keys_offset
        keys = list(Keys(file, trailer))
        summary = read_summary(file, trailer)
    except FormatError:
        return end, keys, []
    return end, keys, list(summary.get("skipped_keys", []))
