"""What all crop samplers do, and the sampler that enumerates all views of a padded image: spec/crop-sampler-v1.md, section 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import whole
from softlabel_codec.checks.limits import MAX_IMAGE_SIDE
from softlabel_codec.errors import ArgumentError, CorruptError, UnknownFeatureError
from softlabel_codec.sampler import NAME as RANDOM_RESIZED_CROP
from softlabel_codec.sampler import CropSampler

NAME = "all_views/1"


class Sampler(Protocol):
    """Gives the crops of an image by their numbers. Where images are padded, sizes are those with the padding."""

    def describe(self) -> dict[str, Any]:
        """Return name and parameters as stored in a file's metadata."""

    def num_crops(self, height: int, width: int) -> int | None:
        """Return how many crops an image of that size has; None if there is one for every number."""

    def sample(self, key: str, image_size: tuple[int, int], numbers: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops (M, 4) and flips (M,) of an image."""

    def sample_rows(
        self, streams: NDArray[np.int64], numbers: NDArray[Any], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops (R, 4) and flips (R,) of any images: one row for each crop stream, crop number and image size."""

    def sample_few(
        self, stream: int, numbers: Sequence[int], height: int, width: int
    ) -> tuple[list[tuple[int, int, int, int]], list[bool]]:
        """Return a few crops of one image and their flips: the same as `sample_rows`."""


@dataclass(frozen=True)
class AllViews:
    """Enumerates all crops of one size, each as it is and mirrored: every view of `RandomCrop` and `RandomHorizontalFlip`.

    An image has 2 (H - height + 1) (W - width + 1) of them, H and W with its padding. They are numbered row by row, each place first as it
    is and then mirrored.

    Parameters
    ----------
    height, width : int
        Size of every crop in pixels, 1 to 65535.
    flips : bool
        Whether each crop comes mirrored as well.

    Raises
    ------
    ArgumentError
        If any of these is something else; on sampling, if an image has no view of that number.

    Examples
    --------
    >>> views = AllViews(32, 32)
    >>> views.num_crops(40, 40)
    162
    >>> crops, flips = views.sample("a.png", (40, 40), [0, 1, 2, 161])
    >>> crops.tolist(), flips.tolist()
    ([[0, 0, 32, 32], [0, 0, 32, 32], [0, 1, 32, 32], [8, 8, 32, 32]], [False, True, False, True])
    """

    height: int
    width: int
    flips: bool = True

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = whole(getattr(self, name))
            if side is None or not 1 <= side <= MAX_IMAGE_SIDE:
                raise ArgumentError(f"{name}: expected 1 to {MAX_IMAGE_SIDE} pixels, got {getattr(self, name)!r}")
            object.__setattr__(self, name, side)
        if not isinstance(self.flips, bool):
            raise ArgumentError(f"flips: expected True or False, got {self.flips!r}")

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> AllViews:
        """Return the sampler with this description, as `describe` returns it; CorruptError if there is none."""
        try:
            return cls(*(description[name] for name in ("height", "width", "flips")))
        except KeyError as error:
            raise CorruptError(f"crop_sampler: {error} is missing") from None
        except ArgumentError as error:
            raise CorruptError(f"crop_sampler: {error}") from None

    def describe(self) -> dict[str, Any]:
        """Return name and parameters as stored in a file's metadata."""
        return {"name": NAME, "height": self.height, "width": self.width, "flips": self.flips}

    def num_crops(self, height: int, width: int) -> int:
        """Return how many views an image of that size has, its padding included."""
        return (1 + self.flips) * max(0, height - self.height + 1) * max(0, width - self.width + 1)

    def sample(self, key: str, image_size: tuple[int, int], numbers: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops and flips of an image; the key does not matter.

        Parameters
        ----------
        key : str
            The image's key.
        image_size : (int, int)
            Its height and width in pixels, with its padding.
        numbers : int (M,)
            Crop numbers.

        Returns
        -------
        crops : int64 (M, 4)
            top, left, height, width in pixels of the padded image.
        flips : bool (M,)
            Whether each crop is mirrored.
        """
        number = np.asarray(numbers, np.int64)
        same = np.ones(len(number), np.int64)
        return self.sample_rows(same, number, same * image_size[0], same * image_size[1])

    def sample_rows(
        self, streams: NDArray[np.int64], numbers: NDArray[Any], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return crops (R, 4) and flips (R,) of any images: one row for each crop number and image size; `streams` do not matter."""
        number, each = numbers.astype(np.int64), 1 + self.flips
        down, across = heights - self.height + 1, widths - self.width + 1
        there = (down > 0) & (across > 0) & (number >= 0) & (number < each * down * across)
        if not there.all():
            row = int(there.argmin())
            raise self._no_view(int(number[row]), int(heights[row]), int(widths[row]))
        top, left = np.divmod(number // each, across)
        crops = np.stack([top, left, np.full_like(top, self.height), np.full_like(top, self.width)], axis=1)
        return crops, number % each == 1

    def sample_few(
        self, stream: int, numbers: Sequence[int], height: int, width: int
    ) -> tuple[list[tuple[int, int, int, int]], list[bool]]:
        """Return a few crops of one image and their flips: the same as `sample_rows`, in plain Python to avoid numpy's overhead."""
        each, across, most = 1 + self.flips, width - self.width + 1, self.num_crops(height, width)
        crops = []
        for number in numbers:
            if not 0 <= number < most:
                raise self._no_view(number, height, width)
            top, left = divmod(number // each, across)
            crops.append((top, left, self.height, self.width))
        return crops, [number % each == 1 for number in numbers]

    def _no_view(self, number: int, height: int, width: int) -> ArgumentError:
        have = f"an image of {height} x {width} pixels (height x width, with its padding) has {self.num_crops(height, width)}"
        return ArgumentError(f"crops: expected numbers below those of the views of {self.height} x {self.width}: {have}, got {number}")


def sampler_of(description: object) -> Sampler:
    """Return the sampler with this description, as `describe` returns it; UnknownFeatureError or CorruptError if there is none."""
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise CorruptError("crop_sampler: expected a map with a name")
    if description["name"] == NAME:
        return AllViews.from_description(description)
    if description["name"] == RANDOM_RESIZED_CROP:
        return CropSampler.from_description(description)
    raise UnknownFeatureError(
        f"crop_sampler: expected {RANDOM_RESIZED_CROP!r} or {NAME!r}, got {description['name']!r}. Update softlabel_codec"
    )
