"""Opens what a container is read from: a file of this machine, or a URL, perhaps through a cache."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path

from softlabel_codec.container.files import COPIED_BYTES, FileSource, Source
from softlabel_codec.container.framing import TRAILER, Trailer
from softlabel_codec.errors import FormatError
from softlabel_codec.storage.cache import Cache, use
from softlabel_codec.storage.location import Url, location
from softlabel_codec.storage.remote_source import RemoteSource

logger = logging.getLogger(__name__)


class CachedFile(FileSource):
    """The copy of a file behind a URL that a cache keeps, in use as long as it is open.

    Parameters
    ----------
    url : Url
        The file.
    path : Path
        The copy.

    Raises
    ------
    OSError
        If there is no copy.
    """

    def __init__(self, url: Url, path: Path) -> None:
        super().__init__(path, url)
        self.also = f" (its copy {path})"
        if not use(path, self._fd):
            self.close()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def open_source(path: str | os.PathLike[str], cache: Cache | None = None, fingerprint: str = "") -> Source:
    """Return a file that is open for positioned reads.

    Parameters
    ----------
    path : path or URL
        The file.
    cache : Cache, optional
        Fetches and keeps whole files that are behind URLs.
    fingerprint : str, optional
        The fingerprint that the file is to have. Then nothing is asked for if the cache keeps it.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    where = location(path)
    if not isinstance(where, Url):
        return FileSource(where)
    if cache is None:
        return RemoteSource(where)
    kept = _kept(cache, fingerprint, where) if fingerprint else None
    return kept or _fetched(cache, fingerprint, where)


def fingerprint_of(source: Source) -> str:
    """Return what the fingerprint of a file is if it ends with a trailer: 64 hex digits, the SHA-256 of its last 112 bytes."""
    size = min(TRAILER.size, source.length)
    return hashlib.sha256(source.read_at(source.length - size, size)).hexdigest()


def _kept(cache: Cache, fingerprint: str, url: Url) -> CachedFile | None:
    path = cache.kept(fingerprint)
    try:
        source = CachedFile(url, path)
    except OSError:
        return None
    if fingerprint_of(source) == fingerprint:
        return source
    source.close()
    path.unlink(missing_ok=True)
    logger.warning("%s: its copy %s was damaged, and is removed", url, path)
    return None


def _fetched(cache: Cache, fingerprint: str, url: Url) -> Source:
    """Return the copy of a file in a cache, after fetching it if it is not there; if it cannot be kept, the file where it is."""
    remote = RemoteSource(url)
    found = fingerprint_of(remote)
    if fingerprint not in ("", found) or not _ends_with_trailer(remote):
        return remote  # its reader says what is wrong
    if cache.fetch(found, remote, lambda path: _is_sound(path, found)):
        kept = _kept(cache, found, url)
        if kept is not None:
            return kept
    return remote


def _ends_with_trailer(source: Source) -> bool:
    size = min(TRAILER.size, source.length)
    try:
        Trailer.unpack(source.read_at(source.length - size, size), source.length)
    except FormatError:
        return False
    return True


def _is_sound(path: Path, fingerprint: str) -> bool:
    """Return whether a file has this fingerprint, and the SHA-256 that its trailer says."""
    source = FileSource(path)
    try:
        if fingerprint_of(source) != fingerprint:
            return False
        end, digest = source.length - TRAILER.size, hashlib.sha256()
        for start in range(0, end, COPIED_BYTES):
            digest.update(source.read_at(start, min(COPIED_BYTES, end - start)))
        return Trailer.unpack(source.read_at(end, TRAILER.size), source.length).sha256 == digest.digest()
    finally:
        source.close()
