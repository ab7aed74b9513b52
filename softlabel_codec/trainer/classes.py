"""Which class an image belongs to, by the folder that it lies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.wording import counted


def class_folders(keys: Iterable[str]) -> list[str]:
    """Return the class folders of images, the first parts of their keys, in the order of their class numbers.

    That is ascending order, of numbers if all are decimal (10 comes after 9), else of text.
    """
    names = {_folder(key) for key in keys} - {""}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def unknown_classes(folder: str | os.PathLike[str], found: int, num_classes: int | None) -> str:
    """Return what to say where nobody can know which of `num_classes` classes the folders are."""
    counts = f"has {counted(found, 'class folder')}, expected {num_classes}"
    return f"{folder}: {counts}. Say with --classes FILE which class folder has which number"


def read_class_folders(path: str | os.PathLike[str]) -> list[str]:
    """Return the class folders that a file lists, one to a line in the order of their numbers; what follows a blank is left out."""
    names = [line.split()[0] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{path}: a class folder is listed twice")
    return names


def classes_of(keys: Sequence[str], folders: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return the class number of each image, int64 (n,): the place of its folder among `folders`.

    Where images lie in none of them, but all in folders with decimal names, as in ImageNetV2, these are the numbers (unless those known
    are decimal too, and may count otherwise).

    Raises
    ------
    MismatchError
        If an image lies in no class folder.
    """
    numbers = {name: number for number, name in enumerate(folders)}
    names = class_folders(keys)
    decimal = all(name.isdecimal() and int(name) < len(folders) for name in names) and not all(name.isdecimal() for name in folders)
    if decimal and not all(name in numbers for name in names):
        numbers = {name: int(name) for name in names}
    for key in keys:
        if _folder(key) not in numbers:
            advice = "Say with --classes FILE which class folder has which number"
            raise MismatchError(f"{where}: the image {key!r} lies in none of the {counted(len(folders), 'class folder')}. {advice}")
    return np.array([numbers[_folder(key)] for key in keys], np.int64)


def _folder(key: str) -> str:
    return key.partition("/")[0] if "/" in key else ""
