"""Finds the images of a label file by key, in any source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageData, ImageSource, name_of, where_is
from softlabel_codec.images.paths import Stems, subfolder_of_keys
from softlabel_codec.images.sources import FolderSource, MappingSource, open_images
from softlabel_codec.reader import SoftLabelReader

ON_MISSING = ("raise", "skip")
_NAMED = 3
_CALLER = 3
"""Frames from a warning here to who makes a dataset."""


KeyOf = Callable[[str], str]


def find_images(
    images: Any,
    reader: SoftLabelReader,
    keys: Iterable[str] | None = None,
    on_missing: str = "raise",
    key_of: KeyOf | None = None,
    advice: str = "Leave them out with on_missing='skip'",
) -> tuple[FoundImages, NDArray[np.int64] | None, int]:
    """Look for the images of a label file, or for some of them.

    Parameters
    ----------
    images : path, mapping, array, dataset or ImageSource
        Where they are, as for `open_images`.
    reader : SoftLabelReader
        The label file.
    keys : iterable of str, optional
        Keys of the images that are wanted, in this order. All of the file if not given.
    on_missing : str
        What to do if wanted images are missing: `raise` an error, or `skip` them with a warning.
    key_of : callable, optional
        Returns the key in `images` of an image, given its key in the label file. By default they are equal.
    advice : str
        What to do about missing images, in the words of the caller's user.

    Returns
    -------
    found : FoundImages
        Reads images by their numbers and keys in the file.
    numbers : int64 (n,) or None
        Numbers in the file of the wanted images that were found; None: all.
    num_missing : int
        Number of wanted images that are missing.

    Raises
    ------
    MismatchError
        If wanted images are missing, and not to be skipped, or none is left; a key is not in the file; or `key_of` returns the same key
        for two images.
    ArgumentError
        If a key is given twice, `on_missing` is something else, or `key_of` returns something that is no key.

    Others are those of `open_images`.
    """
    if on_missing not in ON_MISSING:
        raise ArgumentError(f"on_missing: expected {' or '.join(ON_MISSING)}, got {on_missing!r}")
    wanted = None if keys is None else _numbers_of(keys, reader)
    source = open_images(images)
    search = _in_mapping if isinstance(source, MappingSource) else _in_source
    pairs: Iterable[tuple[int, str]] = enumerate(reader.keys) if wanted is None else ((n, reader.keys[n]) for n in wanted.tolist())
    found = search(source, len(reader), pairs if key_of is None else _translated(pairs, key_of))
    found = found._replace(images=replace(found.images, key_of=key_of))
    _say_missing(found, len(reader) if wanted is None else len(wanted), reader, on_missing, advice)
    unlabelled = _not_skipped(found.others, reader, key_of) if wanted is None else set()
    if unlabelled:
        have, are = ("has", "is") if len(unlabelled) == 1 else ("have", "are")
        also = f"{counted(len(unlabelled), 'image')} in {name_of(found.images.source)} {have} no labels in {reader.path} and {are} left out"
        warnings.warn(f"{also}, {min(unlabelled)!r} first", stacklevel=_CALLER)
    if found.missing:
        wanted = np.arange(len(reader)) if wanted is None else wanted
        wanted = wanted[~np.isin(wanted, found.missing)]
    return found.images, wanted, len(found.missing)


def _not_skipped(names: set[str], reader: SoftLabelReader, key_of: KeyOf | None) -> set[str]:
    """Return the names of images without labels that the teacher did not skip."""
    skipped = reader.summary.get("skipped_keys", []) if names else []
    return names - set(skipped if key_of is None else map(key_of, skipped))


def _translated(pairs: Iterable[tuple[int, str]], key_of: KeyOf) -> Iterator[tuple[int, str]]:
    """Yield numbers and keys of images, with what `key_of` makes of the keys."""
    if not callable(key_of):
        raise ArgumentError(f"key: expected a function that returns the key of an image, got {key_of!r}")
    seen: dict[str, str] = {}
    for number, key in pairs:
        translated = key_of(key)
        if not isinstance(translated, str):
            raise ArgumentError(f"key: expected a function that returns the key of an image, got {translated!r} for {key!r}")
        if translated in seen:
            raise MismatchError(f"key: expected another key for each image, got {translated!r} for {seen[translated]!r} and {key!r}")
        seen[translated] = key
        yield number, translated


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

    images: FoundImages
    missing: list[int]
    others: set[str]


def _say_missing(found: _Found, num_wanted: int, reader: SoftLabelReader, on_missing: str, advice: str) -> None:
    if not found.missing:
        return
    named = _named([reader.keys[number] for number in found.missing[: _NAMED + 1]])
    text = f"{reader.path}: {len(found.missing)} of {num_wanted} labelled images are not in {name_of(found.images.source)}"
    none_is_left = len(found.missing) == num_wanted
    if on_missing == "raise" or none_is_left:
        folder = subfolder_of_keys(found.others, [reader.keys[number] for number in found.missing])
        advice = "None is left" if on_missing == "skip" else advice
        if isinstance(found.images.source, FolderSource) and folder is not None:
            advice = f"They are in {found.images.source.folder / folder}"
        elif found.others:
            advice = f"The first of the images there is {min(found.others)!r}. {advice}"
        raise MismatchError(f"{text}: {named}. {advice}")
    warnings.warn(f"{text} and are left out: {named}", stacklevel=_CALLER + 1)


def _named(keys: list[Any]) -> str:
    return ", ".join(repr(key) for key in keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "") if keys else "none"


def _in_mapping(source: ImageSource, num_labelled: int, wanted: Iterable[tuple[int, str]]) -> _Found:
    """Look for each key, without asking a mapping for all of its keys."""
    images: Any = source
    missing = [number for number, key in wanted if key not in images.images]
    return _Found(FoundImages(source), missing, set())


def _in_source(source: ImageSource, num_labelled: int, wanted: Iterable[tuple[int, str]]) -> _Found:
    """Look for each key; for keys without extension, such as FKD's, look for an image with that stem."""
    others = set(source.keys())
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
    return _Found(FoundImages(source, endings, of_image if len(endings) > 1 else None), missing, others)


@dataclass(frozen=True, eq=False)
class FoundImages:
    """The images of a label file in their source.

    Attributes
    ----------
    source : ImageSource
        The source.
    endings, ending_of_image : sequence of str, uint8 (number of images,), optional
        What the keys in the source have at their ends that those in the file have not.
    key_of : callable, optional
        Returns the key in the source, but for that ending, given the key in the file.
    """

    source: ImageSource
    endings: Sequence[str] = ("",)
    ending_of_image: NDArray[np.uint8] | None = None
    key_of: KeyOf | None = None

    def read(self, number: int, key: str) -> ImageData:
        """Return an image by its number and key in the file."""
        return self.source.read(self.key(number, key))

    def where(self, number: int, key: str) -> str:
        """Return what to call an image in errors."""
        return where_is(self.source, self.key(number, key))

    def key(self, number: int, key: str) -> str:
        """Return the key in the source of an image."""
        key = key if self.key_of is None else self.key_of(key)
        return key if self.ending_of_image is None else key + self.endings[self.ending_of_image[number]]
