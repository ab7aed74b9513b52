"""Maps of label fields: how probable classes are for crops of some sizes, wherever they lie in the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.show.measures import parts, targets_of
from softlabel_codec.show.rounding import rounded

SCALES = (0.25, 0.5, 0.75)
"""Height and width of crops as parts of the image's."""
MOST_CELLS = 12
"""Places of a crop along the longer side of an image."""
SHOWN_CLASSES = 4


@dataclass(frozen=True)
class FieldMap:
    """Targets of some classes for crops of several sizes on a grid of places.

    Attributes
    ----------
    classes : list of int
        The classes with the largest targets, as a mean over all these crops.
    scales : list of float
        Height and width of the crops as parts of those of the image with its padding.
    rows, columns : int
        Size of the grid. The first and last crops touch the edges of the image; those between are spread evenly.
    targets : list
        `targets[scale][class][row][column]`.
    """

    classes: list[int]
    scales: list[float]
    rows: int
    columns: int
    targets: list[list[list[list[float]]]]


def field_map(reader: SoftLabelReader, number: int, size: tuple[int, int]) -> FieldMap:
    """Return the map of an image's label field.

    Parameters
    ----------
    reader : SoftLabelReader
        A file of label fields.
    number : int
        The image.
    size : (int, int)
        Height and width of the image with its padding.
    """
    rows, columns = (max(3, round(MOST_CELLS * side / max(size))) for side in size)
    boxes = np.concatenate([_boxes(scale, rows, columns) for scale in SCALES])
    found = [targets_of(reader.labels_at([number], boxes[None, some]).labels) for some in parts(len(boxes), reader.num_classes)]
    targets = np.concatenate(found)
    classes = np.argsort(-targets.mean(axis=0), kind="stable")[:SHOWN_CLASSES]
    grid = targets[:, classes].reshape(len(SCALES), rows, columns, len(classes)).transpose(0, 3, 1, 2)
    return FieldMap(classes.tolist(), list(SCALES), rows, columns, [[[rounded(row) for row in one] for one in scale] for scale in grid])


def _boxes(scale: float, rows: int, columns: int) -> NDArray[np.float64]:
    """Return crops on a grid, (rows * columns, 4): top, left, height, width as fractions of the image."""
    tops, lefts = np.meshgrid(np.linspace(0, 1 - scale, rows), np.linspace(0, 1 - scale, columns), indexing="ij")
    return np.stack([tops.ravel(), lefts.ravel(), np.full(tops.size, scale), np.full(tops.size, scale)], axis=1)
