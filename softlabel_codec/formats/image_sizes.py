"""Sizes of the images whose crops are converted to pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from softlabel_codec.errors import MismatchError
from softlabel_codec.images.files import is_about_the_image, read_size
from softlabel_codec.images.paths import Stems, list_images, path_of_key


class ImageSizes:
    """Sizes of images by key, with the extension of the file name or without.

    Parameters
    ----------
    folder : path
        The image folder.
    parts : int
        Number of path components at the end that make up a key; all if 0.
    """

    def __init__(self, folder: str | os.PathLike[str], parts: int = 0) -> None:
        self._folder = Path(folder)
        names = list_images(folder)
        self._whole = frozenset(names)
        self._names = Stems(names, parts)

    def reader(self, key: str) -> Callable[[], tuple[int, int]]:
        """Return a function, which can be pickled, that returns height and width of an image; or raises MismatchError if there is none of
        this key, or no readable one.
        """  # noqa: D205
        try:
            name = key if key in self._whole else self._names.find(key)
        except MismatchError as error:
            return partial(_fail, str(error))
        if name is None:
            return partial(_fail, f"no image for the key {key!r} in {self._folder}")
        return partial(_size_of, self._folder, name)


def _fail(message: str) -> tuple[int, int]:
    raise MismatchError(message)


def _size_of(folder: Path, name: str) -> tuple[int, int]:
    try:
        return read_size(path_of_key(folder, name))
    except OSError as error:
        if not is_about_the_image(error):
            raise
        raise MismatchError(f"image {name!r}: {error}") from None
