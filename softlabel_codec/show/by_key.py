"""Images that are asked for by key: what their labels say, as numbers; and their crops, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError
from softlabel_codec.show.looking import ImageView, look, numbers_of_keys
from softlabel_codec.show.pictures import Pictures, check_picture_path, save_grid
from softlabel_codec.show.sets import opened, use_of_remainder


@dataclass(frozen=True)
class ImagesView:
    """What labels say of some images.

    Attributes
    ----------
    path, codec, num_classes : str, str, int
        Which labels.
    remainder : str
        What becomes of remainders: `spread evenly`, `spread along the tail`, or `dropped`; empty of dense labels, which have none.
    against : str or None
        The other labels, if there are any.
    names : dict of int to str
        Names of the classes that occur.
    images : list of ImageView
        The images.
    """

    path: str
    codec: str
    num_classes: int
    remainder: str
    against: str | None
    names: dict[int, str]
    images: list[ImageView]


@dataclass(frozen=True)
class CropsReport:
    """What was written: a picture of so many crops of so many images."""

    path: str
    num_images: int
    num_crops: int


def look_at(
    labels: str | os.PathLike[str],
    keys: Sequence[str],
    *,
    against: str | os.PathLike[str] | None = None,
    class_names: str | os.PathLike[str] | None = None,
    max_crops: int | None = None,
) -> ImagesView:
    """Return what labels say of some images: their crops, and the most probable classes of each.

    Parameters are those of `write_page`, without images; and so are the errors.
    """
    _check(keys, max_crops)
    with opened(labels, against, class_names) as sets:
        numbers = numbers_of_keys(sets.reader, keys)
        views = [view for view, _ in look(sets.reader, numbers, sets.classes_of(numbers), sets.partner, max_crops)]
        return ImagesView(
            path=str(sets.reader.path),
            codec=sets.reader.codec,
            num_classes=sets.reader.num_classes,
            remainder=use_of_remainder(sets.reader),
            against=None if sets.partner is None else str(sets.partner.there.path),
            names=sets.names.of({number for view in views for number in view.all_classes()}),
            images=views,
        )


def save_crops(
    labels: str | os.PathLike[str], images: Any, out: str | os.PathLike[str], keys: Sequence[str], *, max_crops: int | None = None
) -> CropsReport:
    """Write the crops of some images, as the student gets them, as one picture, ten to a row, each image in rows of its own.

    Parameters are those of `write_page`, but for `out`, a file whose ending says of what kind, such as `.png`; and so are the errors.
    """
    _check(keys, max_crops)
    check_picture_path(out)
    with opened(labels) as sets:
        numbers = numbers_of_keys(sets.reader, keys)
        pictures = Pictures(images, sets.reader, numbers)
        crops = [pictures.crops(view.number, labelled) for view, labelled in look(sets.reader, numbers, {}, max_crops=max_crops)]
    save_grid(crops, out)
    return CropsReport(os.fspath(out), len(crops), sum(map(len, crops)))


def _check(keys: Sequence[str], max_crops: int | None) -> None:
    if not keys:
        raise ArgumentError("keys: expected the keys of one or more images, got none")
    if max_crops is not None:
        check_whole("max_crops", max_crops, 1)
