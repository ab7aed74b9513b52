"""Checks whether an existing file is the one that a labelling run would make."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.metadata import Description, difference
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.errors import FormatError

NOT_COMPARED = ("package", "libraries")
"""Metadata that an update changes: no reason to label everything again."""


@dataclass(frozen=True)
class FinishedFile:
    """A file that an earlier run finished: its number of images, and those that were skipped."""

    num_images: int
    skipped: dict[str, str]


def check_made_alike(path: Path, wanted: Description, on_error: str) -> FinishedFile:
    """Return the summary of a finished file if a run that would describe it as `wanted` would make the same file.

    This lets a batch system start a job again after it has finished.

    Raises
    ------
    FileExistsError
        If it was made with other options, or is not a label file; the text says what differs.
    """
    try:
        with OpenContainer(path) as file:
            found, num_images = file.description, file.trailer.num_images
            skipped: list[str] = file.summary.get("skipped_keys", [])
    except FormatError as error:
        raise _exists(path, f"is not a finished label file ({type(error).__name__})") from None
    made, due = _compared(found), _compared(wanted)
    if made != due:
        raise _exists(path, f"was made with other options: {difference(made, due)}")
    if skipped and on_error == "fail":
        raise _exists(path, f"lacks {counted(len(skipped), 'image')} that could not be read, {skipped[0]!r} first")
    return FinishedFile(num_images, dict.fromkeys(skipped, "could not be read by the run that made the file"))


def _compared(description: Description) -> Description:
    metadata: Mapping[str, Any] = description.metadata
    return replace(description, metadata={name: value for name, value in metadata.items() if name not in NOT_COMPARED}, other={})


def _exists(path: Path, what: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, f"the file exists and {what}. Pass overwrite=True (--overwrite) to replace it", str(path))
