"""What a family of codecs is made of, and the registry of all families.

A family (`sparse`, `dense`) is one way to store the labels of crops. A file is of one codec, and a codec of one family; nothing outside
of it looks inside its codes. The rest of the package asks for its parts here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from softlabel_codec.block.columns import Column, IntArray
from softlabel_codec.block.dense import DensePacker
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.block.sparse import SparsePacker
from softlabel_codec.block.sparse_one_image import SparseOneImage
from softlabel_codec.codec import Codec
from softlabel_codec.labels import Labels
from softlabel_codec.quantise.dense import DenseCodes, DenseQuantiser
from softlabel_codec.quantise.sparse import SparseCodes, SparseQuantiser

LabelCodes = SparseCodes | DenseCodes
"""The labels of R crops as integers, of any family."""
Codes = TypeVar("Codes")


class Quantiser(Protocol[Codes]):
    """From what the caller gives to codes, and from codes to labels, whose `dense` are the targets. One instance serves a file."""

    def quantise(self, labels: Mapping[str, Any], num_crops: int) -> Codes:
        """Return the codes of an image's labels, given by name as `SoftLabelWriter.add` takes them; ArgumentError if they cannot be."""

    def dequantise(self, codes: Codes, policy: str) -> Labels:
        """Return the labels that codes stand for; CorruptError if they cannot be labels."""

    def concatenate(self, parts: Sequence[Codes]) -> Codes:
        """Return the rows of the codes of several images (at least one), one image after another."""

    def policy(self, asked: str | None) -> str:
        """Return the remainder policy to read with, None for the codec's own; ArgumentError if it does not fit these labels."""

    def num_entries(self, codes: Codes) -> tuple[int, int, int]:
        """Return how many classes are kept by all crops of an image, by the crop that keeps the most, and listed in its tail."""

    def expected_bytes(self, codes: Codes) -> int:
        """Return about how many bytes the columns of the codes of an image will have before compression."""

    def most_bytes(self, codes: Codes) -> int:
        """Return an upper bound of the same."""


class Packer(Protocol[Codes]):
    """From codes to the label columns of a block, and back. One instance serves a file."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""

    def pack(self, codes: Codes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the fields and columns of the labels of a block, whose images have `num_crops` crops, int64 (n,)."""

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[Codes, IntArray]:
        """Return the codes of the wanted crops, whose label columns begin at `at`, int64 (R,), and where the columns end.

        CorruptError if they cannot be what the specification says; `thorough` also looks at what these crops do not need.
        """


class OneImage(Protocol):
    """From the label columns of a block straight to the labels of a few crops of one image. One instance serves a file."""

    def labels(self, content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int], slot: int) -> Labels:
        """Return the labels of crops at some places of a block; CorruptError if its columns are not what the specification says.

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
            Places of the wanted crops among these; they are of one image.
        slot : int
            Place of that image among the images of the block.
        """


@dataclass(frozen=True)
class Family(Generic[Codes]):
    """The parts of a family.

    Attributes
    ----------
    quantiser : callable
        Makes the `Quantiser` of a codec and a number of classes.
    packer : callable
        Makes its `Packer`, likewise.
    one_image : callable or None
        Makes its `OneImage` of a codec, a number of classes and a remainder policy, if it has one. Only speed depends on it.
    """

    quantiser: Callable[[Codec, int], Quantiser[Codes]]
    packer: Callable[[Codec, int], Packer[Codes]]
    one_image: Callable[[Codec, int, str], OneImage] | None = None


FAMILIES: dict[str, Family[Any]] = {
    "sparse": Family(SparseQuantiser, SparsePacker, SparseOneImage),
    "dense": Family(DenseQuantiser, DensePacker),
}


def family_of(codec: Codec) -> Family[Any]:
    """Return the family of a codec."""
    return FAMILIES[codec.family]


def label_quantiser(codec: Codec, num_classes: int) -> Quantiser[Any]:
    """Return the quantiser of a codec."""
    return family_of(codec).quantiser(codec, num_classes)
