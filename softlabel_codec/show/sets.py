"""The label sets that are looked at, open, with the names of their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from softlabel_codec.labels import SparseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.show.class_names import ClassNames, names_of_folders, read_class_names
from softlabel_codec.show.looking import check_has_targets
from softlabel_codec.show.pairs import Partner

_REMAINDERS = {"uniform": "spread evenly", "tail": "spread along the tail", "renorm": "dropped"}


class Sets(NamedTuple):
    """Labels, the other labels that they are compared with, if any, and the names of their classes."""

    reader: SoftLabelReader
    partner: Partner | None
    names: ClassNames

    def classes_of(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the classes of images by the folders that they lie in, by their numbers, as far as these are known."""
        found = ((number, self.names.class_of(self.reader.keys[number])) for number in numbers)
        return {number: of_folder for number, of_folder in found if of_folder is not None}


@contextmanager
def opened(
    labels: str | os.PathLike[str], against: str | os.PathLike[str] | None = None, class_names: str | os.PathLike[str] | None = None
) -> Iterator[Sets]:
    """Open labels, and others.

    Parameters
    ----------
    labels, against : path or URL
        A file or a set each.
    class_names : path, optional
        As for `read_class_names`. By default classes are called by the class folders of the images, if there are as many.

    Raises
    ------
    FormatError, OSError
        If a file cannot be opened.
    StateError
        If there are no images, or the labels are not of classes.
    MismatchError
        If the two have different classes, or the names are not of as many.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(SoftLabelReader(labels))
        check_has_targets(reader)
        found = ClassNames({}, {}) if class_names is None else read_class_names(class_names, reader.num_classes)
        by_folder = found if found.folders else names_of_folders(reader.keys, reader.num_classes)
        names = ClassNames(found.names or by_folder.names, by_folder.folders)
        partner = None
        if against is not None:
            other = stack.enter_context(SoftLabelReader(against))
            check_has_targets(other)
            partner = Partner(reader, other)
        yield Sets(reader, partner, names)


def use_of_remainder(reader: SoftLabelReader) -> str:
    """Return what becomes of remainders of labels, of which there must be one; an empty text of dense labels, which have none."""
    labels = reader.read(0, [0]).labels
    return _REMAINDERS[labels.policy] if isinstance(labels, SparseLabels) else ""
