"""Versions of this package and of the libraries that it runs with, from their installed metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def library_versions(*names: str) -> dict[str, str]:
    """Return the versions of installed libraries by name; `unknown` for one that is not installed as a package."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


__version__ = _version("softlabel_codec")
PACKAGE = f"softlabel_codec {__version__}"
