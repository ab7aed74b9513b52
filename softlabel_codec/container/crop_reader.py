"""Reads crops and labels of images by number: from their blocks to labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.one_image import MAX_CROPS as MAX_FEW
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.container.gathering import GatheredBlocks, gather
from softlabel_codec.container.stored_labels import StoredLabels
from softlabel_codec.errors import CorruptError, FormatError
from softlabel_codec.labels import BatchLabels, ImageLabels
from softlabel_codec.quantise.temperature import to_power

_OTHER_CROPS = "an image has another number of crops in its block than the index says"


class CropReader:
    """Reads crops of the images of a file or a set. Numbers of images and crops have been checked.

    All files of a set share one layout. So the blocks of a batch are decoded together, whichever files they are in.

    Parameters
    ----------
    stored : StoredLabels
        The file or the set.
    policy : str or None
        Remainder policy to read sparse labels with; None: the codec's own.
    power : float
        Power of the stored targets that is returned, for another temperature: see `to_power`.

    Raises
    ------
    ArgumentError
        If the policy does not fit the labels.
    """

    def __init__(self, stored: StoredLabels, policy: str | None, power: float) -> None:
        self._stored, self._layout, self._num_crops = stored, stored.layout, stored.num_crops
        self._policy, self._power = self._layout.quantiser.policy(policy), power
        self._few = FewCropsReader(self._layout, self._policy) if FewCropsReader.serves(self._layout) else None

    def read(self, number: int, crops: list[int] | None) -> ImageLabels:
        """Return chosen crops of an image, or all; CorruptError if its block is damaged."""
        container, place = self._stored.file_of(number)
        block, slot = container.index.locate(place)
        content = container.blocks.content(block)
        if not container.crops_checked:
            container.check_crops(block)
        try:
            if crops and self._few is not None and len(crops) <= MAX_FEW:
                stream = container.keys.crop_stream(place) if self._layout.derived else 0
                geometry, flips, size, labels, crc32 = self._few.read(content, slot, crops, stream)
                return ImageLabels(geometry, flips, size, to_power(labels, self._power), crc32)
            streams = container.keys.crop_streams(np.array([place])) if self._layout.derived else None
            found = GatheredBlocks([content], np.zeros(1, np.int64), np.array([slot]), streams)
            chosen = None if crops is None else np.array([crops], np.int64)
            return next(iter(self._decode(found, np.array([number]), chosen)))
        except CorruptError as error:
            raise container.blocks.located(error, block) from None

    def read_batch(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        """Return chosen crops, int64 (B, N), of images, int64 (B,), or all; CorruptError if a block is damaged."""
        if len(numbers) == 1:
            return BatchLabels.of_image(self.read(int(numbers[0]), None if chosen is None else chosen[0].tolist()), numbers)
        return self.read_together(numbers, chosen)

    def read_together(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        """Return what `read_batch` does, and decode a single image as those of a batch too."""
        found = gather(self._stored, numbers)
        try:
            return self._decode(found, numbers, chosen)
        except CorruptError as error:
            raise self._find_corrupt(numbers) or CorruptError(f"{self._stored.path}: {error}") from None

    def _decode(self, blocks: GatheredBlocks, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        found, of_images = self._layout.unpack(blocks.contents, blocks.block, blocks.slot, chosen, blocks.streams)
        if chosen is None and (of_images.image_rows != self._num_crops[numbers]).any():
            raise CorruptError(_OTHER_CROPS)
        labels = to_power(self._layout.quantiser.dequantise(found.codes, self._policy), self._power)
        sizes, num_crops, crc32s = of_images.image_sizes, of_images.image_rows, of_images.image_crc32s
        return BatchLabels(found.crops, found.flips, labels, sizes, num_crops, numbers, crc32s)

    def _find_corrupt(self, numbers: NDArray[np.int64]) -> FormatError | None:
        errors = (images.container.find_corrupt(images.numbers) for files in self._stored.files_of(numbers) for images in files)
        return next(filter(None, errors), None)
