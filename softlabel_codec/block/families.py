"""The parts of a codec family, and the registry of all families.

A family (`sparse`, `dense`, `field`) is one way to store the labels of crops. Each file has one codec, which belongs to one family.
Code outside a family never interprets its codes; it gets the parts of the family from this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from softlabel_codec.block.columns import Column, IntArray
from softlabel_codec.block.dense import dense_packer
from softlabel_codec.block.field import FieldPacker
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.block.sparse import SparsePacker
from softlabel_codec.block.sparse_one_image import SparseOneImage
from softlabel_codec.codec import Codec
from softlabel_codec.labels import Labels
from softlabel_codec.quantise.dense import DenseCodes, DenseQuantiser
from softlabel_codec.quantise.field import FieldCodes, FieldQuantiser
from softlabel_codec.quantise.places import Places
from softlabel_codec.quantise.sparse import SparseCodes, SparseQuantiser

LabelCodes = SparseCodes | DenseCodes | FieldCodes
"""The labels of R crops as integers, of any family."""
Codes = TypeVar("Codes")


class Quantiser(Protocol[Codes]):
    """Converts the caller's input to codes, and codes to labels, whose `dense` returns the targets. One instance per file."""

    def quantise(self, labels: Mapping[str, Any], num_crops: int, places: Places | None = None) -> Codes:
        """Return the codes of an image's labels, passed by name as to `SoftLabelWriter.add`; ArgumentError if they are invalid.

        `places` say where the crops are; they are there if labels of the family depend on it.
        """

    def dequantise(self, codes: Codes, policy: str) -> Labels:
        """Return the labels that codes represent; CorruptError if they are not valid labels."""

    def concatenate(self, parts: Sequence[Codes]) -> Codes:
        """Return the rows of the codes of several images (at least one), one image after another."""

    def rows(self, codes: Codes, rows: slice, image: int) -> Codes:
        """Return the codes of some rows, at least one, all of the image with this place among those of `codes`."""

    def policy(self, asked: str | None) -> str:
        """Return the remainder policy to read with, by default the codec's; ArgumentError if it does not fit these labels."""

    def num_entries(self, codes: Codes) -> tuple[int, int, int]:
        """Return the number of classes kept by all crops of an image, kept by the crop that keeps the most, and listed in its tail."""

    def expected_bytes(self, codes: Codes) -> int:
        """Return the approximate number of bytes that the codes of an image take in columns before compression."""

    def most_bytes(self, codes: Codes) -> int:
        """Return an upper bound of this number."""


class Packer(Protocol[Codes]):
    """Converts codes to the label columns of a block, and back. One instance per file."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""

    def pack(self, codes: Codes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the fields and columns of the labels of a block, whose images have `num_crops` crops, int64 (n,)."""

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[Codes, IntArray]:
        """Return the codes of the wanted crops, whose label columns begin at `at`, int64 (R,), and where the columns end.

        CorruptError if they violate the specification; `thorough` also checks what these crops do not need.
        """


class OneImage(Protocol):
    """Converts the label columns of a block directly to the labels of a few crops of one image. One instance per file."""

    def labels(self, content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int], slot: int) -> Labels:
        """Return the labels of crops at some positions in a block; CorruptError if its columns violate the specification.

        Parameters
        ----------
        content : bytes
            Content of the block.
        fields : dict
            Its fields.
        at : int
            Where its label columns begin.
        num_crops : int
            Number of its crops.
        rows : list of int
            Positions of the wanted crops among these, all of one image.
        slot : int
            Position of that image in the block.
        """


@dataclass(frozen=True)
class Family(Generic[Codes]):
    """The parts of a family.

    Attributes
    ----------
    quantiser : callable
        Makes the `Quantiser` for a codec and a number of classes.
    packer : callable
        Makes the `Packer` for the same.
    one_image : callable or None
        Makes the `OneImage`, if there is one, for a codec, a number of classes and a remainder policy. It only affects speed.
    of_places : bool
        Whether labels are a function of where a crop is, so that those of any crop are known.
    """

    quantiser: Callable[[Codec, int], Quantiser[Codes]]
    packer: Callable[[Codec, int], Packer[Codes]]
    one_image: Callable[[Codec, int, str], OneImage] | None = None
    of_places: bool = False


FAMILIES: dict[str, Family[Any]] = {
    "sparse": Family(SparseQuantiser, SparsePacker, SparseOneImage),
    "dense": Family(DenseQuantiser, dense_packer),
    "field": Family(FieldQuantiser, FieldPacker, of_places=True),
}


def family_of(codec: Codec) -> Family[Any]:
    """Return the family of a codec."""
    return FAMILIES[codec.family]


def label_quantiser(codec: Codec, num_classes: int) -> Quantiser[Any]:
    """Return the quantiser of a codec."""
    return family_of(codec).quantiser(codec, num_classes)
