"""Which turn of an image is next: given by its index, or counted by the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError
from softlabel_codec.torch.shared import SharedTensor

MAX_EPOCH = 2**30


def check_epoch(epoch: object) -> int:
    """Return `epoch` if it is an integer from 0 to 2^30, so that turns do not overflow."""
    number = check_whole("epoch", epoch, 0)
    if number > MAX_EPOCH:
        raise ArgumentError(f"epoch: expected at most {MAX_EPOCH}, got {number}")
    return number


class ImageTurn(int):
    """The index of an image with a turn: turn *t* draws positions t * N to t * N + N - 1 of the image's endless sequence of crops.

    It is an integer, so all code that handles indices accepts it. Code that computes with it (`Subset`, `ConcatDataset`) turns it into a
    plain integer, and the dataset then counts the turns itself.

    Attributes
    ----------
    turn : int
        Number of earlier draws of the image.
    """

    turn: int

    def __new__(cls, image: int, turn: int) -> ImageTurn:
        index = super().__new__(cls, image)
        index.turn = turn
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageTurn, (int(self), self.turn)

    def __repr__(self) -> str:
        return f"ImageTurn({int(self)}, turn={self.turn})"


class Turns:
    """The turns of a dataset's images, counted by all its processes together.

    Parameters
    ----------
    num_images : int
        Images of the dataset; each takes 4 bytes.
    """

    def __init__(self, num_images: int) -> None:
        self._epoch = SharedTensor(torch.zeros(1, dtype=torch.int64))
        self._drawn = SharedTensor(torch.zeros(num_images, dtype=torch.int32))

    @property
    def epoch(self) -> int:
        """The epoch that was set last; 0 at first."""
        return int(self._epoch.tensor[0])

    def set_epoch(self, epoch: int) -> None:
        """Start all images at this turn, or later if they were counted further."""
        self._epoch.tensor[0] = check_epoch(epoch)

    def due(self, indices: Sequence[int], count: bool = True) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return numbers and turns of images, both int64 (B,), by indices, which may be negative or `ImageTurn`.

        A plain index takes the turn after the last one that was counted, or that of the epoch if it is later; an index that occurs
        several times takes turns one after another. These turns are counted unless `count` is false.
        """
        drawn = self._drawn.tensor.numpy()
        numbers = np.array([range(len(drawn))[index] for index in indices], np.int64)
        told = np.array([isinstance(index, ImageTurn) for index in indices], np.bool_)
        turns = np.array([index.turn if isinstance(index, ImageTurn) else 0 for index in indices], np.int64)
        plain = numbers[~told]
        turns[~told] = np.maximum(drawn[plain], self.epoch) + _occurrence(plain)
        if count:
            np.maximum.at(drawn, plain, (turns[~told] + 1).astype(drawn.dtype))
        return numbers, turns

    def counted(self) -> NDArray[np.int32]:
        """Return how many turns each image had, int32 (num_images,)."""
        return np.array(self._drawn.tensor.numpy(), np.int32)

    def count_from(self, counted: NDArray[np.int32]) -> None:
        """Go on counting from there."""
        self._drawn.tensor.copy_(torch.from_numpy(counted))


def _occurrence(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each number occurred before in the same array."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    occurrence = np.empty_like(order)
    occurrence[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return occurrence
