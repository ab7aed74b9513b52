"""The file of results: a JSON object to a line, added to by any process."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any


def add_result(path: Path, result: dict[str, Any]) -> None:
    """Add a result to a file, without paths of this machine: only the last part of each is kept."""
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        ended = file.read() in (b"", b"\n")  # no line was cut off
        file.write((b"" if ended else b"\n") + json.dumps(_portable(result)).encode() + b"\n")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, none if there is none; lines that were cut off are left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line is cut off; what it said is measured again", file=sys.stderr)
    return found


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _portable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(part) for part in value]
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return value
