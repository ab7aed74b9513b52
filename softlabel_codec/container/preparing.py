"""Images as they are given to a writer, checked and quantised for a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softlabel_codec.checks.arguments import (
    check_flips,
    check_fraction_crops,
    check_image_crc32,
    check_image_size,
    check_key,
    check_num_crops,
    check_pixel_crops,
)
from softlabel_codec.checks.arrays import as_array
from softlabel_codec.container.metadata import Description
from softlabel_codec.container.pending import PendingImage, check_fits_block
from softlabel_codec.errors import ArgumentError, LimitError
from softlabel_codec.quantise.field import FieldQuantiser
from softlabel_codec.quantise.field_fit import FitFields
from softlabel_codec.quantise.places import Places, is_measured


class GivenImage(NamedTuple):
    """Arguments of `SoftLabelWriter.add`; `labels` are those of its label arrays that are not None."""

    key: str
    image_size: Any
    crops: ArrayLike | None
    flips: ArrayLike | None
    labels: Mapping[str, Any]
    image_crc32: int | None


class Preparer:
    """Checks and quantises images.

    Parameters
    ----------
    description : Description
        The file that they are for.
    """

    def __init__(self, description: Description) -> None:
        self._description, self._layout = description, description.layout

    def image(self, given: GivenImage) -> PendingImage:
        """Return an image that shares no memory with the arguments; ArgumentError or LimitError if anything in it is invalid."""
        size, num_crops, geometry, flags = self._checked(given)
        places = self._places(given.key, size, num_crops, geometry) if self._layout.family.of_places else None
        codes = self._layout.quantiser.quantise(given.labels, num_crops, places)
        return self._pending(given, size, num_crops, geometry, flags, codes)

    def images(self, given: Sequence[GivenImage]) -> list[PendingImage]:
        """Return many images, faster than one by one. Errors do not say which image they are about."""
        if not self._quantised_at_once(given):
            return [self.image(one) for one in given]
        checked = [self._checked(one) for one in given]
        quantiser = self._layout.quantiser
        labels = {name: np.concatenate([one.labels[name] for one in given]) for name in given[0].labels}
        codes = quantiser.quantise(labels, sum(num_crops for _, num_crops, _, _ in checked), None)
        found, first = [], 0
        for one, (size, num_crops, geometry, flags) in zip(given, checked, strict=True):
            own = quantiser.rows(codes, slice(first, first + num_crops), 0)
            found.append(self._pending(one, size, num_crops, geometry, flags, own))
            first += num_crops
        return found

    def fitted(self, given: Sequence[GivenImage], fit: FitFields) -> list[PendingImage]:
        """Return images of a file of label fields, which a function fits all at once.

        Their only labels are `probs`, valid, and in whatever kind of array it takes. Errors are as those of `image`, and name the image.
        """
        quantiser = self._layout.quantiser
        assert isinstance(quantiser, FieldQuantiser)
        checked = []
        for one in given:
            with _about(one.key):
                checked.append(self._checked(one))
                rows, num_crops = len(one.labels["probs"]), checked[-1][1]
                if rows != num_crops:
                    raise ArgumentError(f"probs: expected a row for each of {num_crops} crops, got {rows}")
        places = [self._places(one.key, *of_one[:3]) for one, of_one in zip(given, checked, strict=True)]
        codes = quantiser.fit([(one.labels["probs"], where) for one, where in zip(given, places, strict=True)], fit)
        found = []
        for one, of_one, own in zip(given, checked, codes, strict=True):
            with _about(one.key):
                found.append(self._pending(one, *of_one, own))
        return found

    def _quantised_at_once(self, given: Sequence[GivenImage]) -> bool:
        """Return whether codes of a crop depend on this crop only, and all images have the same label arrays."""
        codec = self._description.codec
        if codec.family != "sparse" or codec.tail or codec.gain is not None or len(given) < 2:
            return False
        forms = {tuple((name, array.dtype, array.shape[1:]) for name, array in one.labels.items()) for one in given}
        return len(forms) == 1 and all(name in ("indices", "values") for name in given[0].labels)

    def _checked(self, given: GivenImage) -> tuple[tuple[int, int], int, NDArray[Any] | None, NDArray[np.bool_] | None]:
        """Return size, number of crops, crops and flips of an image, after all checks but those of its labels."""
        key, image_size, crops, flips, labels, image_crc32 = given
        check_key(key)
        check_image_crc32(image_crc32, self._description.image_checksums)
        fractions = self._description.crops.startswith("fractions")
        padding = self._description.padding
        size = check_image_size(image_size, padding.pixels) if not fractions or image_size is not None else (0, 0)
        if self._layout.derived:
            num_crops = _num_rows(labels)
            self._check_derived(key, size, num_crops, crops, flips)
            return size, num_crops, None, None
        if crops is None or flips is None:
            raise ArgumentError("expected crops and flips")
        geometry = check_fraction_crops(crops, self._layout.mode.dtype) if fractions else check_pixel_crops(crops, size, padding.pixels)
        return size, len(geometry), geometry, check_flips(flips, len(geometry))

    def _pending(
        self,
        given: GivenImage,
        size: tuple[int, int],
        num_crops: int,
        geometry: NDArray[Any] | None,
        flags: NDArray[np.bool_] | None,
        codes: Any,
    ) -> PendingImage:
        entries = self._layout.quantiser.num_entries(codes)
        image = PendingImage(given.key, size, num_crops, geometry, flags, codes, *entries, given.image_crc32)
        check_fits_block(image, self._layout)
        return image

    def _places(self, key: str, size: tuple[int, int], num_crops: int, geometry: NDArray[Any] | None) -> Places:
        """Return where an image's crops are, and whether to measure how well other crops are known: for one image in eight."""
        if geometry is None:
            assert self._description.sampler is not None
            geometry, _ = self._description.sampler.sample(key, self._description.padding.around(size), range(num_crops))
        height, width = (np.full(num_crops, side) for side in size)
        return Places(self._layout.edges(geometry, height, width), is_measured(key))

    def _check_derived(self, key: str, size: tuple[int, int], num_crops: int, crops: ArrayLike | None, flips: ArrayLike | None) -> None:
        """Raise ArgumentError if the sampler has fewer crops of an image, or others than those that are given."""
        sampler, padded = self._description.sampler, self._description.padding.around(size)
        assert sampler is not None
        most = sampler.num_crops(*padded)
        if most is not None and num_crops > most:
            there = f"those that the sampler has of {padded[0]} x {padded[1]} pixels (height x width, with padding)"
            raise ArgumentError(f"crops: expected at most {most}, {there}, got {num_crops}")
        if crops is None and flips is None:
            return
        derived = sampler.sample(key, padded, range(num_crops))
        for name, given, expected in zip(("crops", "flips"), (crops, flips), derived, strict=True):
            if given is not None and not np.array_equal(as_array(name, given), expected):
                raise ArgumentError(f"{name}: expected those of the sampler, as crops are derived; leave them out, or write crops='pixels'")


@contextmanager
def _about(key: str) -> Iterator[None]:
    """Add to errors which image they are about."""
    try:
        yield
    except (ArgumentError, LimitError) as error:
        raise type(error)(f"image {key!r}: {error}") from None


def _num_rows(labels: Mapping[str, Any]) -> int:
    """Return the number of labelled crops: the rows of the first array."""
    return check_num_crops(next((_length(name, rows) for name, rows in labels.items()), 0))


def _length(name: str, rows: Any) -> int:
    """Return the number of rows of an array, or of a tensor, which may be on a device where numpy cannot read it."""
    shape = getattr(rows, "shape", None)
    return int(shape[0]) if shape else len(np.atleast_1d(as_array(name, rows)))
