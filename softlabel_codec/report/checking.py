"""Checks everything in one file, and collects what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.errors import FormatError, MismatchError, SoftLabelError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """A problem in a file.

    Attributes
    ----------
    error : str
        Name of the error class that a reader raises.
    message : str
        What is wrong and where.
    """

    error: str
    message: str


@dataclass
class Findings:
    """The problems that were found so far."""

    problems: list[Problem] = field(default_factory=list)

    def note(self, error: SoftLabelError | OSError) -> None:
        """Add a problem."""
        self.problems.append(Problem(type(error).__name__, str(error)))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add errors of a `with` block that say that something is wrong with the bytes."""
        try:
            yield
        except (FormatError, MismatchError) as error:
            self.note(error)


@dataclass(frozen=True)
class Checked:
    """What was checked: blocks and images, and whether the labels store checksums of images.

    `all_opened` says whether all files could be opened; `num_shards` and `bad_shards` are those of `VerifyReport`.
    """

    num_blocks: int = 0
    num_images: int = 0
    image_checksums: bool = False
    all_opened: bool = True
    num_shards: int = 0
    bad_shards: list[str] = field(default_factory=list)


def check_container(container: OpenContainer, findings: Findings, deep: bool, progress: Progress) -> str | None:
    """Check every checksum of a file, and with `deep` decode everything; return its SHA-256, or None if it is wrong.

    `progress` is called with the number of blocks done and in all.
    """
    with findings.collecting():
        container.check_keys()
    num_blocks = container.trailer.num_blocks
    for number in range(num_blocks):
        with findings.collecting():
            if deep:
                container.check_block(number)
            else:
                container.blocks.content(number)
        progress(number + 1, num_blocks)
    with findings.collecting():
        container.check_copy()
    try:
        return container.check_sha256()
    except FormatError as error:
        findings.note(error)
    return None
