"""Which class an image belongs to, by the folder that it lies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, MismatchError


def class_folders(keys: Iterable[str]) -> list[str]:
    """Return the class folders of images, the first parts of their keys, in ascending order, which is that of their class numbers."""
    return sorted({_folder(key) for key in keys} - {""})


def read_class_folders(path: str | os.PathLike[str]) -> list[str]:
    """Return the class folders that a file lists, one to a line in the order of their numbers; what follows a blank is left out."""
    names = [line.split()[0] for line in Path(path).read_text().splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{path}: a class folder is listed twice")
    return names


def classes_of(keys: Sequence[str], folders: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return the class number of each image, int64 (n,): the place of its folder among `folders`.

    Where images lie in none of them, but all in folders with decimal names, as in ImageNetV2, these are the numbers.

    Raises
    ------
    MismatchError
        If an image lies in no class folder.
    """
    numbers = {name: number for number, name in enumerate(folders)}
    names = class_folders(keys)
    if not all(name in numbers for name in names) and all(name.isdecimal() and int(name) < len(folders) for name in names):
        numbers = {name: int(name) for name in names}
    for key in keys:
        if _folder(key) not in numbers:
            advice = "Say with --classes FILE which class folder has which number"
            raise MismatchError(f"{where}: the image {key!r} lies in none of the {len(folders)} class folders. {advice}")
    return np.array([numbers[_folder(key)] for key in keys], np.int64)


def _folder(key: str) -> str:
    return key.partition("/")[0] if "/" in key else ""
