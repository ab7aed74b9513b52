"""Label files of FKD made of any bytes, read by the importer while it is watched for code that it runs."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fuzz.limits import within_a_second
from fuzz.scratch import scratch_folder
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.fkd import label_codec, read_fkd_file

LABEL_TYPES = ("hard", "smoothing", "marginal_smoothing_k5", "marginal_renorm_k2")
RAW = len(LABEL_TYPES)
"""A first byte of this or more: the rest is the file as it is."""
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.remove", "socket.connect")

_watched: list[str] | None = None


class CodeRunError(AssertionError):
    """A label file had code run."""


def read(data: bytes) -> None:
    """Read a label file: a pickle in an archive such as torch writes, its checksums right, or the bytes as they are."""
    first = data[0] if data else 0
    file = archive(data[1:]) if first < RAW else data[1:]
    path = scratch_folder() / "labels.tar"
    path.write_bytes(file)
    with within_a_second("label file"), _watching():
        try:
            image = read_fkd_file(path, label_codec(LABEL_TYPES[first % len(LABEL_TYPES)]), 1000)
        except (CorruptError, MismatchError) as error:
            if isinstance(error.__context__, MemoryError):
                raise error.__context__ from None
            return
    assert len(image.crops) == len(image.flips) == len(image.indices) == len(image.values)


def archive(pickled: bytes) -> bytes:
    """Return a pickle in an archive such as torch writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as parts:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", bytes(64)), ("version", b"3\n")):
            parts.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return out.getvalue()


@contextmanager
def _watching() -> Iterator[None]:
    """Stop, and raise CodeRunError in the end, if the block does what no label file may. (An audit hook cannot be taken out again.)"""
    global _watched  # noqa: PLW0603
    _hook()
    seen = _watched = []
    try:
        yield
    finally:
        _watched = None
    if seen:
        raise CodeRunError(seen[0])


@cache
def _hook() -> None:
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event in FORBIDDEN:
        _watched.append(f"{event} {arguments}")
        raise PermissionError(event)
