"""Reads crops and labels of images by number: from their blocks to labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.one_image import MAX_CROPS as MAX_FEW
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.container.gathering import GatheredBlocks, gather
from softlabel_codec.container.stored_labels import StoredLabels
from softlabel_codec.errors import ArgumentError, CorruptError, FormatError
from softlabel_codec.labels import BatchLabels, ImageLabels, SparseLabels, concatenate_labels
from softlabel_codec.quantise.field import FieldCodes, kl_of_codes
from softlabel_codec.quantise.neighbours import NEIGHBOURS, spread_along_neighbours
from softlabel_codec.quantise.temperature import to_power
from softlabel_codec.sampler import crop_stream
from softlabel_codec.views import Sampler

Boxes = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.float64]]
"""Crops (R, 4), flips (R,), and the edges of the crops as fractions of their images, (R, 4)."""
_ROUNDING = 1e-5
"""So much may fractions of an image be beyond its edge."""
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
        asked = self._layout.quantiser.policy(policy)
        self._spreads = asked == NEIGHBOURS
        self._policy, self._power = "uniform" if self._spreads else asked, power
        served = FewCropsReader.serves(self._layout) and not self._spreads
        self._few = FewCropsReader(self._layout, self._policy) if served else None

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

    def read_one(self, number: int, crops: list[int] | None) -> BatchLabels:
        """Return what `read` does, as a batch of one image."""
        return BatchLabels.of_image(self.read(number, crops), np.array([number], np.int64))

    def read_batch(self, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        """Return chosen crops, int64 (B, N), of images, int64 (B,), or all; CorruptError if a block is damaged."""
        found = gather(self._stored, numbers)
        try:
            return self._decode(found, numbers, chosen)
        except CorruptError as error:
            raise self._find_corrupt(numbers) or CorruptError(f"{self._stored.path}: {error}") from None

    def labels_at(self, numbers: NDArray[np.int64], crops: NDArray[Any], flips: NDArray[np.bool_]) -> BatchLabels:
        """Return the labels of crops (B, N, 4) that the caller gives of images (B,); CorruptError if a block is damaged.

        Crops are in pixels of the image with its padding, or fractions of it, according to their type; `flips` are bool (B, N).
        """

        def given(sizes: NDArray[np.int64]) -> Boxes:
            boxes, pixels = crops.reshape(-1, 4), crops.dtype.kind != "f"
            if pixels and not sizes.all():
                raise ArgumentError(f"crops: expected fractions (floats) of images whose sizes the file does not know, got {crops.dtype}")
            edges = self._layout.edges(boxes, *np.repeat(sizes, crops.shape[1], axis=0).T)
            self._check_inside(edges, crops, numbers, sizes)
            return boxes.astype(np.int32) if pixels else boxes, flips.reshape(-1), edges

        return self._labels_of(numbers, crops.shape[1], given)

    def labels_from(self, sampler: Sampler, numbers: NDArray[np.int64], chosen: NDArray[np.int64]) -> BatchLabels:
        """Return the labels of crops, int64 (B, N), that a sampler has of images (B,); CorruptError if a block is damaged."""
        streams = np.array([crop_stream(self._stored.keys[number]) for number in numbers.tolist()], np.int64)

        def sampled(sizes: NDArray[np.int64]) -> Boxes:
            if not sizes.all():
                raise ArgumentError("sampler: expected a file that knows the sizes of its images")
            heights, widths = np.repeat(sizes, chosen.shape[1], axis=0).T
            padded = self._layout.padding.around((heights, widths))
            crops, flips = sampler.sample_rows(np.repeat(streams, chosen.shape[1]), chosen.reshape(-1), *padded)
            return crops.astype(np.int32), flips, self._layout.edges(crops, heights, widths)

        return self._labels_of(numbers, chosen.shape[1], sampled)

    def fields(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the fields of images (B,) as `SoftLabelReader.fields` does; CorruptError if a block is damaged."""
        codes, _ = self._fields(numbers, 1)
        numbers_of_field = np.concatenate([codes.levels[:, None], codes.slopes], axis=1)
        weights = self._layout.codec.step * self._power * numbers_of_field
        return codes.classes.astype(np.int32), weights.astype(np.float32)

    def field_kl(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what `SoftLabelReader.field_kl` does, of images (B,); CorruptError if a block is damaged."""
        codes, _ = self._fields(numbers, 1)
        return kl_of_codes(codes.fitted), kl_of_codes(codes.unseen)

    def _labels_of(self, numbers: NDArray[np.int64], each: int, boxes: Callable[[NDArray[np.int64]], Boxes]) -> BatchLabels:
        """Return the labels of so many crops of each image, which `boxes` gives for the images' sizes, int64 (B, 2)."""
        codes, of_images = self._fields(numbers, each)
        sizes, num_crops, crc32s = of_images.image_sizes, of_images.image_rows, of_images.image_crc32s
        crops, flips, edges = boxes(sizes)
        labels = to_power(self._layout.quantiser.dequantise(codes.at(edges, of_images.owner), self._policy), self._power)
        return BatchLabels(crops, flips, labels, sizes, num_crops, numbers, crc32s)

    def _fields(self, numbers: NDArray[np.int64], each: int) -> tuple[FieldCodes, BlockRows]:
        blocks = gather(self._stored, numbers)
        try:
            return self._layout.unpack_at(blocks.contents, blocks.block, blocks.slot, each)
        except CorruptError as error:
            raise self._find_corrupt(numbers) or CorruptError(f"{self._stored.path}: {error}") from None

    def _check_inside(self, edges: NDArray[np.float64], crops: NDArray[Any], numbers: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Raise ArgumentError unless crops (B, N, 4), whose edges are fractions (B * N, 4), are inside of images of these sizes (B, 2)."""
        inside = ((edges >= -_ROUNDING) & (edges <= 1 + _ROUNDING)).all(axis=1)
        if inside.all():
            return
        image, crop = divmod(int(inside.argmin()), crops.shape[1])
        number, padding = int(numbers[image]), self._layout.padding.pixels
        of_image = "the image, as fractions of it"
        if crops.dtype.kind != "f":
            height, width = sizes[image].tolist()
            of_image = f"an image of {height} x {width} pixels (height x width){f' and its padding of {padding}' if padding else ''}"
        raise ArgumentError(
            f"{self._stored.path}: image {number} ({self._stored.keys[number]!r}): crop {crop}: "
            f"expected top, left, height, width inside {of_image}, got {crops[image, crop].tolist()}"
        )

    def _decode(self, blocks: GatheredBlocks, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        if chosen is not None and not chosen.size:  # what is said of images is found by way of their crops
            one = self._decode(blocks, numbers, np.zeros((len(numbers), 1), np.int64))
            return replace(one, crops=one.crops[:0], flips=one.flips[:0], labels=one.labels[:0], num_crops=0 * one.num_crops)
        return _spread(self._decoded(blocks, numbers, None), chosen) if self._spreads else self._decoded(blocks, numbers, chosen)

    def _decoded(self, blocks: GatheredBlocks, numbers: NDArray[np.int64], chosen: NDArray[np.int64] | None) -> BatchLabels:
        found, of_images = self._layout.unpack(blocks.contents, blocks.block, blocks.slot, chosen, blocks.streams)
        if chosen is None and (of_images.image_rows != self._num_crops[numbers]).any():
            raise CorruptError(_OTHER_CROPS)
        labels = to_power(self._layout.quantiser.dequantise(found.codes, self._policy), self._power)
        sizes, num_crops, crc32s = of_images.image_sizes, of_images.image_rows, of_images.image_crc32s
        return BatchLabels(found.crops, found.flips, labels, sizes, num_crops, numbers, crc32s)

    def _find_corrupt(self, numbers: NDArray[np.int64]) -> FormatError | None:
        errors = (images.container.find_corrupt(images.numbers) for files in self._stored.files_of(numbers) for images in files)
        return next(filter(None, errors), None)


def _spread(batch: BatchLabels, chosen: NDArray[np.int64] | None) -> BatchLabels:
    """Return chosen crops, int64 (B, N), or all, of a batch of all crops of images, with remainders spread by overlapping crops."""
    starts = np.cumsum(batch.num_crops) - batch.num_crops
    parts = []
    for place, image in enumerate(batch):
        assert isinstance(image.labels, SparseLabels)
        parts.append(spread_along_neighbours(image.labels, image.crops, None if chosen is None else chosen[place]))
    labels = concatenate_labels(parts)
    if chosen is None:
        return replace(batch, labels=labels)
    rows = (starts[:, None] + chosen).reshape(-1)
    return replace(batch, crops=batch.crops[rows], flips=batch.flips[rows], labels=labels, num_crops=np.full(len(chosen), chosen.shape[1]))
