"""A label set as one HTML page, which needs nothing else: no network, no other file."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.whole_files import write_text
from softlabel_codec.show.field_maps import field_map
from softlabel_codec.show.looking import ImageView, look, numbers_of_keys
from softlabel_codec.show.pairs import Comparison, compare
from softlabel_codec.show.pictures import Picture, Pictures
from softlabel_codec.show.rendering import render
from softlabel_codec.show.sets import Sets, opened

SAMPLE = 40
"""So many images are shown, if they are not named."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PageReport:
    """What was written.

    Attributes
    ----------
    path : str
        The page.
    num_images, shown_images, shown_crops : int
        How many images the labels have, and how many of them, with how many crops, are on the page.
    page_bytes : int
        Its size.
    """

    path: str
    num_images: int
    shown_images: int
    shown_crops: int
    page_bytes: int


def write_page(
    labels: str | os.PathLike[str],
    images: Any,
    out: str | os.PathLike[str],
    keys: Sequence[str] = (),
    *,
    against: str | os.PathLike[str] | None = None,
    class_names: str | os.PathLike[str] | None = None,
    sample: int = SAMPLE,
    max_crops: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PageReport:
    """Write an HTML page that shows labels: images, their crops, and what the labels say of each.

    Parameters
    ----------
    labels : path or URL
        A label file; or a label set, its folder or its index.
    images : path, mapping, array, dataset or ImageSource
        The labelled images, as for `softlabel_codec.images.open_images`.
    out : path
        The page.
    keys : sequence of str
        Which images to show. By default some, evenly spread; with `against`, half of them, and the images that differ most.
    against : path or URL, optional
        Other labels of the same images, to compare with.
    class_names : path, optional
        A file of class names, as for `read_class_names`. By default classes are called by the class folders of the images, if there are as
        many, or else by their numbers.
    sample : int
        How many images to show, if `keys` does not say which.
    max_crops : int, optional
        Show the first so many crops of each image only.
    progress : callable, optional
        Called with the number of images done and in all.

    Raises
    ------
    MismatchError
        If a key is not in the labels; an image is missing, or is not the one that was labelled; the two label sets have other classes or
        padding, or no image in common; or there are not as many class names as classes.
    StateError
        If there are no images, or the labels are not of classes, or of more than 4 million.
    ArgumentError
        If there are no such images, the class names cannot be read, or a number is not positive.
    FormatError, OSError
        If labels are damaged, or a file cannot be read or written.
    """
    check_whole("sample", sample, 1)
    if max_crops is not None:
        check_whole("max_crops", max_crops, 1)
    with opened(labels, against, class_names) as sets:
        comparison = None if sets.partner is None else compare(sets.partner)
        numbers = numbers_of_keys(sets.reader, keys) if keys else _chosen(len(sets.reader), sample, comparison)
        pictures = Pictures(images, sets.reader, numbers)
        shown = list(_shown(sets, numbers, pictures, max_crops, progress or (lambda done, total: None)))
        chosen = _said_of_choice(len(sets.reader), len(shown), bool(keys), comparison)
        text = render(sets, shown, pictures.crop_size, comparison, chosen, asked_for=bool(keys))
        write_text(out, text)
        num_images = len(sets.reader)
    crops = sum(len(view.crops) for view, _ in shown)
    logger.info("%s: wrote %s with %s", out, counted(len(shown), "image"), counted(crops, "crop"))
    return PageReport(os.fspath(out), num_images, len(shown), crops, len(text.encode()))


def _chosen(num_images: int, sample: int, comparison: Comparison | None) -> list[int]:
    """Return the numbers of the images that are shown, ascending: some evenly spread, of two sets half of those that differ most."""
    if comparison is None or not comparison.variation_of:
        return _evenly(range(num_images), sample)
    farthest = comparison.farthest(sample // 2)
    others = sorted(set(comparison.variation_of) - set(farthest))
    return sorted([*farthest, *_evenly(others, sample - len(farthest))])


def _evenly(numbers: Sequence[int], count: int) -> list[int]:
    if not numbers:
        return []
    return [numbers[place] for place in np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).astype(np.int64)).tolist()]


def _said_of_choice(num_images: int, shown: int, named: bool, comparison: Comparison | None) -> str:
    """Return which images of all are shown."""
    all_of_them = f"{shown:,} of {counted(num_images, 'image')}"
    if shown == num_images:
        return f"All {num_images:,} images." if num_images > 1 else "The one image that there is."
    if named:
        return f"{all_of_them}, as asked for."
    if comparison is None or not comparison.variation_of:
        return f"{all_of_them}, evenly spread over the file."
    farthest = min(shown // 2, len(comparison.variation_of))
    some = f"the {farthest:,} whose labels differ most, of {comparison.here.num_images:,} compared"
    return f"{all_of_them}: {some}, and others evenly spread."


def _shown(
    sets: Sets, numbers: Sequence[int], pictures: Pictures, max_crops: int | None, progress: Callable[[int, int], None]
) -> Iterator[tuple[ImageView, Picture]]:
    """Yield the images that are shown, with what their labels say."""
    reader, maps = sets.reader, sets.reader.container.layout.family.of_places
    classes = {**sets.classes_of(numbers), **pictures.classes_of(numbers)}
    for done, (view, labelled) in enumerate(look(reader, numbers, classes, sets.partner, max_crops)):
        progress(done, len(numbers))
        picture = pictures.picture(view.number, labelled)
        crops = [dataclasses.replace(crop, crop=box) for crop, box in zip(view.crops, picture.crops.tolist(), strict=True)]
        field = field_map(reader, view.number, picture.padded_size) if maps else None
        yield dataclasses.replace(view, image_size=picture.size, crops=crops, field=field), picture
    progress(len(numbers), len(numbers))
