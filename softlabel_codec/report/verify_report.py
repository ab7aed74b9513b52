"""Checks a file for damage: every checksum, and with `deep` all contents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import BlockScan, read_beginning
from softlabel_codec.container.sources import open_source
from softlabel_codec.errors import ArgumentError, FormatError, MismatchError, SoftLabelError
from softlabel_codec.image_source import name_of
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.storage.location import shown

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


@dataclass(frozen=True)
class VerifyReport:
    """The result of a check of a file.

    Attributes
    ----------
    path : str
        The file.
    ok : bool
        Whether no problem was found.
    deep : bool
        Whether labels were decoded and checked, too.
    num_blocks, num_images : int
        What was checked; for a file without a valid index, the whole blocks at its beginning.
    compared_images : int
        Images that were compared with the labels: their sizes, and their checksums if `checksums`.
    checksums : bool
        Whether the label file stores a checksum of each image's file; if images were compared, whether all were compared by it. Pixels
        without a file have none.
    problems : list of Problem
        All problems found.
    """

    path: str
    ok: bool
    deep: bool
    num_blocks: int
    num_images: int
    problems: list[Problem]
    compared_images: int = 0
    checksums: bool = False


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)

    def note(self, error: SoftLabelError) -> None:
        self.problems.append(Problem(type(error).__name__, str(error)))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        try:
            yield
        except (FormatError, MismatchError) as error:
            self.note(error)


def verify(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    images: Any = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a whole container file and return all problems.

    Parameters
    ----------
    path : path
        The file.
    deep : bool
        Also decode every label and crop, and compare the keys in the blocks with those in the index.
    images : path, mapping, array, dataset or ImageSource, optional
        The labelled images, as for `softlabel_codec.images.open_images`: also check that all are there and are the ones that were
        labelled. Needs Pillow.
    progress : callable, optional
        Called with the number of blocks, and then of images, done so far and in all.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    findings = _Findings()
    try:
        container = OpenContainer(path)
    except FormatError as error:
        findings.note(error)
        return VerifyReport(shown(path), False, deep, *_whole_prefix(path), findings.problems)
    show = progress or (lambda done, total: None)
    with container:
        with findings.collecting():
            container.check_keys()
        _check_blocks(container, findings, deep, show)
        for check in (container.check_copy, container.check_sha256):
            with findings.collecting():
                check()
        counts, checksums = (container.trailer.num_blocks, container.trailer.num_images), container.description.image_checksums
    compared, as_bytes = (0, True) if images is None else _compare_images(path, images, findings, show)
    return VerifyReport(shown(path), not findings.problems, deep, *counts, findings.problems, compared, checksums and as_bytes)


def _compare_images(path: str | os.PathLike[str], images: Any, findings: _Findings, progress: Progress) -> tuple[int, bool]:
    """Compare all images that are labelled in a file; return how many there are, and whether all were bytes of files."""
    with SoftLabelReader(path) as reader:
        return _compare_with(reader, images, findings, progress)


def _compare_with(reader: SoftLabelReader, images: Any, findings: _Findings, progress: Progress) -> tuple[int, bool]:
    from softlabel_codec.images.files import compare_image, is_about_the_image  # noqa: PLC0415
    from softlabel_codec.images.finding import ON_MISSING, find_images  # noqa: PLC0415  needs Pillow, the rest does not

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # skipped images count as a problem
            found, numbers, num_missing = find_images(images, reader, on_missing=ON_MISSING[1])
    except (MismatchError, ArgumentError) as error:
        findings.note(error)
        return 0, True
    there = range(len(reader)) if numbers is None else numbers.tolist()
    if num_missing:
        first = reader.keys[min(set(range(len(reader))) - set(there))]
        findings.note(
            MismatchError(f"{name_of(found.source)}: {num_missing} of {len(reader)} labelled images are not there, {first!r} first")
        )

    def compare(number: int) -> tuple[SoftLabelError | None, bool]:
        key, as_bytes = reader.keys[number], True
        try:
            image = found.read(number, key)
            as_bytes = isinstance(image, bytes)
            compare_image(image, reader.read(number, [0]), key, str(reader.path), found.where(number, key))
        except FormatError:
            pass  # already found by the check of the blocks
        except (MismatchError, ArgumentError) as error:
            return error, as_bytes
        except OSError as error:
            if not is_about_the_image(error):
                raise
            return MismatchError(f"{reader.path}: image {key!r}: {error}"), as_bytes
        return None, as_bytes

    all_bytes = True
    with ThreadPoolExecutor() as threads:
        for done, (problem, as_bytes) in enumerate(threads.map(compare, there)):
            all_bytes &= as_bytes
            if problem is not None:
                findings.note(problem)
            progress(done + 1, len(there))
    return len(there), all_bytes


def _check_blocks(container: OpenContainer, findings: _Findings, deep: bool, progress: Progress) -> None:
    num_blocks = container.trailer.num_blocks
    for number in range(num_blocks):
        with findings.collecting():
            if deep:
                container.check_block(number)
            else:
                container.blocks.content(number)
        progress(number + 1, num_blocks)


def _whole_prefix(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return how many blocks and images at the beginning of a file without a valid index are whole."""
    source = open_source(path)
    try:
        images = [len(block.images.keys) for block in BlockScan(source, read_beginning(source)).prefix()]
        return len(images), int(np.sum(images))
    except FormatError:
        return 0, 0
    finally:
        source.close()
