"""The images of the block that is being filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import ragged
from softlabel_codec.block.families import LabelCodes
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.checks.limits import MAX_CONTENT_BYTES, fits_block, tails_fit_block
from softlabel_codec.errors import LimitError
from softlabel_codec.sampler import crop_stream


@dataclass(frozen=True)
class PendingImage:
    """One image, checked and quantised, waiting for its block.

    Attributes
    ----------
    key : str
        Its key.
    size : (int, int)
        Height and width in pixels; 0 if unknown.
    num_crops : int
        M.
    crops, flips : (M, 4), bool (M,), or None
        As in `BlockImages`; None if they are derived, unless they are known.
    codes : LabelCodes
        Labels of its crops.
    num_entries, widest, num_listed : int
        Number of classes kept by all crops together, kept by the crop that keeps the most, and listed in the tail.
    crc32 : int or None
        CRC-32 of its file, if the label file stores it.
    """

    key: str
    size: tuple[int, int]
    num_crops: int
    crops: NDArray[Any] | None
    flips: NDArray[np.bool_] | None
    codes: LabelCodes
    num_entries: int
    widest: int
    num_listed: int
    crc32: int | None


def check_fits_block(image: PendingImage, layout: Layout) -> None:
    """Raise LimitError if an image is too large for a block of its own."""
    num_crops = image.num_crops
    most_bytes = layout.quantiser.most_bytes(image.codes) + 64 * num_crops
    if most_bytes > MAX_CONTENT_BYTES - 2**20:
        raise LimitError(f"labels of {most_bytes} bytes: an image must fit into a block of {MAX_CONTENT_BYTES}: use fewer crops or classes")
    if not fits_block(num_crops, image.num_entries, image.widest):
        raise LimitError(f"{num_crops} crops, of which one keeps {image.widest} classes: use fewer crops, or keep fewer classes")


@dataclass
class PendingBlock:
    """Images of the next block, by key, and their total size."""

    images: dict[str, PendingImage] = field(default_factory=dict)
    num_bytes: int = 0
    num_crops: int = 0
    num_entries: int = 0
    widest: int = 0
    longest_tail: int = 0

    def has_room(self, image: PendingImage) -> bool:
        """Return whether the block may hold this image too."""
        num_crops, num_entries = self.num_crops + image.num_crops, self.num_entries + image.num_entries
        return fits_block(num_crops, num_entries, max(self.widest, image.widest)) and tails_fit_block(
            len(self.images) + 1, max(self.longest_tail, image.num_listed)
        )

    def add(self, image: PendingImage, num_bytes: int) -> None:
        """Add an image whose labels will take about `num_bytes` bytes."""
        self.images[image.key] = image
        self.num_bytes += num_bytes
        self.num_crops += image.num_crops
        self.num_entries += image.num_entries
        self.widest = max(self.widest, image.widest)
        self.longest_tail = max(self.longest_tail, image.num_listed)

    def gather(self, layout: Layout) -> BlockImages:
        """Return all images as one `BlockImages`."""
        images = list(self.images.values())
        sizes = np.array([image.size for image in images], np.int64)
        num_crops = np.array([image.num_crops for image in images], np.int64)
        if layout.sampler is None or all(image.crops is not None for image in images):
            crops = np.concatenate([image.crops for image in images if image.crops is not None])
            flips = np.concatenate([image.flips for image in images if image.flips is not None])
        else:
            streams = np.repeat([crop_stream(image.key) for image in images], num_crops)
            crops, flips = layout.sampler.sample_rows(
                streams,
                ragged(np.zeros_like(num_crops), num_crops),
                *layout.padding.around((np.repeat(sizes[:, 0], num_crops), np.repeat(sizes[:, 1], num_crops))),
            )
        codes = layout.quantiser.concatenate([image.codes for image in images])
        crc32s = [image.crc32 for image in images if image.crc32 is not None]
        return BlockImages(
            [image.key for image in images], sizes, num_crops, crops, flips, codes, np.array(crc32s, np.int64) if crc32s else None
        )
