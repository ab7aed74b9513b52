"""Reads crops and labels of images by number: from their blocks to labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.one_image import MAX_CROPS as MAX_FEW
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.errors import CorruptError
from softlabel_codec.labels import BatchLabels, ImageLabels

_OTHER_CROPS = "an image has another number of crops in its block than the index says"


class CropReader:
    """Reads crops of the images of an open file. Numbers of images and crops have been checked.

    Parameters
    ----------
    container : OpenContainer
        The file.
    policy : str or None
        Remainder policy to read sparse labels with; None: the codec's own.

    Raises
    ------
    ArgumentError
        If the policy does not fit the labels.
    """

    def __init__(self, container: OpenContainer, policy: str | None) -> None:
        self._container, self._layout = container, container.layout
        self._index, self._blocks, self._keys = container.index, container.blocks, container.keys
        self._policy = self._layout.quantiser.policy(policy)
        self._few = FewCropsReader(self._layout, self._policy) if FewCropsReader.serves(self._layout) else None
        self._sampler_checked = not self._layout.derived

    def read(self, number: int, crops: list[int] | None) -> ImageLabels:
        """Return chosen crops of an image, or all; CorruptError if its block is damaged."""
        block, slot = self._index.locate(number)
        content = self._blocks.content(block)
        if not self._sampler_checked:
            self._check_sampler(block)
        try:
            if crops and self._few is not None and len(crops) <= MAX_FEW:
                stream = self._keys.crop_stream(number) if self._layout.derived else 0
                return ImageLabels(*self._few.read(content, slot, crops, stream))
            numbers, chosen = np.array([number]), None if crops is None else np.array([crops], np.int64)
            return next(iter(self._decode([content], np.zeros(1, np.int64), np.array([slot]), numbers, chosen)))
        except CorruptError as error:
            raise self._blocks.located(error, block) from None

    def read_batch(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        """Return chosen crops, int64 (B, N), of images, int64 (B,), or all; CorruptError if a block is damaged."""
        if len(numbers) == 1:
            return BatchLabels.of_image(self.read(int(numbers[0]), None if chosen is None else chosen[0].tolist()), numbers)
        return self.read_together(numbers, chosen)

    def read_together(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        """Return what `read_batch` does, and decode a single image as those of a batch too."""
        image_block = self._index.first_images.searchsorted(numbers, side="right") - 1
        blocks, block_place = np.unique(image_block, return_inverse=True)
        contents = self._blocks.contents(blocks)
        if not self._sampler_checked:
            self._check_sampler(int(blocks[0]))
        try:
            return self._decode(contents, block_place, numbers - self._index.first_images[image_block], numbers, chosen)
        except CorruptError as error:
            raise self._container.find_corrupt(blocks.tolist(), error) from None

    def _decode(
        self,
        contents: list[bytes],
        block_place: NDArray[np.int64],
        slots: NDArray[np.int64],
        numbers: NDArray[np.int64],
        chosen: NDArray[np.int64] | None,
    ) -> BatchLabels:
        """Return crops of images whose blocks and places there are known, as `Layout.unpack` takes them."""
        streams = self._keys.crop_streams(numbers) if self._layout.derived else None
        found, of_images = self._layout.unpack(contents, block_place, slots, chosen, streams)
        if chosen is None and (of_images.image_rows != self._index.num_crops[numbers]).any():
            raise CorruptError(_OTHER_CROPS)
        labels = self._layout.quantiser.dequantise(found.codes, self._policy)
        sizes, num_crops, crc32s = of_images.image_sizes, of_images.image_rows, of_images.image_crc32s
        return BatchLabels(found.crops, found.flips, labels, sizes, num_crops, numbers, crc32s)

    def _check_sampler(self, block: int) -> None:
        """Check that our sampler gives the crops of a block that were labelled."""
        self._container.check_block(block)
        self._sampler_checked = True
