"""True classes of images: by the folders that they lie in, or as a function says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from softlabel_codec.checks.arguments import whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.classes import class_folder, class_folders, warn_of_other_classes
from softlabel_codec.reader import SoftLabelReader

TargetOf = str | Callable[[str], int]
"""`folder`, or a function from the key of an image to its class."""
_ADVICE = "Pass a function from key to class as target_of="


@dataclass(frozen=True)
class Truth:
    """The true classes of the images of a label file.

    Attributes
    ----------
    classes : list of str or None
        Class folders in the order of their numbers, if folders say it.
    class_to_idx : dict or None
        Number of each class folder.
    """

    classes: list[str] | None = None
    _target_of: Callable[[str], int] | None = None
    _num_classes: int | None = None
    class_to_idx: dict[str, int] | None = field(init=False)

    def __post_init__(self) -> None:
        numbers = None if self.classes is None else {name: number for number, name in enumerate(self.classes)}
        object.__setattr__(self, "class_to_idx", numbers)

    def __call__(self, key: str) -> int | None:
        """Return the class of an image; None if it was not asked for.

        Raises
        ------
        ArgumentError
            If the function returns something that is no class.
        MismatchError
            If it returns a class that the labels do not have.
        """
        if self.class_to_idx is not None:
            return self.class_to_idx[class_folder(key)]
        if self._target_of is None:
            return None
        said = self._target_of(key)
        target = whole(said)
        if target is None or target < 0:
            raise ArgumentError(f"target_of: image {key!r}: expected the number of a class, got {said!r}")
        if self._num_classes is not None and target >= self._num_classes:
            expected = f"expected one of the {self._num_classes} classes of the labels"
            raise MismatchError(f"target_of: image {key!r}: {expected}, got {target}")
        return target


def find_truth(target_of: TargetOf | None, reader: SoftLabelReader, keys: Sequence[str]) -> Truth:
    """Return the true classes of the images of a label file, as far as they are asked for; a function is tried with the first of `keys`.

    Raises
    ------
    MismatchError
        If images lie in no class folder, or there are more or fewer folders than classes; or, for a function, as of `Truth`.
    ArgumentError
        If `target_of` is something else; or, for a function, as of `Truth`.
    """
    num_classes = None if reader.parsed_codec.content == "features" else reader.num_classes
    if target_of is None:
        return Truth()
    if callable(target_of):
        truth = Truth(_target_of=target_of, _num_classes=num_classes)
        for key in keys[:1]:
            truth(key)
        return truth
    if target_of != "folder":
        raise ArgumentError(f"target_of: expected 'folder', or a function from key to class, got {target_of!r}")
    return _by_folder(reader, num_classes)


def _by_folder(reader: SoftLabelReader, num_classes: int | None) -> Truth:
    for key in reader.keys:
        if not class_folder(key):
            expected = "expected images in class folders, such as 'n01440764/tench.JPEG'"
            raise MismatchError(f"{reader.path}: target_of: {expected}, got the key {key!r}. {_ADVICE}")
    folders = class_folders(reader.keys)
    if num_classes is not None and len(folders) != num_classes:
        expected = f"expected a class folder for each of the {num_classes} classes"
        raise MismatchError(f"{reader.path}: target_of: {expected}, got {counted(len(folders), 'folder')}. {_ADVICE}")
    truth = Truth(folders)
    if num_classes is not None:
        warn_of_other_classes(reader, np.array([truth(key) for key in reader.keys], np.int64))
    return truth
