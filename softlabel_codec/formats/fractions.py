"""Crops of label files: fractions of an image converted back to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import MismatchError


def exact_crops(fractions: NDArray[Any], size: tuple[int, int]) -> tuple[NDArray[np.int64], int]:
    """Return the pixel crops (M, 4) that fractions came from, and how many the fractions do not determine uniquely.

    Raises
    ------
    MismatchError
        If the fractions cannot have come from an image of that size.
    """
    precision = 2.0**-11 if fractions.dtype.itemsize == 2 else 2.0**-24
    sides = np.array([size[0], size[1], size[0], size[1]], np.float64)
    exact = fractions.astype(np.float64) * sides
    crops = np.rint(np.clip(exact, -1, 2 * sides)).astype(np.int64)  # what is cut off is refused below
    slack = exact * precision * 1.01 + 1e-3
    uncertain = int((slack >= 0.5).any(axis=1).sum())
    crops[:, 2:] = np.where(slack[:, 2:] >= 0.5, np.minimum(crops[:, 2:], sides[:2].astype(np.int64) - crops[:, :2]), crops[:, 2:])
    off = (np.abs(exact - crops) > np.maximum(slack, 0.0)) & (slack < 0.5)
    outside = (crops[:, :2] + crops[:, 2:] > sides[:2]).any(axis=1) | (crops[:, 2:] < 1).any(axis=1)
    bad = (off | (exact - slack > sides)).any(axis=1) | outside
    if bad.any():
        row = int(np.argmax(bad))
        raise MismatchError(f"crop {row}: {exact[row].round(2).tolist()} are not whole pixels of an image of {size[0]} x {size[1]}")
    return crops, uncertain
