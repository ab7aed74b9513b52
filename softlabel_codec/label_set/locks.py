"""Locks of files that several machines may write: lock files, on any file system that these machines share.

A lock is a file that is created exclusively. It says who holds it, and its holder changes its time of modification every few seconds. A
lock that has stayed the same for too long is taken over. How long is measured by the clock of the process that watches it, so that
clocks of machines need not agree.

A holder may be stopped, lose its lock, and go on later. `check` tells it so, but only when it looks. What it writes must therefore do no
harm: `SetFolder.unfinished_file` gives each holder files of its own.

filelock's `SoftFileLease` (4.3.1) was considered. It takes over a lock of another machine only where the file system can exchange two
names, which NFS cannot; what it writes into a lock has no place for a job; and its holder is told of a loss by a thread that looks every
few seconds. flufl.lock compares the clocks of machines.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from softlabel_codec.errors import StateError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""After so long without a sign of life a lock is taken over."""
LOOK_SECONDS = 1.0
"""Time between two looks at locks that are waited for."""
_MOST_BYTES = 4096
_JOBS = {"SLURM_JOB_ID": "Slurm job", "PBS_JOBID": "PBS job", "LSB_JOBID": "LSF job", "RANK": "rank"}
"""What schedulers and torchrun call a job, or a process of it, in environment variables."""
logger = logging.getLogger(__name__)


class LockLostError(StateError):
    """Another process has taken over a lock, because this one gave no sign of life."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    host, pid, job, since : str
        Name of the machine, number of the process there, what a scheduler calls it (or nothing), and when the lock was taken.
    process : str
        Start of the machine, number space and start of the process, which no other process shares; empty if the system does not tell.
    token : str
        Random digits of this lock.
    """

    host: str
    pid: str
    job: str
    since: str
    process: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return this process as the owner of a new lock."""
        job = ", ".join(f"{what} {value}" for name, what in _JOBS.items() if (value := _job(name)))
        return cls(socket.gethostname(), str(os.getpid()), job, _as_text(time.time()), _process(os.getpid()), secrets.token_hex(8))

    @classmethod
    def parse(cls, data: bytes) -> Owner | None:
        """Return what a lock file says, or None if it says nothing (yet)."""
        try:
            found = json.loads(data)
            return cls(**{field.name: found[field.name] for field in fields(cls) if isinstance(found[field.name], str)})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def is_gone(self) -> bool:
        """Return whether the owner is a process of this machine that has ended; False if that cannot be told."""
        machine, _, _ = self.process.rpartition(" ")
        if not machine or machine != _process(os.getpid()).rpartition(" ")[0]:
            return False
        try:
            pid = int(self.pid)
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (ValueError, OverflowError, OSError):
            return False
        return _process(pid) not in (self.process, "")

    def __str__(self) -> str:
        job = f", {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def _job(name: str) -> str:
    if name == "SLURM_JOB_ID" and "SLURM_ARRAY_JOB_ID" in os.environ:
        return "_".join(os.environ.get(part, "") for part in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    return os.environ.get(name, "")


def _as_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _process(pid: int) -> str:
    """Return what no other process has: start of the machine, number space, start of the process; empty if unknown (as without /proc)."""
    try:
        boot, space = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
        state, *after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        start = "ended" if state in "ZX" else after[18]
    except (OSError, ValueError, IndexError):
        return ""
    return f"{boot} {space} {start}"


@dataclass(frozen=True)
class Sight:
    """A lock as it was seen.

    Attributes
    ----------
    owner : Owner or None
        Who holds it; None if the file does not say (yet).
    sign : tuple of int
        Number and time of modification of the file: its owner changes them as long as it lives.
    """

    owner: Owner | None
    sign: tuple[int, int]

    @property
    def token(self) -> str:
        """Random digits of the lock; empty if unknown."""
        return self.owner.token if self.owner else ""

    def __str__(self) -> str:
        return f"{self.owner or 'an unknown owner'}, last sign of life {_as_text(self.sign[1] / 1e9)}"


def see(path: Path) -> Sight | None:
    """Return the lock at a path, or None if there is none. The file is opened, so that NFS does not answer from its cache."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            return Sight(Owner.parse(file.read(_MOST_BYTES)), (found.st_ino, found.st_mtime_ns))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise


class Lock:
    """A lock that this process holds, until `release` or the end of a `with` block.

    Attributes
    ----------
    path : Path
        The lock file.
    token : str
        Random digits of this lock.
    """

    def __init__(self, path: Path, token: str, descriptor: int) -> None:
        self.path, self.token = path, token
        self._descriptor = descriptor
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {path.name}", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """Return the lock at a path, or None if another process holds it."""
        owner = Owner.this_process()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return None
        try:
            said = json.dumps(asdict(owner)).encode() + b"\n"
            while said:  # on a disk that is nearly full only a part is written, and the next call fails
                said = said[os.write(descriptor, said) :]
            os.fsync(descriptor)  # now others see who holds it, on NFS too
            return cls(path, owner.token, descriptor)
        except BaseException as error:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise

    def check(self) -> None:
        """Raise LockLostError if the lock was taken over."""
        found = see(self.path)
        if found is None or found.token != self.token:
            who = f"was taken over by {found}" if found else "was removed"
            raise LockLostError(f"{self.path}: the lock of this process {who}. Was the process stopped, or cut off from its files?")

    def release(self) -> None:
        """Give up the lock. Releasing twice is allowed."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        os.close(self._descriptor)
        with suppress(LockLostError):
            self.check()
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # of a file server that is away for a moment, or of a lock that was lost
                os.utime(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class Watch:
    """Takes locks, also those of others that have given no sign of life for too long while this process was watching.

    Of the time between two looks at a lock at most `HEARTBEAT_SECONDS` count. So it takes several looks until a lock is stale: if the file
    server was away, or this process was stopped, owners can show that they live first.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Sight, float, float]] = {}
        self._alive: set[Path] = set()

    def take(self, path: Path) -> Lock | None:
        """Return the lock at a path, or None if another process holds it and may be alive."""
        lock = Lock.take(path)
        sight = None if lock else see(path)
        if sight is None:
            return lock
        silent = self._silent_seconds(path, sight)
        if sight.owner and sight.owner.is_gone():
            why = "which has ended"
        elif silent >= STALE_SECONDS:
            why = f"which gave no sign of life for {silent:.0f} s"
        else:
            return None
        if not _remove(path, sight):
            return None
        logger.warning("%s: taken over from %s, %s", path, sight, why)
        return Lock.take(path)

    def is_alive(self, path: Path) -> bool:
        """Return whether a lock has changed since this object first saw it."""
        return path in self._alive

    def _silent_seconds(self, path: Path, sight: Sight) -> float:
        """Note a look at a lock and return for how long it has not changed."""
        now = time.monotonic()
        before, when, silent = self._seen.get(path, (sight, now, 0.0))
        if before != sight:
            self._alive.add(path)
        silent = silent + min(now - when, HEARTBEAT_SECONDS) if before == sight else 0.0
        self._seen[path] = sight, now, silent
        return silent


def _remove(path: Path, stale: Sight) -> bool:
    """Remove a lock if it is still the one that was seen; return whether it was."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.rename(aside)  # only one of several processes succeeds
    except FileNotFoundError:
        return False
    removed = see(aside) == stale
    if not removed:  # another process was faster, and this is its new lock
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return removed
