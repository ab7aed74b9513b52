"""Ctrl-C while a file is being written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.files import partial_path
from softlabel_codec.writer import SoftLabelWriter


class Interrupted(KeyboardInterrupt):
    """What is kept of the work so far, in its text."""


@contextmanager
def saying_what_is_kept(writer: SoftLabelWriter) -> Iterator[None]:
    """Close the writer when somebody interrupts the block, and let the interruption say how many images are kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        writer.close()
        raise Interrupted(_what_is_kept(writer)) from error


def _what_is_kept(writer: SoftLabelWriter) -> str:
    target = writer.path.resolve() if writer.path.is_symlink() else writer.path
    kept = writer.num_stored
    if not partial_path(target).exists():
        return f"{writer.path} is whole, with {counted(kept, 'image')}"
    if not kept:
        return "No image is kept yet; begin the same again"
    return f"{counted(kept, 'image')} {'is' if kept == 1 else 'are'} kept in {partial_path(target)}; begin the same again to continue"
