"""From an unfinished or damaged file to a finished one (spec/container-v1.md, section 9.1)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.assembly import Assembly
from softlabel_codec.prefix import read_beginning
from softlabel_codec.store import FileSource, PartialFile


@dataclass(frozen=True)
class Recovery:
    """What `recover` did.

    Attributes
    ----------
    num_images, num_blocks : int
        Images and blocks that were recovered.
    unused_bytes : int
        Bytes after the last whole block, which were left out.
    """

    num_images: int
    num_blocks: int
    unused_bytes: int


def recover(source: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False) -> Recovery:
    """Make a finished file of what an unfinished or damaged one holds up to its last whole block.

    Parameters
    ----------
    source : path
        The unfinished file, usually `NAME.partial`; it is left as it is.
    path : path
        The file to write.
    overwrite : bool
        Replace `path` if it exists.

    Raises
    ------
    FormatError
        If not even header and metadata of `source` are sound.
    FileExistsError
        If `path` exists and `overwrite` is not set.
    """
    unfinished = FileSource(source)
    try:
        beginning = read_beginning(unfinished)
        target = Path(path)
        own_partial = target.with_name(f"{target.name}.recovered.partial")  # NAME.partial may be what is being recovered
        with PartialFile(target, unfinished="discard", overwrite=overwrite, partial=own_partial) as file:
            assembly = Assembly(file)
            assembly.begin(beginning.data)
            assembly.copy_blocks(unfinished, beginning)
            unused = unfinished.length - file.length
            assembly.finish([])
            return Recovery(len(assembly.keys), assembly.num_blocks, unused)
    finally:
        unfinished.close()
