"""Clients of storage services, made when a process first needs them. The only module that imports fsspec."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from softlabel_codec.errors import ArgumentError, StateError

Result = TypeVar("Result")

CONNECTIONS = 32
"""Most requests that are under way at once for one call."""
_S3 = ("s3", "s3a")
_kept: dict[int, Any] = {}
"""Every client that was used, in this process or before a fork: see `_leave_to_the_parent`."""


@contextmanager
def installed(extra: str) -> Iterator[None]:
    """Say which extra to install if a package is missing: StateError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StateError(f"{error.name} is not installed: pip install 'softlabel_codec[{extra}]'") from None
    except ImportError as error:  # what fsspec makes of it
        raise StateError(f"{error}. What S3 and HTTP need comes with: pip install 'softlabel_codec[remote]'") from None


def file_system(url: str, extra: str = "remote") -> tuple[Any, str]:
    """Return the file system of a URL, of this process alone, and the path there.

    Raises
    ------
    ArgumentError
        If nothing is known of its scheme.
    StateError
        If a package is not installed; `extra` is the extra to name.
    """
    with installed(extra):
        import fsspec  # noqa: PLC0415  only URLs need it

        try:
            found, path = fsspec.core.url_to_fs(url, **_options(fsspec, url))
        except ValueError as error:
            raise ArgumentError(f"{url.partition('://')[0]}://: {error}") from None
    _kept.setdefault(id(found), found)
    return found, path


def _options(fsspec: Any, url: str) -> dict[str, Any]:
    """Return what we ask of a client beyond what users configured: as many connections as requests, where ten are the default."""
    scheme = url.partition("://")[0].lower()
    if scheme not in _S3:
        return {}
    said = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    return {"config_kwargs": {"max_pool_connections": CONNECTIONS, **said}}


def run(files: Any, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in the loop of a file system, or in that of fsspec if it has none, and return its result."""
    import fsspec.asyn  # noqa: PLC0415

    loop = files.loop if getattr(files, "async_impl", False) else fsspec.asyn.get_loop()
    result: Result = fsspec.asyn.sync(loop, work)
    return result


def _leave_to_the_parent() -> None:
    """Keep a forked process from breaking the connections of its parent when it ends, or drops its copies of the clients.

    Closing a connection takes it out of the selector of its loop, and what that is for the system is shared with the parent, which would
    wait for answers in vain. So copies of clients are kept, and their loops get selectors of their own and do not count as running.
    """
    for files in _kept.values():
        loop: Any = getattr(files, "_loop", None)
        if hasattr(loop, "_selector") and hasattr(loop, "_thread_id"):
            loop._selector, loop._thread_id = selectors.DefaultSelector(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
