"""`inspect`: describes a label file or a label set, finished or not."""

from __future__ import annotations

import os
from pathlib import Path

from softlabel_codec.errors import ArgumentError, TruncatedError
from softlabel_codec.label_set.finding import index_of_set, unfinished_sets
from softlabel_codec.report.file_report import SAMPLED_BLOCKS, FileReport, inspect_file
from softlabel_codec.report.set_report import inspect_set, inspect_unfinished
from softlabel_codec.storage.location import location, shown


def inspect(path: str | os.PathLike[str], *, sampled_blocks: int = SAMPLED_BLOCKS) -> FileReport:
    """Return a description of a container file, or a `SetReport` of a label set.

    Of an unfinished or damaged file it is made from its beginning and its valid blocks; of an unfinished set, from the shards that there
    are.

    Parameters
    ----------
    path : path
        The file; the folder of a set, or its index.
    sampled_blocks : int
        How many blocks are measured by column.

    Raises
    ------
    FormatError
        If header or metadata of a file are damaged, or the index of a set.
    ArgumentError
        If a folder holds several sets.
    """
    try:
        index = index_of_set(location(path))
    except TruncatedError:
        unfinished = unfinished_sets(Path(path))
        if len(unfinished) > 1:
            names = "; ".join(map(str, unfinished))
            raise ArgumentError(f"{shown(path)}: expected one label set, got {len(unfinished)}, all unfinished: {names}") from None
        return inspect_unfinished(unfinished[0], sampled_blocks)
    return inspect_file(path, sampled_blocks) if index is None else inspect_set(index, sampled_blocks)
