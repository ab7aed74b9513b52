"""Finds labelled images by key, in a folder or a mapping."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.files import Stems, list_images, path_of_key, subfolder_of_keys
from softlabel_codec.reader import SoftLabelReader

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
Images = str | os.PathLike[str] | Mapping[str, ImageSource]
Finder = Callable[[int, str], ImageSource]
ON_MISSING = ("raise", "skip")
_NAMED = 3
_CALLER = 3
"""Frames from a warning here to who makes a dataset."""


def find_images(
    images: Images, reader: SoftLabelReader, keys: Iterable[str] | None = None, on_missing: str = "raise"
) -> tuple[Finder, NDArray[np.int64] | None, int]:
    """Look for the images of a label file, or for some of them.

    Parameters
    ----------
    images : path, or mapping of key to image
        Where they are.
    reader : SoftLabelReader
        The label file.
    keys : iterable of str, optional
        Keys of the images that are wanted, in this order. All of the file if not given.
    on_missing : str
        What to do if wanted images are missing: `raise` an error, or `skip` them with a warning.

    Returns
    -------
    finder : callable
        Maps number (in the file) and key of an image to an argument of `load_image`.
    numbers : int64 (n,) or None
        Numbers in the file of the wanted images that were found; None: all.
    num_missing : int
        Number of wanted images that are missing.

    Raises
    ------
    MismatchError
        If wanted images are missing, and not to be skipped, or none is left; or a key is not in the file.
    ArgumentError
        If a key is given twice, or `on_missing` is something else.
    """
    if on_missing not in ON_MISSING:
        raise ArgumentError(f"on_missing: expected {' or '.join(ON_MISSING)}, got {on_missing!r}")
    wanted = None if keys is None else _numbers_of(keys, reader)
    search = _in_mapping if isinstance(images, Mapping) else _in_folder
    found = search(images, len(reader), enumerate(reader.keys) if wanted is None else ((n, reader.keys[n]) for n in wanted.tolist()))
    _say_missing(found, len(reader) if wanted is None else len(wanted), reader, on_missing)
    unlabelled = found.others - set(reader.summary.get("skipped_keys", [])) if wanted is None else None
    if unlabelled:
        have, are = ("has", "is") if len(unlabelled) == 1 else ("have", "are")
        also = f"{counted(len(unlabelled), 'image')} in {found.where} {have} no labels in {reader.path} and {are} left out"
        warnings.warn(f"{also}, {min(unlabelled)!r} first", stacklevel=_CALLER)
    if found.missing:
        wanted = np.arange(len(reader)) if wanted is None else wanted
        wanted = wanted[~np.isin(wanted, found.missing)]
    return found.finder, wanted, len(found.missing)


def _numbers_of(keys: Iterable[str], reader: SoftLabelReader) -> NDArray[np.int64]:
    asked = [keys] if isinstance(keys, str) else list(keys)
    found = [reader.keys.find(key) if isinstance(key, str) else None for key in asked]
    unknown = [key for key, number in zip(asked, found, strict=True) if number is None]
    if unknown or not asked:
        raise MismatchError(f"{reader.path}: keys: expected keys of labelled images, got {_named(unknown)}")
    numbers = np.array(found, np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise ArgumentError("keys: expected each key once")
    return numbers


class _Found(NamedTuple):
    """Result of a search: numbers of missing images, and names of images without labels."""

    finder: Finder
    where: str
    missing: list[int]
    others: set[str]


def _say_missing(found: _Found, num_wanted: int, reader: SoftLabelReader, on_missing: str) -> None:
    if not found.missing:
        return
    named = _named([reader.keys[number] for number in found.missing[: _NAMED + 1]])
    text = f"{reader.path}: {len(found.missing)} of {num_wanted} labelled images are not in {found.where}"
    none_is_left = len(found.missing) == num_wanted
    if on_missing == "raise" or none_is_left:
        folder = subfolder_of_keys(found.others, [reader.keys[number] for number in found.missing])
        advice = "None is left" if on_missing == "skip" else "Leave them out with on_missing='skip'"
        raise MismatchError(f"{text}: {named}. {advice if folder is None else f'They are in {Path(found.where) / folder}'}")
    warnings.warn(f"{text} and are left out: {named}", stacklevel=_CALLER + 1)


def _named(keys: list[Any]) -> str:
    return ", ".join(repr(key) for key in keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "") if keys else "none"


def _in_mapping(images: Any, num_labelled: int, wanted: Iterable[tuple[int, str]]) -> _Found:
    missing = [number for number, key in wanted if key not in images]
    return _Found(_OfMapping(images), f"the {type(images).__name__} of images", missing, set())


def _in_folder(images: Any, num_labelled: int, wanted: Iterable[tuple[int, str]]) -> _Found:
    """Look for each key; for keys without extension, such as FKD's, look for a file with that stem."""
    folder = Path(images)
    others = set(list_images(folder))
    endings, of_image, missing = [""], np.zeros(num_labelled, np.uint8), []
    stems: Stems | None = None
    for number, key in wanted:
        if key in others:
            others.discard(key)
            continue
        stems = stems or Stems(others)
        name = stems.find(key)
        if name is None:
            missing.append(number)
            continue
        others.discard(name)
        ending = name[len(key) :]
        if ending not in endings:
            endings.append(ending)
        of_image[number] = endings.index(ending)
    return _Found(_OfFolder(folder, endings, of_image if len(endings) > 1 else None), str(folder), missing, others)


@dataclass(frozen=True, eq=False)
class _OfMapping:
    images: Mapping[str, ImageSource]

    def __call__(self, number: int, key: str) -> ImageSource:
        return self.images[key]


@dataclass(frozen=True, eq=False)
class _OfFolder:
    folder: Path
    endings: Sequence[str]
    ending_of_image: NDArray[np.uint8] | None

    def __call__(self, number: int, key: str) -> ImageSource:
        ending = "" if self.ending_of_image is None else self.endings[self.ending_of_image[number]]
        return path_of_key(self.folder, key + ending)
