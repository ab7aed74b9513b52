"""Checks a file or a label set for damage: every checksum, and with `deep` all contents."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import BlockScan, read_beginning
from softlabel_codec.container.sources import open_source
from softlabel_codec.errors import ArgumentError, FormatError, MismatchError, SoftLabelError, StateError
from softlabel_codec.image_source import name_of
from softlabel_codec.label_set.finding import index_of_set
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report.checking import Checked, Findings, Problem, Progress, check_container
from softlabel_codec.report.checking_sets import check_set
from softlabel_codec.storage.location import location, shown


@dataclass(frozen=True)
class VerifyReport:
    """The result of a check of a file or a set.

    Attributes
    ----------
    path : str
        The file or the set, as given.
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
    num_shards : int
        Number of files of a set; 0 for a file.
    bad_shards : list of str
        Names of those that have a problem.
    """

    path: str
    ok: bool
    deep: bool
    num_blocks: int
    num_images: int
    problems: list[Problem]
    compared_images: int = 0
    checksums: bool = False
    num_shards: int = 0
    bad_shards: list[str] = field(default_factory=list)


def verify(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    images: Any = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a whole container file, or a label set with all its shards, and return all problems.

    Parameters
    ----------
    path : path
        The file; the folder of a set, or its index.
    deep : bool
        Also decode every label and crop, and compare the keys in the blocks with those in the index.
    images : path, mapping, array, dataset or ImageSource, optional
        The labelled images, as for `softlabel_codec.images.open_images`: also check that all are there and are the ones that were
        labelled. Needs Pillow. Those of a set are compared if all its shards could be opened.
    progress : callable, optional
        Called with the number of blocks (of a set: of images in blocks), and then of images, done so far and in all.

    Raises
    ------
    OSError
        If the file, or the index, cannot be read.
    ArgumentError
        If a folder holds several sets.
    """
    findings, show = Findings(), progress or (lambda done, total: None)
    try:
        index = index_of_set(location(path))
        checked = _check_file(path, deep, findings, show) if index is None else check_set(index, deep, findings, show)
    except FormatError as error:
        findings.note(error)
        checked = Checked() if Path(path).is_dir() else Checked(*_whole_prefix(path), all_opened=False)
    compared, as_bytes = 0, True
    if images is not None and checked.all_opened:
        compared, as_bytes = _compare_images(path, images, findings, show)
    elif images is not None and checked.num_shards:
        findings.note(StateError(f"{shown(path)}: images can be compared only if all shards of the set can be opened"))
    return VerifyReport(
        path=shown(path),
        ok=not findings.problems,
        deep=deep,
        num_blocks=checked.num_blocks,
        num_images=checked.num_images,
        problems=findings.problems,
        compared_images=compared,
        checksums=checked.image_checksums and as_bytes,
        num_shards=checked.num_shards,
        bad_shards=checked.bad_shards,
    )


def _check_file(path: str | os.PathLike[str], deep: bool, findings: Findings, progress: Progress) -> Checked:
    with OpenContainer(path) as container:
        check_container(container, findings, deep, progress)
        return Checked(container.trailer.num_blocks, container.num_images, container.description.image_checksums)


def _compare_images(path: str | os.PathLike[str], images: Any, findings: Findings, progress: Progress) -> tuple[int, bool]:
    """Compare all images that are labelled; return how many there are, and whether all were bytes of files."""
    with SoftLabelReader(path) as reader:
        return _compare_with(reader, images, findings, progress)


def _compare_with(reader: SoftLabelReader, images: Any, findings: Findings, progress: Progress) -> tuple[int, bool]:
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
