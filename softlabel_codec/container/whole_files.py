"""Writes files completely or not at all, and reads JSON results that may be incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from softlabel_codec.container.files import fsync_folder

UNFINISHED_SUFFIX = ".unfinished"
"""Differs from that of unfinished label files, which may be continued and must not be replaced."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that is renamed to `path`, replacing an existing one, when the `with` block ends and the data are on disk."""
    target = Path(path)
    unfinished = target.with_name(target.name + UNFINISHED_SUFFIX)
    unfinished.unlink(missing_ok=True)  # left by a process that was killed; or a link, which is not followed
    with open(unfinished, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    fsync_folder(target.absolute().parent)  # sync the name too


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, completely or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write an indented JSON file, completely or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def read_result(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none or it is incomplete."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None
