"""Where crops lie in their image, for labels that depend on it."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MEASURED_IMAGES = 8
"""Of one image in so many it is measured how well a label field knows crops that it was not made from."""


class Places(NamedTuple):
    """The crops of one image whose labels are quantised.

    Attributes
    ----------
    edges : float64 (M, 4)
        top, left, bottom and right edge of each crop as fractions of the image with its padding.
    measured : bool
        Whether the writer measures how well labels of other crops are known, which takes as long again.
    """

    edges: NDArray[np.float64]
    measured: bool = False


def is_measured(key: str) -> bool:
    """Return whether it is measured how well labels of other crops of an image are known, which its key decides."""
    return zlib.crc32(key.encode()) % MEASURED_IMAGES == 0


def edges_of(crops: NDArray[Any], heights: NDArray[Any] | int, widths: NDArray[Any] | int) -> NDArray[np.float64]:
    """Return the edges of crops (R, 4): top, left, height, width, in the unit of their images' heights and widths (R,), or of all."""
    top, left, height, width = np.asarray(crops, np.float64).T
    return np.stack([top / heights, left / widths, (top + height) / heights, (left + width) / widths], axis=1)
