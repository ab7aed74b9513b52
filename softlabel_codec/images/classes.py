"""Which class an image belongs to, by the folder that it lies in; and by what images and classes are told from others."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageSource
from softlabel_codec.reader import SoftLabelReader

_CROPS_COMPARED = 200
_BETTER_THAN_CHANCE = 3


def class_folder(key: str) -> str:
    """Return the class folder of an image, the first part of its key; an empty text if it lies in none."""
    return key.partition("/")[0] if "/" in key else ""


def class_folders(keys: Iterable[str]) -> list[str]:
    """Return the class folders of images, the first parts of their keys, in the order of their class numbers.

    That is ascending order, of numbers if all are decimal (10 comes after 9), else of text.
    """
    names = {class_folder(key) for key in keys} - {""}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def unknown_classes(folder: str | os.PathLike[str], found: int, num_classes: int | None) -> str:
    """Return what to say where nobody can know which of `num_classes` classes the folders are."""
    counts = f"has {counted(found, 'class folder')}, expected {num_classes}"
    return f"{folder}: {counts}. Say with --classes FILE which class folder has which number"


def read_class_folders(path: str | os.PathLike[str], num_classes: int | None = None) -> list[str]:
    """Return the class folders that a file names, by their numbers; an empty text for a number that no folder has.

    Parameters
    ----------
    path : path
        Either a list: one folder to a line in the order of their numbers; what follows a blank is left out. Or a JSON object, which may
        name some of the classes only: `{"folder": number, ...}`, or `{"number": ["folder", "name"], ...}`, as `imagenet_class_index.json`.
    num_classes : int, optional
        Number of classes, if known: as many has the result for a JSON object.

    Raises
    ------
    ArgumentError
        If a folder or a number occurs twice, or the file is neither.
    MismatchError
        If a number is beyond the classes.
    """
    text = Path(path).read_text(encoding="utf-8")
    if text.lstrip().startswith("{"):
        return _by_number(_read_object(text, path), num_classes, path)
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise ArgumentError(f"{path}: a class folder is listed twice")
    return names


def _read_object(text: str, path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Return folders and numbers that a JSON object names."""
    try:
        pairs = json.loads(text, object_pairs_hook=lambda found: found)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{path}: expected a JSON object, or class folders, one to a line: {error}") from None
    return [_folder_and_number(name, value, path) for name, value in pairs]


def _folder_and_number(name: str, value: Any, path: str | os.PathLike[str]) -> tuple[str, int]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0 and name:
        return name, value
    if isinstance(value, list) and value and isinstance(value[0], str) and value[0] and name.isdecimal():
        return value[0], int(name)
    raise ArgumentError(f'{path}: expected {{"folder": number}} or {{"number": ["folder", "name"]}}, got {name!r}: {value!r:.60}')


def _by_number(pairs: Sequence[tuple[str, int]], num_classes: int | None, path: str | os.PathLike[str]) -> list[str]:
    last = max((number for _, number in pairs), default=-1)
    if num_classes is not None and last >= num_classes:
        raise MismatchError(f"{path}: expected numbers of {num_classes} classes, 0 to {num_classes - 1}, got {last}")
    folders, named = [""] * (last + 1 if num_classes is None else num_classes), set()
    for folder, number in pairs:
        if folders[number] or folder in named:
            raise ArgumentError(f"{path}: class {number} or the folder {folder!r} is named twice")
        folders[number] = folder
        named.add(folder)
    return folders


def classes_of(keys: Sequence[str], folders: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return the class number of each image, int64 (n,): the place of its folder among `folders`, where empty ones are nobody's.

    Where images lie in none of them, but all in folders with decimal names, as in ImageNetV2, these are the numbers (unless those known
    are decimal too, and may count otherwise).

    Raises
    ------
    MismatchError
        If an image lies in no class folder.
    """
    numbers = {name: number for number, name in enumerate(folders) if name}
    names = class_folders(keys)
    decimal = all(name.isdecimal() and int(name) < len(folders) for name in names) and not all(name.isdecimal() for name in numbers)
    if decimal and not all(name in numbers for name in names):
        numbers = {name: int(name) for name in names}
    known = sum(1 for name in folders if name)
    for key in keys:
        if class_folder(key) not in numbers:
            advice = "Say with --classes FILE which class folder has which number"
            raise MismatchError(f"{where}: the image {key!r} lies in none of the {counted(known, 'class folder')}. {advice}")
    return np.array([numbers[class_folder(key)] for key in keys], np.int64)


def warn_of_other_classes(reader: SoftLabelReader, classes: NDArray[np.int64]) -> None:
    """Warn if labels agree with the class folders hardly more often than by chance: their numbers are probably others."""
    chosen = np.unique(np.linspace(0, len(classes) - 1, _CROPS_COMPARED).astype(np.int64)) if len(classes) else np.zeros(0, np.int64)
    labels = reader.read_batch(chosen, np.zeros((len(chosen), 1), np.int64))
    top = np.array([int(image.labels.top1[0]) for image in labels])
    agreement = float((top == classes[labels.images]).mean()) if len(top) else 1.0
    chance = 1 / reader.num_classes
    if agreement < min(_BETTER_THAN_CHANCE * chance, (1 + chance) / 2):  # with few classes, three times chance is more than always
        advice = "If class folders are not numbered in ascending order, say which has which number, with --classes FILE or target_of="
        found = f"{reader.path}: its labels agree with the class folders for only {agreement:.1%} of the images"
        warnings.warn(f"{found}. {advice}", stacklevel=2)


def images_sha256(source: ImageSource, keys: Sequence[str], classes: NDArray[np.int64] | None) -> str:
    """Return a fingerprint of images in any order: key, class, and number of bytes of each, if the source knows it without reading it.

    Their pixels are not looked at, which would take as long as an epoch; an image that was changed hardly ever has the same length.
    """
    known = classes if classes is not None else [""] * len(keys)
    length_of = getattr(source, "length_of", lambda key: "")
    return keys_sha256(sorted(f"{key}\0{number}\0{length_of(key)}".encode() for key, number in zip(keys, known, strict=True)))
