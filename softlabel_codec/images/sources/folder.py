"""Images in a folder, and images in a mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageData
from softlabel_codec.images.classes import class_folders, classes_of
from softlabel_codec.images.paths import list_images, list_others, path_of_key


@dataclass(frozen=True)
class FolderSource:
    """Image files in a folder and its subfolders. Keys are their relative paths with `/`, in ascending order.

    Attributes
    ----------
    folder : Path
        The folder.
    """

    folder: Path

    def keys(self) -> list[str]:
        try:
            return list_images(self.folder)
        except ArgumentError as error:
            others = next((suffix for suffix in (".tar", ".parquet") if any(self.folder.glob(f"*{suffix}"))), None)
            if others is None:
                raise
            raise ArgumentError(f"{error}. To read {others} files, name them: '{self.folder / f'*{others}'}'") from None

    def read(self, key: str) -> bytes:
        return self.path_of(key).read_bytes()

    def targets(self) -> NDArray[np.int64] | None:
        keys = self.keys()
        try:
            return classes_of(keys, class_folders(keys), str(self.folder))
        except MismatchError:
            return None

    def where(self, key: str) -> str:
        return str(self.path_of(key))

    def path_of(self, key: str) -> Path:
        """Return the file of an image."""
        return path_of_key(self.folder, key)

    def length_of(self, key: str) -> int:
        """Return the number of bytes of an image's file."""
        return self.path_of(key).stat().st_size

    def other_files(self) -> list[str]:
        """Return the relative paths of files that are left out because they are not named like images."""
        return list_others(self.folder)

    def __str__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True, eq=False)
class MappingSource:
    """Images in a mapping of keys to paths, bytes of image files, PIL images or uint8 arrays.

    Attributes
    ----------
    images : mapping
        The mapping.
    """

    images: Mapping[str, ImageData]

    def keys(self) -> Sequence[str]:
        return list(self.images)

    def read(self, key: str) -> ImageData:
        image = self.images[key]
        return Path(image).read_bytes() if isinstance(image, str | os.PathLike) else image

    def targets(self) -> None:
        return None

    def where(self, key: str) -> str:
        path = self._path_of(key)
        return key if path is None else str(path)

    def _path_of(self, key: str) -> Path | None:
        image = self.images[key]
        return Path(image) if isinstance(image, str | os.PathLike) else None

    def __str__(self) -> str:
        return f"the {type(self.images).__name__} of images"
