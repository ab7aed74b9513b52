"""The content of a block: images, crops and labels as one byte string (spec/container-v1.md, section 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray
from softlabel_codec.block.crops import DERIVED, CropMode, crop_mode, crops_crc32
from softlabel_codec.block.families import Family, LabelCodes, Packer, Quantiser, family_of
from softlabel_codec.block.keys import pack_keys, unpack_keys
from softlabel_codec.block.rows import BlockRows, Fields
from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.quantise.field import FieldCodes
from softlabel_codec.quantise.places import edges_of
from softlabel_codec.sampler import crop_stream
from softlabel_codec.views import Sampler


@dataclass(frozen=True)
class BlockImages:
    """Everything in a block: n images with R crops together.

    Attributes
    ----------
    keys : list of str
        One for each image.
    sizes : int64 (n, 2)
        Height and width of each image in pixels; 0 if unknown.
    num_crops : int64 (n,)
        Number of crops of each image.
    crops : (R, 4)
        top, left, height, width: integer pixels, or fractions of the image.
    flips : bool (R,)
        Whether each crop is mirrored.
    codes : LabelCodes
        Labels of each crop.
    image_crc32s : int64 (n,) or None
        CRC-32 of each image's file, if the label file stores them.
    """

    keys: list[str]
    sizes: IntArray
    num_crops: IntArray
    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    codes: LabelCodes
    image_crc32s: IntArray | None = None


class CropRows(NamedTuple):
    """Chosen crops of some images: `crops`, `flips` and `codes` as in `BlockImages`, image after image."""

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    codes: LabelCodes


@dataclass(frozen=True)
class Layout:
    """How the blocks of one file are laid out; made once when a file is opened."""

    codec: Codec
    num_classes: int
    crops: str = "pixels"
    sampler: Sampler | None = None
    checksums: bool = False
    padding: Padding = NO_PADDING

    @cached_property
    def mode(self) -> CropMode:
        """How crops are stored."""
        return crop_mode(self.crops, self.sampler, self.padding)

    @cached_property
    def family(self) -> Family[Any]:
        """The family of the codec."""
        return family_of(self.codec)

    @cached_property
    def quantiser(self) -> Quantiser[Any]:
        """Converts labels to codes and back."""
        return self.family.quantiser(self.codec, self.num_classes)

    @cached_property
    def labels(self) -> Packer[Any]:
        """Converts codes to columns and back."""
        return self.family.packer(self.codec, self.num_classes)

    @cached_property
    def fields(self) -> Fields:
        """The numbers at the beginning of a block."""
        names, codes = zip(("num_images", "H"), *self.mode.fields, *self.labels.fields, strict=True)
        return Fields(names, "".join(codes), self.checksums, self.any_crop)

    @property
    def any_crop(self) -> bool:
        """Whether an image has a crop of every number: the sampler gives it, and its label is known."""
        return self.family.of_places and self.sampler is not None and self.sampler.num_crops(1, 1) is None

    @property
    def derived(self) -> bool:
        """Whether crops are derived from a sampler and not stored."""
        return self.crops == DERIVED

    def pack(self, images: BlockImages) -> list[Column]:
        """Return the content of a block as columns, in order."""
        height, width = np.repeat(images.sizes, images.num_crops, axis=0).T
        crop_fields, crop_columns = self.mode.pack(images.crops, images.flips, height, width)
        label_fields, label_columns = self.labels.pack(images.codes, images.num_crops)
        values = {"num_images": len(images.keys), **crop_fields, **label_fields}
        table = np.concatenate([images.num_crops - 1, images.sizes[:, 0], images.sizes[:, 1]]).astype("<u2")
        return [
            Column("fields", self.fields.struct.pack(*(values[name] for name in self.fields.names))),
            Column("images", table.tobytes()),
            *([] if images.image_crc32s is None else [Column("checksums", images.image_crc32s.astype("<u4").tobytes(), noise=True)]),
            *crop_columns,
            *label_columns,
            Column("keys", pack_keys(images.keys), text=True),
        ]

    def unpack(
        self, contents: Sequence[bytes], block: IntArray, slot: IntArray, crops: IntArray | None, streams: IntArray | None = None
    ) -> tuple[CropRows, BlockRows]:
        """Return chosen crops of many images, and the `BlockRows` that describe them.

        Parameters
        ----------
        contents : sequence of bytes
            Contents of blocks, each of which holds at least one wanted image.
        block, slot : int64 (B,)
            For each wanted image, its block in `contents` and its position in this block.
        crops : int64 (B, N) or None
            Wanted crop numbers of each image; None for all crops of each.
        streams : int64 (B,), optional
            The crop stream of each image, needed if crops are derived.

        Raises
        ------
        CorruptError
            If a content violates the specification, or has no crop of that number.
        """
        rows = BlockRows(self.fields, contents, block, slot, crops)
        codes, _ = self.labels.unpack(rows, self.mode.end(rows, rows.after))
        found, flips = self.mode.unpack(rows, rows.after, streams)
        return CropRows(found, flips, self._placed(codes, found, rows)), rows

    def unpack_at(self, contents: Sequence[bytes], block: IntArray, slot: IntArray, each: int) -> tuple[FieldCodes, BlockRows]:
        """Return the fields of images, without crops, and rows for so many crops of each that the caller has; otherwise as `unpack`."""
        fields = Fields(self.fields.names, self.fields.codes, self.checksums, any_crop=True)
        rows = BlockRows(fields, contents, block, slot, np.zeros((len(block), each), np.int64))
        codes, _ = self.labels.unpack(rows, self.mode.end(rows, rows.after))
        assert isinstance(codes, FieldCodes)
        return codes, rows

    def _placed(self, codes: LabelCodes, crops: NDArray[Any], rows: BlockRows) -> LabelCodes:
        """Return the codes with the places of the crops, if labels depend on them."""
        if not isinstance(codes, FieldCodes):
            return codes
        return codes.at(self.edges(crops, rows.height, rows.width), rows.owner)

    def edges(self, crops: NDArray[Any], heights: IntArray, widths: IntArray) -> NDArray[np.float64]:
        """Return the edges of crops (R, 4) as fractions of the images with their padding; sizes (R,) are without."""
        if crops.dtype.kind == "f":
            return edges_of(crops, 1, 1)
        return edges_of(crops, *self.padding.around((heights, widths)))

    def unpack_all(self, content: bytes) -> BlockImages:
        """Return everything in a block; CorruptError unless it fills the content exactly."""
        num_images = int.from_bytes(content[:2], "little")
        if not num_images:
            raise CorruptError("a block has no images")
        rows = BlockRows(self.fields, [content], np.zeros(num_images, np.int64), np.arange(num_images), None)
        codes, after = self.labels.unpack(rows, self.mode.end(rows, rows.after), thorough=True)
        keys = unpack_keys(content[int(after[0]) :], num_images)
        streams = np.array([crop_stream(key) for key in keys]) if self.derived else None
        crops, flips = self.mode.unpack(rows, rows.after, streams)
        self._check_crops(rows, content, crops, flips)
        codes = self._placed(codes, crops, rows)
        return BlockImages(keys, rows.image_sizes, rows.image_rows, crops, flips, codes, rows.image_crc32s)

    def _check_crops(self, rows: BlockRows, content: bytes, crops: NDArray[Any], flips: NDArray[np.bool_]) -> None:
        if self.derived:
            if crops_crc32(crops, flips) != int(rows.field("crops_crc32")[0]):
                raise CorruptError("the crops that the sampler gives are not those that were labelled")
        elif len(flips) % 8 and content[int(rows.after[0]) + len(flips) // 8] >> len(flips) % 8:
            raise CorruptError("unused flip bits are not 0")
