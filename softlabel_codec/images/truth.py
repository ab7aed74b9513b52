"""Class numbers of images as their source knows them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import MismatchError
from softlabel_codec.image_source import ImageSource, name_of
from softlabel_codec.images.classes import class_folders, classes_of, unknown_classes
from softlabel_codec.images.sources import FolderSource
from softlabel_codec.images.sources.keys import KeyList, class_numbers


def targets_of(source: ImageSource, keys: Sequence[str], num_classes: int | None = None) -> NDArray[np.int64] | None:
    """Return the class number of each image as its source states it, int64 (n,); None if it states none, or lacks one of the keys.

    A folder states none: there, classes are the folders, which a file may number in another way (see `classes_of`). MismatchError if a
    number is beyond `num_classes`, or what the source states are not the class numbers of its images.
    """
    stated = None if isinstance(source, FolderSource) else source.targets()
    if stated is None:
        return None
    known = KeyList(source.keys(), name_of(source))
    targets = class_numbers(stated, len(known))
    if targets is None:
        expected = f"expected class numbers of shape ({len(known)},), none negative"
        raise MismatchError(f"{name_of(source)}: targets: {expected}, got {reprlib.repr(stated)}")
    if num_classes is not None and int(targets.max()) >= num_classes:
        raise MismatchError(f"{name_of(source)}: expected class numbers of {num_classes} classes, got {int(targets.max())}")
    try:
        return targets[[known.number(key) for key in keys]]
    except KeyError:
        return None


def stated_or_by_folder(
    source: ImageSource, keys: Sequence[str], stated: Sequence[str] | None, usual: Sequence[str], num_classes: int
) -> NDArray[np.int64]:
    """Return the class number of each image, int64 (n,), as a file of class folders states it, or else the source, or else its folders.

    Parameters
    ----------
    source, keys : ImageSource, sequence of str
        The images.
    stated : sequence of str, optional
        Class folders by class number, if the user states them.
    usual : sequence of str
        Class folders by class number that are known otherwise; if empty, those of the images in ascending order.
    num_classes : int
        C.

    Raises
    ------
    MismatchError
        If a class is not known, or there are not `num_classes` class folders of which the order could be guessed.
    """
    targets = targets_of(source, keys, num_classes) if stated is None else None
    if targets is not None:
        return targets
    folders = stated or usual or class_folders(keys)
    if not (stated or usual) and len(folders) != num_classes:
        raise MismatchError(unknown_classes(name_of(source), len(folders), num_classes))
    return classes_of(keys, folders, name_of(source))
