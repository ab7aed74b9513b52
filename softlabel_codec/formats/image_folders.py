"""Images by number, as torchvision's `ImageFolder` counts them: some label files name them so."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.images.paths import list_images

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_FEWEST_TO_COMPARE = 64


def image_folder_keys(folder: str | os.PathLike[str]) -> list[str]:
    """Return the keys of the images below the class folders in a folder, by number; ArgumentError if there are none."""
    keys = [key for key in list_images(folder) if "/" in key and key.lower().endswith(_EXTENSIONS)]
    if not keys:
        raise ArgumentError(f"{folder}: expected a folder for each class with images of it, as for torchvision's ImageFolder, found none")
    return sorted(keys, key=lambda key: (key.partition("/")[0], *key.rpartition("/")[::2]))


def share_in_own_folder(keys: Sequence[str], numbers: NDArray[Any], largest: NDArray[Any], num_classes: int, where: object) -> float | None:
    """Return how often the largest class of a label is that of the image's folder, counted as `ImageFolder` does.

    Parameters
    ----------
    keys : sequence of str
        From `image_folder_keys`.
    numbers, largest : integer (M,)
        The image that each label is of, and its largest class.
    num_classes : int
        C. If there are not as many folders, their numbers say nothing, and None is returned.
    where : object
        What is compared, in errors.

    Raises
    ------
    MismatchError
        If it is not more often than by chance: then these are other images, or in another order.
    """
    folders = sorted({key.partition("/")[0] for key in keys})
    if len(folders) != num_classes:
        return None
    number_of = {name: number for number, name in enumerate(folders)}
    truth = np.array([number_of[keys[number].partition("/")[0]] for number in numbers])
    share = float((largest == truth).mean())
    by_chance = 1 / num_classes + 3 * math.sqrt((1 - 1 / num_classes) / num_classes / len(truth))
    if len(truth) >= _FEWEST_TO_COMPARE and share <= by_chance:
        got = f"got that for {share:.1%} of {len(truth)}, as if by chance"
        advice = "These are other images, or in another order, or were drawn with another seed (--seed) or version of torch"
        raise MismatchError(f"{where}: expected the most probable class to be that of the image's folder for many crops, {got}. {advice}")
    return share
