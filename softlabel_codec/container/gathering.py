"""Brings the blocks of a batch together, from all files that hold some of its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.framing import block_contents
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.stored_labels import ImagesOfFile, StoredLabels
from softlabel_codec.errors import FormatError
from softlabel_codec.storage.at_once import for_each
from softlabel_codec.storage.clients import CONNECTIONS
from softlabel_codec.storage.remote_source import RemoteSource


class GatheredBlocks(NamedTuple):
    """The blocks that hold the images of a batch, and where each image is in them, as `Layout.unpack` takes them.

    Attributes
    ----------
    contents : list of bytes
        Contents of the blocks.
    block, slot : int64 (B,)
        For each image its block in `contents` and its position there.
    streams : int64 (B,) or None
        The crop stream of each image, if crops are derived.
    """

    contents: list[bytes]
    block: NDArray[np.int64]
    slot: NDArray[np.int64]
    streams: NDArray[np.int64] | None


def gather(stored: StoredLabels, numbers: NDArray[np.int64]) -> GatheredBlocks:
    """Return the checked blocks of images, int64 (B,); FormatError if one is damaged."""
    contents: list[bytes] = []
    located: list[_Located] = []
    for files in stored.files_of(numbers):
        at_a_time = _at_a_time(images.container for images in files)
        together = for_each(lambda images: _locate(images, stored.layout.derived), files, at_a_time)
        contents += read_blocks([(of_file.container, of_file.blocks) for of_file in together])
        located += together
    if len(located) == 1:
        return GatheredBlocks(contents, *located[0][3:])
    return _joined(contents, located)


def read_blocks(wanted: Sequence[tuple[OpenContainer, NDArray[np.int64]]]) -> list[bytes]:
    """Return the contents of blocks of files with the same metadata, in order. This is where a batch becomes bytes."""
    data = for_each(lambda one: one[0].blocks.read(one[1]), wanted, _at_a_time(container for container, _ in wanted))
    numbers = [number for _, blocks in wanted for number in blocks.tolist()]
    try:
        return block_contents(list(chain.from_iterable(data)), wanted[0][0].beginning.metadata_crc32, numbers)
    except FormatError:
        return [container.blocks.content(block) for container, blocks in wanted for block in blocks.tolist()]  # finds the bad one


def _at_a_time(containers: Iterable[OpenContainer]) -> int:
    """Return how many files are to be read at once: several where there are answers to wait for."""
    return CONNECTIONS if any(isinstance(container.source, RemoteSource) for container in containers) else 1


class _Located(NamedTuple):
    """Images of a batch in a file: the distinct blocks that they are in; and for each image which of these, and where in it."""

    container: OpenContainer
    places: slice | NDArray[np.int64]
    blocks: NDArray[np.int64]
    block: NDArray[np.int64]
    slot: NDArray[np.int64]
    streams: NDArray[np.int64] | None


def _locate(images: ImagesOfFile, derived: bool) -> _Located:
    container, places, numbers = images
    first_images = container.index.first_images
    image_block = first_images.searchsorted(numbers, side="right") - 1
    blocks, block = np.unique(image_block, return_inverse=True)
    slot = numbers - first_images[image_block]
    if not container.crops_checked:
        container.check_crops(int(blocks[0]))
    return _Located(container, places, blocks, block, slot, container.keys.crop_streams(numbers) if derived else None)


def _joined(contents: list[bytes], located: Sequence[_Located]) -> GatheredBlocks:
    num_images = sum(len(of_file.slot) for of_file in located)
    block, slot, streams = np.empty((3, num_images), np.int64)
    first = 0
    for of_file in located:
        block[of_file.places] = first + of_file.block
        slot[of_file.places] = of_file.slot
        if of_file.streams is not None:
            streams[of_file.places] = of_file.streams
        first += len(of_file.blocks)
    return GatheredBlocks(contents, block, slot, None if located[0].streams is None else streams)
