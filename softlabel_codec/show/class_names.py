"""Names of classes, from a file or from the class folders of the labelled images; and which class an image lies in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.classes import class_folder, class_folders

_FORMS = 'one name to a line, a JSON list of names, or a JSON object {"number": "name"} or {"number": ["folder", "name"]}'
_WORDNET = re.compile(r"(n\d{8})\s+(\S.*)")
"""A line of ImageNet's `synset_words.txt`: folder and name."""
_DIGITS = 12


@dataclass(frozen=True)
class ClassNames:
    """What classes are called.

    Attributes
    ----------
    names : dict of int to str
        Names by class number; classes without one are called by their number.
    folders : dict of str to int
        Class numbers by class folder.
    """

    names: Mapping[int, str]
    folders: Mapping[str, int]

    def name(self, number: int) -> str:
        """Return what to call a class."""
        return self.names.get(number, f"class {number}")

    def of(self, numbers: Iterable[int]) -> dict[int, str]:
        """Return the names of some classes, as far as they have any."""
        return {number: self.names[number] for number in sorted(numbers) if number in self.names}

    def class_of(self, key: str) -> int | None:
        """Return the class of the folder that an image lies in, by its key; None if that is not known."""
        return self.folders.get(class_folder(key))


def names_of_folders(keys: Iterable[str], num_classes: int) -> ClassNames:
    """Return the class folders of images as names, if there are as many as classes; otherwise nobody knows which is which.

    Their numbers ascend as torchvision's `ImageFolder` counts them; folders with decimal names ascend as numbers.
    """
    folders = class_folders(keys)
    if len(folders) != num_classes:
        return ClassNames({}, {})
    return ClassNames(dict(enumerate(folders)), {folder: number for number, folder in enumerate(folders)})


def read_class_names(path: str | os.PathLike[str], num_classes: int) -> ClassNames:
    """Return the class names in a file.

    Parameters
    ----------
    path : path
        A list in the order of class numbers: a name to a line (a line may begin with the class folder, before a tab, or before a blank if
        all are WordNet's, as in ImageNet's `synset_words.txt`), or a JSON list of names. Or a JSON object, which may name some of the
        classes: `{"number": "name"}`, or `{"number": ["folder", "name"]}` as `imagenet_class_index.json`.
    num_classes : int
        C: as many names must a list have.

    Raises
    ------
    ArgumentError
        If the file is none of these, or names a folder twice.
    MismatchError
        If it lists more or fewer names, or has a number beyond the classes.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ArgumentError(f"{path}: expected class names as UTF-8 text, got other bytes") from None
    kind = text.lstrip()[:1]
    found = _from_json(text, path) if kind in ("{", "[") else list(enumerate(_from_lines(text)))
    numbers = [number for number, _ in found]
    if kind != "{" and len(numbers) != num_classes:
        raise MismatchError(f"{path}: expected {num_classes} class names, as many as the labels have classes, got {len(numbers)}")
    if any(number >= num_classes for number in numbers):
        raise MismatchError(f"{path}: expected numbers of {num_classes} classes, 0 to {num_classes - 1}, got {max(numbers)}")
    folders = {folder: number for number, (folder, _) in found if folder}
    if len(folders) < sum(1 for _, (folder, _) in found if folder) or len(set(numbers)) < len(numbers):
        raise ArgumentError(f"{path}: a class number or a class folder is named twice")
    return ClassNames({number: name for number, (_, name) in found}, folders)


Named = tuple[str, str]
"""Class folder, or an empty text, and name."""


def _from_lines(text: str) -> list[Named]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if all("\t" in line for line in lines):
        return [(folder.strip(), name.strip()) for folder, _, name in (line.partition("\t") for line in lines)]
    of_wordnet = [_WORDNET.fullmatch(line) for line in lines]
    return [(match[1], match[2]) if match and all(of_wordnet) else ("", line) for match, line in zip(of_wordnet, lines, strict=True)]


def _from_json(text: str, path: str | os.PathLike[str]) -> list[tuple[int, Named]]:
    try:
        values: Any = json.loads(text, object_pairs_hook=lambda pairs: pairs)  # so that a number that occurs twice is noticed
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArgumentError(f"{path}: expected {_FORMS}: {error}") from None
    if text.lstrip().startswith("["):
        values = list(enumerate(values))
    return [_named(number, value, path) for number, value in values]


def _named(number: object, value: object, path: str | os.PathLike[str]) -> tuple[int, Named]:
    place = (
        number
        if isinstance(number, int)
        else int(number)
        if isinstance(number, str) and number.isdecimal() and len(number) < _DIGITS
        else None
    )
    if place is not None and isinstance(value, str):
        return place, ("", value)
    if place is not None and isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return place, (value[0], value[1])
    raise ArgumentError(f"{path}: expected {_FORMS}, got {number!r}: {value!r:.60}")
