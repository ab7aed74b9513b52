"""From an unfinished or damaged file to a finished one (spec/container-v1.md, section 9.1)."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.assembly import Assembly
from softlabel_codec.errors import CorruptError, FormatError
from softlabel_codec.pack.block import BlockImages
from softlabel_codec.prefix import read_beginning, read_blocks
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.store import FileSource, PartialFile
from softlabel_codec.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """What `recover` did.

    Attributes
    ----------
    num_images, num_blocks : int
        Images and blocks that were recovered.
    lost_keys : list of str or None
        Keys of the images in damaged blocks; the new file lists them among its skipped keys. None if the file has no sound index
        that could say which images there were.
    unused_bytes : int
        Bytes of damaged blocks; without a sound index, all bytes from the first place on where no whole block stands.
    """

    num_images: int
    num_blocks: int
    lost_keys: list[str] | None
    unused_bytes: int


def recover(source: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False, empty: bool = True) -> Recovery:
    """Make a finished file of all sound blocks of a damaged one, or of the whole blocks of an unfinished one.

    If index and keys of `source` are sound, every block is kept that is sound itself. Otherwise, as in an unfinished file, the
    blocks up to the first place where no whole one stands.

    Parameters
    ----------
    source : path
        The unfinished file, usually `NAME.partial`, or the damaged one; it is left as it is.
    path : path
        The file to write.
    overwrite : bool
        Replace `path` if it exists.
    empty : bool
        Write a file without images if there is no sound block; else that is an error, and nothing is written.

    Raises
    ------
    FormatError
        If not even header and metadata of `source` are sound; or if nothing is found, and `empty` is not set.
    FileExistsError
        If `path` exists and `overwrite` is not set.
    """
    try:
        reader = SoftLabelReader(source)
    except FormatError:
        return _recover_beginning(source, path, overwrite, empty)
    with reader:
        try:
            keys = list(reader.keys)
        except FormatError:
            return _recover_beginning(source, path, overwrite, empty)
        return _recover_sound_blocks(reader, keys, path, overwrite, empty)


def _recover_beginning(source: str | os.PathLike[str], path: str | os.PathLike[str], overwrite: bool, empty: bool) -> Recovery:
    unfinished = FileSource(source)
    try:
        beginning = read_beginning(unfinished)
        with _new_file(path, overwrite) as (file, assembly):
            assembly.begin(beginning.data)
            for block in read_blocks(unfinished, beginning):
                assembly.add_block(block.data, block.images.keys, block.images.counts.tolist())
            unused = unfinished.length - file.length
            _check_found(source, file, assembly, empty)
            assembly.finish([])
            return Recovery(len(assembly.keys), assembly.num_blocks, None, unused)
    finally:
        unfinished.close()


def _recover_sound_blocks(reader: SoftLabelReader, keys: list[str], path: str | os.PathLike[str], overwrite: bool, empty: bool) -> Recovery:
    lost: list[str] = []
    unused = 0
    with _new_file(path, overwrite) as (file, assembly):
        assembly.begin(reader.beginning.data)
        for number in range(reader.trailer.num_blocks):
            images = _sound_block(reader, number, assembly.keys)
            if images is None:
                start, end = reader.index.starts[number : number + 2].tolist()
                unused += end - start
                first, last = reader.index.first_images[number : number + 2].tolist()
                lost += keys[first:last]
                continue
            assembly.add_images(images, reader.beginning.description.layout, reader.beginning.metadata_crc32)
        _check_found(reader.path, file, assembly, empty)
        assembly.finish([*reader.summary.get("skipped_keys", []), *lost])
        return Recovery(len(assembly.keys), assembly.num_blocks, lost, unused)


def _sound_block(reader: SoftLabelReader, number: int, known_keys: Container[str]) -> BlockImages | None:
    """Return what is in a block; None if that is not sound, or a key of it is known already."""
    try:
        images = reader.check_block(number, reader.previous_key(number))
    except FormatError:
        return None
    twice = len(set(images.keys)) < len(images.keys) or any(key in known_keys for key in images.keys)
    return None if twice else images


@contextmanager
def _new_file(path: str | os.PathLike[str], overwrite: bool) -> Iterator[tuple[PartialFile, Assembly]]:
    target = Path(path)
    own_partial = target.with_name(f"{target.name}.recovered.partial")  # NAME.partial may be what is being recovered
    with PartialFile(target, unfinished="discard", overwrite=overwrite, partial=own_partial) as file:
        assembly = Assembly(file)
        yield file, assembly
    logger.info("%s: recovered %s", target, counted(len(assembly.keys), "image"))


def _check_found(source: str | os.PathLike[str], file: PartialFile, assembly: Assembly, empty: bool) -> None:
    """Raise CorruptError, and leave nothing behind, if no image was found and a file without any is not wanted."""
    if not empty and not assembly.keys:
        file.partial.unlink()
        raise CorruptError(f"{source}: holds no image in a sound block. Nothing was written")
