"""Label fields as tensors: labels of crops that are cut on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softlabel_codec.errors import ArgumentError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.torch.sparse_targets import SparseTargets

ROUNDING = 1e-5
"""So much may fractions of an image be beyond its edge."""


@dataclass(frozen=True, eq=False)
class LabelFields:
    """The label fields of B images, as tensors on one device: `at` returns labels of any crops of these images.

    For pipelines that cut crops on a device, or choose them there: a worker reads the fields of a batch, which take a few hundred numbers
    for each image, and the device computes the labels of whatever crops it makes.

    Attributes
    ----------
    classes : int32 (B, N)
        Listed classes of each image, padded with -1.
    weights : float32 (B, 8, N)
        Levels and slopes of each, in nats (spec/field-v1.md, section 4).
    num_classes : int
        C.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from softlabel_codec import SoftLabelReader, SoftLabelWriter
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.slc"
    >>> with SoftLabelWriter(path, num_classes=4, codec="field") as writer:
    ...     writer.add("a.jpg", image_size=(60, 80), crops=[[0, 0, 60, 40], [0, 40, 60, 40]], flips=[False, False],
    ...                probs=np.float32([[0.1, 0.7, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]))
    >>> with SoftLabelReader(path) as reader:
    ...     fields = LabelFields.read(reader, ["a.jpg"])
    >>> fields.at(torch.tensor([[[0, 0, 1, 0.5], [0, 0.5, 1, 0.5]]])).argmax().tolist()
    [1, 0]
    """

    classes: Tensor
    weights: Tensor
    num_classes: int

    @classmethod
    def read(cls, reader: SoftLabelReader, images: Sequence[int | str] | NDArray[np.integer[Any]]) -> LabelFields:
        """Return the fields of images by numbers or keys; errors as those of `SoftLabelReader.labels_at`."""
        classes, weights = reader.fields(images)
        return cls(torch.from_numpy(classes), torch.from_numpy(weights), reader.num_classes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LabelFields:
        """Return the same fields on another device."""
        classes, weights = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.classes, self.weights))
        return LabelFields(classes, weights, self.num_classes)

    def pin_memory(self) -> LabelFields:
        """Return the same fields in pinned memory."""
        return LabelFields(self.classes.pin_memory(), self.weights.pin_memory(), self.num_classes)

    def at(self, crops: Tensor) -> SparseTargets:
        """Return the labels of crops, one row for each, image after image.

        Parameters
        ----------
        crops : float (B, n, 4)
            top, left, height, width of n crops of each image, as fractions of its height and width (with its padding), on the same device.

        Raises
        ------
        ArgumentError
            If they have another shape, are integers, or are not inside of the images, as crops in pixels are not.
        """
        if crops.ndim != 3 or crops.shape[::2] != (len(self.classes), 4) or not crops.is_floating_point():
            expected = f"floats of shape ({len(self.classes)}, n, 4): fractions of each image"
            raise ArgumentError(f"crops: expected {expected}, got {crops.dtype} of shape {tuple(crops.shape)}")
        edges = torch.cat([crops[..., :2], crops[..., :2] + crops[..., 2:]], dim=2)
        if not bool(((edges >= -ROUNDING) & (edges <= 1 + ROUNDING)).all()):
            raise ArgumentError("crops: expected fractions of each image, inside of it: divide pixels by its height and width")
        logits = torch.bmm(_features(crops.float()), self.weights)
        listed = (self.classes >= 0)[:, None].expand_as(logits)
        logits = logits.masked_fill(~listed, -torch.inf)
        top = logits.amax(dim=2, keepdim=True).clamp(min=0)
        powers = torch.exp(logits - top)
        rest = (self.num_classes - listed.sum(dim=2, keepdim=True)) * torch.exp(-top)
        total = powers.sum(dim=2, keepdim=True) + rest
        values, indices = (powers / total).flatten(0, 1), self.classes[:, None].expand_as(logits).flatten(0, 1)
        first = values.argmax(dim=1, keepdim=True)
        return SparseTargets(_swapped(indices, first), _swapped(values, first), (rest / total).flatten(), self.num_classes)


def _swapped(array: Tensor, first: Tensor) -> Tensor:
    """Return rows (R, N) in which the element at `first` (R, 1) and that at 0 have changed places."""
    chosen = array.gather(1, first)
    return torch.cat([chosen, array.scatter(1, first, array[:, :1])[:, 1:]], dim=1)


def _features(crops: Tensor) -> Tensor:
    """Return the features (B, n, 8) of crops (B, n, 4): spec/field-v1.md, section 3."""
    top, left = (crops[..., side].clamp(0, 1) for side in (0, 1))
    bottom, right = ((crops[..., side] + crops[..., side + 2]).clamp(0, 1) for side in (0, 1))
    height, width = bottom - top, right - left
    size, across, down = (width + height - 1.25) / 0.35, (left + right - 1) / 0.25, (top + bottom - 1) / 0.25
    squares = (0.75 * (axis * axis - 1) for axis in (size, across, down))
    return torch.stack([torch.ones_like(size), size, across, down, (width - height) / 0.2, *squares], dim=2)
