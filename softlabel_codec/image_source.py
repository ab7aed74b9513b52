"""`ImageSource`: what labelling and training need of a place where images lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import os

    from PIL import Image

ImageData: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""What one image may be: the path or the bytes of an image file, a PIL image, or a uint8 array (H, W, 3) or (H, W)."""


@runtime_checkable
class ImageSource(Protocol):
    """Images by key. Any object with these three methods will do.

    `softlabel_codec.images.open_images` makes one of a folder, WebDataset shards, Parquet files and so on. A source is pickled for worker
    processes: it should open files when it reads them, and must not hold open ones. Several threads may read at once if it returns bytes.

    A source may also have a method `where(key) -> str`: what to call an image in errors. By default that is its key.

    Examples
    --------
    >>> class Numbered:
    ...     def keys(self):
    ...         return ["0", "1"]
    ...     def read(self, key):
    ...         return np.full((8, 8, 3), int(key), np.uint8)
    ...     def targets(self):
    ...         return None
    >>> isinstance(Numbered(), ImageSource)
    True
    """

    def keys(self) -> Sequence[str]:
        """Return the keys of all images, each once, in an order that stays the same. Images are labelled in this order."""
        ...

    def read(self, key: str) -> ImageData:
        """Return an image: the bytes of its file if it has one; else a PIL image or a uint8 array.

        Labels keep a checksum of bytes, so that other images of the same names are noticed. Of anything else they keep none.

        Raises
        ------
        KeyError
            If there is no such key.
        OSError
            If the image cannot be read.
        """
        ...

    def targets(self) -> NDArray[np.int64] | None:
        """Return the number of the class of each image, int64 (n,), in the order of `keys`; None if the source does not know them."""
        ...


def name_of(source: ImageSource) -> str:
    """Return what to call a source in errors."""
    return type(source).__name__ if type(source).__str__ is object.__str__ else str(source)


def where_is(source: ImageSource, key: str) -> str:
    """Return what to call an image of a source in errors."""
    where = getattr(source, "where", None)
    return str(where(key)) if callable(where) else key
