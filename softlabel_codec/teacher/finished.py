"""Checks whether files that are there are those that a labelling run would make."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.metadata import Description, difference
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import read_beginning
from softlabel_codec.container.sources import open_source
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import FormatError, MismatchError
from softlabel_codec.storage.location import Location

NOT_COMPARED = ("package", "libraries")
"""Metadata that an update changes: no reason to label everything again."""


@dataclass(frozen=True)
class FinishedFile:
    """A file that an earlier run finished.

    Attributes
    ----------
    num_images : int
        Its number of images.
    skipped : dict of str
        Images that were skipped, and why.
    num_bytes : int
        Its length.
    fingerprint : str
        That of `OpenContainer`.
    """

    num_images: int
    skipped: dict[str, str]
    num_bytes: int
    fingerprint: str


def check_made_alike(path: Location, wanted: Description, on_error: str) -> FinishedFile:
    """Return the summary of a finished file if a run that would describe it as `wanted` would make the same file.

    This lets a batch system start a job again after it has finished.

    Raises
    ------
    FileExistsError
        If it was made with other options, or is not a label file; the text says what differs.
    """
    try:
        with OpenContainer(path) as file:
            found, summary = file.description, _summary(file)
    except FormatError as error:
        raise exists(path, f"is not a finished label file ({type(error).__name__})") from None
    made, due = _compared(found), _compared(wanted)
    if made != due:
        raise exists(path, f"was made with other options: {difference(made, due)}")
    if summary.skipped and on_error == "fail":
        raise exists(path, f"lacks {counted(len(summary.skipped), 'image')} that could not be read, {next(iter(summary.skipped))!r} first")
    return summary


def described(path: Location) -> Description | None:
    """Return how a file describes itself, finished or not; None if it does not say yet."""
    source = open_source(path)
    try:
        return read_beginning(source).description
    except FormatError:
        return None
    finally:
        source.close()


def check_same_set(path: Location, found: Description, wanted: Description) -> None:
    """Raise MismatchError if a shard that is there cannot be in a set with shards that a run would describe as `wanted`.

    Unlike that of a file, its metadata must be the same to the last version of a library.
    """
    theirs, ours = found.metadata.get("images"), wanted.metadata.get("images")
    if theirs != ours:
        what = f"was made of other images: expected {ours}, found {theirs}. All workers must find the same images in the same order"
    elif replace(found, other={}) != wanted:
        differs = difference(replace(found, other={}), wanted)
        what = f"belongs to a label set of other options: {differs}. All workers need the same options and versions"
    else:
        return
    raise MismatchError(f"{path}: {what}. Pass overwrite=True (--overwrite) to replace what is there")


def check_is_shard(path: Location, wanted: Description, keys: Sequence[str]) -> FinishedFile:
    """Return the summary of a finished shard if a run with the description `wanted` makes it of the images with these keys.

    Raises
    ------
    MismatchError
        If it was made otherwise, or of other images.
    FormatError, OSError
        If it is not sound, as far as its beginning and its end tell, or cannot be read.
    """
    with OpenContainer(path) as shard:
        check_same_set(path, shard.description, wanted)
        skipped = set(shard.summary.get("skipped_keys", []))
        if shard.summary["keys_sha256"] != keys_sha256(key.encode() for key in keys if key not in skipped):
            what = f"expected the {counted(len(keys), 'image')} of this shard, got {shard.num_images} of which some are others"
            raise MismatchError(f"{path}: {what}. Pass overwrite=True (--overwrite) to replace it")
        return _summary(shard)


def _summary(file: OpenContainer) -> FinishedFile:
    skipped = dict.fromkeys(file.summary.get("skipped_keys", []), "could not be read by the run that made the file")
    return FinishedFile(file.num_images, skipped, file.num_bytes, file.fingerprint)


def _compared(description: Description) -> Description:
    metadata: Mapping[str, Any] = description.metadata
    return replace(description, metadata={name: value for name, value in metadata.items() if name not in NOT_COMPARED}, other={})


def exists(path: Location, what: str) -> FileExistsError:
    """Return the error that a finished file is there which is not the one that a run would make."""
    return FileExistsError(errno.EEXIST, f"the file exists and {what}. Pass overwrite=True (--overwrite) to replace it", str(path))
