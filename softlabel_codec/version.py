"""The version of this package, from its installed metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("softlabel_codec")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"
PACKAGE = f"softlabel_codec {__version__}"
