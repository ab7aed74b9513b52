"""`StoredLabels`: what a reader needs of labels, whether they are in one file or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.layout import Layout
from softlabel_codec.container.key_sequence import KeySequence
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.storage.location import Location

if TYPE_CHECKING:
    from softlabel_codec.container.open_container import OpenContainer


class ImagesOfFile(NamedTuple):
    """Those images of a batch that are in the same file.

    Attributes
    ----------
    container : OpenContainer
        The file.
    places : slice or int64 (n,)
        Which images of the batch they are. A slice if it is all.
    numbers : int64 (n,)
        Their numbers in that file.
    """

    container: OpenContainer
    places: slice | NDArray[np.int64]
    numbers: NDArray[np.int64]


class StoredLabels(Protocol):
    """Labels of images, numbered through: those in a file, or in the files of a set.

    Attributes
    ----------
    path : Path or Url
        The file, or the index of the set.
    description : Description
        What the metadata section of each file says.
    layout : Layout
        How the blocks of each file are laid out.
    num_images, total_crops, num_bytes : int
        How many images, crops and bytes there are in all.
    num_crops : int64 (num_images,), or something that gives them by number, (int) or (B,), and as an array
        Number of crops of each image.
    keys : KeySequence
        Keys of all images.
    summary : dict
        What is known only at the end of writing.
    fingerprint : str
        64 hex digits that differ if anything in any file differs.
    """

    @property
    def path(self) -> Location: ...
    @property
    def description(self) -> Description: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def num_images(self) -> int: ...
    @property
    def total_crops(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_crops(self) -> Any: ...
    @property
    def keys(self) -> KeySequence: ...
    @property
    def summary(self) -> Plain: ...
    @property
    def fingerprint(self) -> str: ...

    def file_of(self, number: int) -> tuple[OpenContainer, int]:
        """Return the open file that holds an image, and the number of the image there."""

    def files_of(self, numbers: NDArray[np.int64]) -> Iterator[Sequence[ImagesOfFile]]:
        """Yield the open files that hold some images (B,), as many at a time as may be open together."""

    def close(self) -> None:
        """Close all files. Closing twice is allowed."""
