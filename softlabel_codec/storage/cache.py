"""A folder that keeps whole files of storage services, shared by all processes of a machine, and bounded in size."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softlabel_codec.errors import ArgumentError
from softlabel_codec.storage.remote_source import RemoteSource

logger = logging.getLogger(__name__)

FOLDER, SIZE = "SOFTLABEL_CACHE", "SOFTLABEL_CACHE_SIZE"
"""Environment variables: where files are kept, and how many bytes in all."""
PART_OF_DISK = 0.2
"""How much of the disk a cache takes at most if nothing else is said."""
ROUND_BYTES = 2**25
"""How much is fetched at a time, by several requests at once."""
FETCHED_AT_A_TIME = 4
"""How many files a process fetches at a time."""
_KEPT, _PART = ".slc", ".part"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(?:i?B)?", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """A folder that keeps whole files. Files that were not used for longest make room for others, unless they are open.

    A file is kept under a key that says what is in it, and is fetched once: other processes wait for the one that fetches it, and whoever
    comes after one that was killed goes on where it stopped.

    Parameters
    ----------
    folder : path
        Where; it is made if it is not there.

    Attributes
    ----------
    folder : Path
        Its absolute path.

    Raises
    ------
    OSError
        If the folder cannot be made.
    ArgumentError
        If the environment says an amount of bytes that is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.most_bytes = _most_bytes(self.folder)

    @classmethod
    def of(cls, cache: str | os.PathLike[str] | bool | None) -> Cache | None:
        """Return the cache that an argument `cache` means: a folder, or with True the usual one; None for False and None.

        The usual one is the folder `SOFTLABEL_CACHE` of the environment, or `~/.cache/softlabel_codec`. If it cannot be made, that is
        logged, and there is none.
        """
        if cache is None or cache is False:
            return None
        if os.name == "nt":
            logger.warning("no files can be kept: this system has no locks that are released when their process ends")
            return None
        if cache is not True:
            return cls(cache)
        folder = usual_folder()
        try:
            return cls(folder)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            logger.warning("%s: no files can be kept there: %s. Set %s to a folder that can be written to", folder, error, FOLDER)
            return None

    def holds(self, num_bytes: int) -> bool:
        """Return whether files of so many bytes fit together, so that using all of them in turn does not fetch them again and again."""
        return num_bytes <= self.most_bytes

    def kept(self, key: str) -> Path:
        """Return where a file is, if it is kept."""
        return self.folder / (key + _KEPT)

    def fetch(self, key: str, source: RemoteSource, check: Callable[[Path], bool]) -> bool:
        """Fetch a file unless it is kept, and return whether it is now.

        Parameters
        ----------
        key : str
            What is in it.
        source : RemoteSource
            Where it comes from.
        check : callable
            Returns whether a file is what it should be.

        Raises
        ------
        OSError, SoftLabelError
            If it cannot be fetched. What has come is kept for the next time.
        """
        kept = self.kept(key)
        if kept.exists():
            return True
        if not self.holds(source.length):
            logger.warning("%s: not kept: it has %d bytes, the cache %d (%s)", source.path, source.length, self.most_bytes, SIZE)
            return False
        try:
            with _locked(self.folder / (key + _PART)) as part:
                if not kept.exists():
                    return self._fetch(part, kept, source, check)
                part.unlink()
                return True
        except OSError as error:
            if error.filename == str(source.path):
                raise
            logger.warning("%s: not kept in %s, but read from where it is: %s", source.path, self.folder, error)
            return False

    def _fetch(self, part: Path, kept: Path, source: RemoteSource, check: Callable[[Path], bool]) -> bool:
        begun = part.stat().st_size
        for start in [begun, 0] if begun else [0]:
            os.truncate(part, start)
            if not self._make_room(source.length - start, but=part):
                part.unlink()
                logger.warning("%s: not kept, but read from where it is: there is no room in %s", source.path, self.folder)
                return False
            try:
                _append(part, source, start)
            except OSError as error:
                if error.errno in _FULL:
                    part.unlink()
                raise
            if check(part):
                os.replace(part, kept)
                return True
        part.unlink()
        logger.warning("%s: not kept, but read from where it is: it is not what its checksum says", source.path)
        return False

    def _make_room(self, num_bytes: int, but: Path) -> bool:
        """Remove files that were not used for longest until so many bytes fit, into the cache and on its disk; return whether they do."""
        files = sorted(self._files(but), key=lambda file: file[0])
        total = sum(size for _, size, _ in files) + but.stat().st_size
        excess = num_bytes - min(self.most_bytes - total, shutil.disk_usage(self.folder).free)
        for _, size, path in files:
            if excess > 0 and _removed(path):
                excess -= size
        return excess <= 0

    def _files(self, but: Path) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file was used last, its size and its path."""
        for path in self.folder.iterdir():
            if path.suffix in (_KEPT, _PART) and path != but:
                with suppress(FileNotFoundError):
                    about = path.stat()
                    yield about.st_mtime, about.st_size, path


def usual_folder() -> str:
    """Return where files are kept if nothing else is said; a `~` at its beginning stands for the home of the user."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.environ.get(FOLDER) or f"{home}/softlabel_codec"


def use(path: Path, descriptor: int) -> bool:
    """Say that a kept file, open with this descriptor, is in use until that is closed; return whether it is still kept.

    Nothing removes a file that is in use.
    """
    import fcntl  # noqa: PLC0415  not on Windows

    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not os.fstat(descriptor).st_nlink:
        return False
    with suppress(OSError):
        os.utime(path)
    return True


def _append(part: Path, source: RemoteSource, start: int) -> None:
    with part.open("r+b") as file:
        file.seek(start)
        for offset in range(start, source.length, ROUND_BYTES):
            file.write(source.read_many([offset], [min(ROUND_BYTES, source.length - offset)])[0])
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Create a file if it is not there, and hold it until a `with` block ends; wait while another process does."""
    import fcntl  # noqa: PLC0415

    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file.fileno()):  # it may have got its final name meanwhile, or been removed
                yield path
                return


def _is_still(path: Path, descriptor: int) -> bool:
    """Return whether an open file has the name under which it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _removed(path: Path) -> bool:
    """Remove a file unless it is in use, and return whether it was removed."""
    import fcntl  # noqa: PLC0415

    with suppress(OSError), path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


def _most_bytes(folder: Path) -> int:
    said = os.environ.get(SIZE, "").strip()
    if not said:
        return int(PART_OF_DISK * shutil.disk_usage(folder).total)
    found = _SIZE.fullmatch(said)
    if found is None:
        raise ArgumentError(f"{SIZE}: expected bytes such as 50GB, got {said!r}")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))
