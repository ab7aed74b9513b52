"""What a run writes that nothing happens to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from softlabel_codec import SoftLabelReader, SoftLabelWriter, writer
from softlabel_codec.container.files import partial_path
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler

CODEC, NUM_CLASSES, IMAGE_SIZE = "marginal_smoothing:k=5", 20, (48, 64)
METADATA = {"teacher": "tiny", "notes": "x" * 50}
SKIPPED = ["gone.png"]
BYTES_PER_BLOCK = 300
COUNTS = tuple(1 + number * 7 % 60 for number in range(40))
"""Crops of each image: some images have a block of their own, others share one."""


NOTHING = "before the file"
HEADER = "in header and metadata"
BLOCKS = "in blocks"
FINISH = "in keys, summary, index or trailer"
UNNAMED = "complete, not yet renamed"
RENAMED = "after the rename"
STATES = NOTHING, HEADER, BLOCKS, FINISH, UNNAMED, RENAMED


Contents = tuple[Any, Any, Any]
"""What a file says of an image: crops, flips and probabilities."""


@dataclass(frozen=True)
class Unbroken:
    """What a run leaves that nothing happens to.

    Attributes
    ----------
    images : dict
        Arguments of `add` by key, to run it again; empty if another program wrote the file.
    data : bytes
        The file.
    keys : list of str
        Keys of its images.
    labels : list of Contents
        What it says of each image.
    block_ends, first_images : list of int
        Where its blocks end, beginning with where the first one starts, and how many images stand before each end.
    """

    images: dict[str, dict[str, Any]]
    data: bytes
    keys: list[str]
    labels: list[Contents]
    block_ends: list[int]
    first_images: list[int]

    @classmethod
    def of(cls, path: Path, images: dict[str, dict[str, Any]]) -> Unbroken:
        """Return what stands in a finished file."""
        assert verify(path, deep=True).ok, f"{path}: an unbroken run left a file that is not sound"
        with SoftLabelReader(path) as reader:
            index = reader.container.index
            return cls(images, path.read_bytes(), list(reader.keys), contents(reader), index.starts.tolist(), index.first_images.tolist())

    def whole_blocks(self, length: int) -> int:
        """Return how many blocks are whole in the first bytes of the file."""
        return sum(end <= length for end in self.block_ends[1:])

    def state(self, length: int) -> str:
        """Return what a writer is at when it has written so many bytes under the temporary name."""
        if length < self.block_ends[0]:
            return HEADER
        if length < self.block_ends[-1]:
            return BLOCKS
        return FINISH if length < len(self.data) else UNNAMED


def some_images(counts: tuple[int, ...] = COUNTS, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return arguments of `add` for images with these numbers of crops, by key."""
    rng = np.random.default_rng(seed)
    images = {}
    for number, count in enumerate(counts):
        key = f"class{number % 3}/image{number}.png"
        crops, flips = CropSampler(seed=seed).sample(key, IMAGE_SIZE, range(count))
        probs = rng.dirichlet(np.full(NUM_CLASSES, 0.1), count).astype(np.float32)
        images[key] = {"image_size": IMAGE_SIZE, "crops": crops, "flips": flips, "probs": probs}
    return images


def write(
    path: Path,
    images: dict[str, dict[str, Any]],
    *,
    opened: Callable[[SoftLabelWriter], object] = lambda labels: None,
    before_finish: Callable[[], object] = lambda: None,
    **options: Any,
) -> None:
    """Write a label file in small blocks, as a program does that may be started again; others may look at it on the way."""
    with (
        mock.patch.object(writer, "TARGET_BYTES_PER_BLOCK", BYTES_PER_BLOCK),
        SoftLabelWriter(path, NUM_CLASSES, CODEC, METADATA, **options) as labels,
    ):
        opened(labels)
        done = set(labels.keys)
        for key, arguments in images.items():
            if key not in done:
                labels.add(key, **arguments)
        before_finish()
        labels.finish(skipped_keys=SKIPPED)


def unbroken_run(folder: Path, counts: tuple[int, ...] = COUNTS) -> Unbroken:
    """Write a file without any trouble."""
    images = some_images(counts)
    path = folder / "unbroken.slc"
    write(path, images)
    return Unbroken.of(path, images)


def contents(reader: SoftLabelReader) -> list[Contents]:
    """Return what a file says of each of its images."""
    return [(image.crops, image.flips, image.labels.dense()) for image in reader]


def check_contents(found: list[Contents], wanted: list[Contents], where: Path) -> None:
    """Check that what was read of each image is what it should be."""
    assert len(found) == len(wanted), f"{where}: expected {len(wanted)} images, got {len(found)}"
    for number, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        same = all(np.array_equal(one, other) for one, other in zip(mine, theirs, strict=True))
        assert same, f"{where}: image {number} is not what was written"


def clear(path: Path) -> None:
    """Remove a file and its unfinished form, if they are there."""
    path.unlink(missing_ok=True)
    partial_path(path).unlink(missing_ok=True)
