"""What a source of labels is, whatever its format: what it has to say of itself, and its images; and what an import reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.formats.labels import Kind
from softlabel_codec.sampler import CropSampler

PIXELS, DERIVED, NO_CROPS = "pixels", "derived", "unknown"


@dataclass(frozen=True)
class Found:
    """What a source holds, as far as it is known before all of it was read.

    Attributes
    ----------
    format : str
        Its format.
    kind : Kind
        What the labels are.
    num_images, num_crops : int
        Contents; crops counted as if all images had as many as the first, where images may differ.
    crops : str
        How crops are given: `pixels`, `fractions:f32`, `fractions:f16`, `unknown`; or `derived`: they are those of a sampler of ours.
    source_bytes : int
        Size of its files.
    provenance : dict
        What the metadata of the file say of it.
    metadata : dict
        Metadata that the source has from a label file of ours.
    stored_as : Codec or None
        The codec that its labels had in that file.
    image_checksums : bool
        Whether it has the checksums of the images' files.
    lost : tuple of str
        What a container file cannot keep, a line each.
    why_no_crops : str
        Why crops are unknown, if they are.
    sampler : CropSampler or None
        The sampler of derived crops.
    """

    format: str
    kind: Kind
    num_images: int
    num_crops: int
    crops: str
    source_bytes: int
    provenance: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    stored_as: Codec | None = None
    image_checksums: bool = False
    lost: tuple[str, ...] = ()
    why_no_crops: str = ""
    sampler: CropSampler | None = None


class SourceImage(NamedTuple):
    """One image of a source. Labels are as `softlabel_codec.formats.labels.checked` returns them; without crops there are no flips.

    What was `repaired` is counted, for the report: how often, by what.
    """

    labels: dict[str, NDArray[Any]]
    crops: NDArray[Any] | None = None
    flips: NDArray[np.bool_] | None = None
    image_size: tuple[int, int] | None = None
    image_crc32: int | None = None
    repaired: Mapping[str, int] = {}


class Entry(NamedTuple):
    """An image that a source comes to: its key, where it is in words, and a function that returns its contents.

    `held_bytes` are those of its contents that are in memory already.
    """

    key: str
    where: str
    load: Callable[[], SourceImage]
    held_bytes: int = 0


class Sizes(Protocol):
    """Sizes of the images."""

    def reader(self, key: str) -> Callable[[], tuple[int, int]]:
        """Return a function, which can be pickled, that returns height and width of an image, or raises MismatchError."""


class LabelSource(Protocol):
    """Label files of another project."""

    @property
    def found(self) -> Found:
        """What they hold."""

    def entries(self) -> Iterator[Entry]:
        """Yield all images, in the order of the files. What is wrong with a single image is raised by its `load`."""


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes
    ----------
    path : str
        The finished file.
    codec : str
        Its codec.
    num_images, num_crops : int
        Contents of the file.
    uncertain_crops : int
        Crops in float16 of images so large that the fractions do not determine the pixels.
    skipped : dict
        Keys of images whose labels could not be read, and why.
    source_bytes, file_bytes : int
        Bytes of all label files, and of the container file.
    seconds : float
        Time taken.
    format : str
        What was read.
    labels : str
        What labels it has, in words.
    lost, notes : list of str
        What the container file does not keep, and what this run had to repair, a line each.
    """

    path: str
    codec: str
    num_images: int
    num_crops: int
    uncertain_crops: int
    skipped: dict[str, str]
    source_bytes: int
    file_bytes: int
    seconds: float
    format: str = ""
    labels: str = ""
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
