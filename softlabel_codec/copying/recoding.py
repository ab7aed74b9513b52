"""Which blocks of a file are copied as they are, and the images of the others: decoded, changed, and ready for new blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import exclusive_cumsum
from softlabel_codec.block.families import LabelCodes
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.pending import PendingImage, check_fits_block
from softlabel_codec.errors import LimitError, MismatchError
from softlabel_codec.quantise.places import Places, is_measured
from softlabel_codec.quantise.transcoding import Transcoder, stored_alike


class Recoder:
    """Changes the images of a file to what a copy holds.

    Parameters
    ----------
    source : OpenContainer
        The file.
    layout : Layout
        How the blocks of the copy are laid out.
    crops : int or None
        How many crops are kept of each image at most.

    Attributes
    ----------
    source : OpenContainer
        The file.
    """

    def __init__(self, source: OpenContainer, layout: Layout, crops: int | None) -> None:
        self.source = source
        self._crops = crops
        self._layout = layout
        self._quantiser = source.layout.quantiser
        self._transcoder = Transcoder(source.layout.codec, layout.codec, layout.num_classes)
        self._same_codec = stored_alike(source.layout.codec, layout.codec)

    def unchanged(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which blocks, bool (num_blocks,), are copied as they are, if these images, bool (num_images,), are wanted."""
        index = self.source.index
        if not self._same_codec:
            return np.zeros(len(index.first_images) - 1, np.bool_)
        if self._crops is not None:
            wanted = wanted & (index.num_crops <= self._crops)
        return np.logical_and.reduceat(wanted, index.first_images[:-1])

    def images(self, block: int, slots: NDArray[np.int64]) -> Iterator[PendingImage]:
        """Yield images of a block, by their places there, as the copy holds them; CorruptError if the block is damaged."""
        found = self.source.check_block(block)
        first = exclusive_cumsum(found.num_crops)
        labels = None if self._same_codec else self._quantiser.dequantise(found.codes, self.source.layout.codec.policy)
        for slot in slots.tolist():
            num_crops = int(found.num_crops[slot])
            rows = slice(int(first[slot]), int(first[slot]) + min(num_crops, self._crops or num_crops))
            codes = self._quantiser.rows(found.codes, rows, slot)
            try:
                if labels is not None:
                    codes = self._transcoder.codes(labels[rows], codes, self._places(found, slot, rows))
                image = self._image(found, slot, rows, codes)
                check_fits_block(image, self._layout)
            except (MismatchError, LimitError) as error:
                raise type(error)(f"{self.source.source.path}: image {found.keys[slot]!r}: {error}") from None
            yield image

    def _places(self, found: BlockImages, slot: int, rows: slice) -> Places:
        heights, widths = np.repeat(found.sizes[slot : slot + 1], rows.stop - rows.start, axis=0).T
        return Places(self._layout.edges(found.crops[rows], heights, widths), is_measured(found.keys[slot]))

    def _image(self, found: BlockImages, slot: int, rows: slice, codes: LabelCodes) -> PendingImage:
        height, width = found.sizes[slot].tolist()
        num_crops = rows.stop - rows.start
        crc32 = None if found.image_crc32s is None else int(found.image_crc32s[slot])
        entries = self._layout.quantiser.num_entries(codes)
        return PendingImage(found.keys[slot], (height, width), num_crops, found.crops[rows], found.flips[rows], codes, *entries, crc32)
