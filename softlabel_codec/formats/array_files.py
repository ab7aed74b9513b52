"""Labels of all images in one file of arrays: what `.npz` and safetensors files share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_DENSE_NUMBERS
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import (
    ABOUT,
    KEYS,
    NUM_CLASSES,
    OF_IMAGE,
    PLURALS,
    WHY_NO_CROPS,
    About,
    Form,
    of_one_image,
    whole_number,
)
from softlabel_codec.formats.importing import NO_CROPS, Entry, Found
from softlabel_codec.formats.labels import INDICES, kind_name

_BYTES_AT_ONCE = 2**22
OF_IMAGES = tuple(PLURALS.get(name, name) for name in OF_IMAGE)


class ArrayFile(Protocol):
    """An open file of named arrays, whose numbers are read when they are asked for."""

    path: Path
    format: str

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and type of each array. Types are those of numbers or, of keys, of text."""

    def whole(self, name: str) -> NDArray[Any]:
        """Return an array as a whole."""

    def text(self, name: str) -> str | None:
        """Return a text; None if there is none of this name."""

    def keys(self) -> Iterator[str]:
        """Yield the keys of the images, in their order."""

    def parts(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """Yield an array in parts of so many rows; CorruptError if the file ends early or has more."""


@dataclass(frozen=True)
class ArraysSource:
    """Labels in a file of arrays.

    Attributes
    ----------
    file : ArrayFile
        The open file.
    num_classes : int or None
        C, if the caller says it.
    """

    file: ArrayFile
    num_classes: int | None = None

    @cached_property
    def found(self) -> Found:
        """What the file holds.

        Raises
        ------
        MismatchError
            If arrays are missing, or do not fit together.
        CorruptError
            If the file is damaged.
        """
        form, about = self._form, self._about
        return Found(
            format=self.file.format,
            kind=form.kind,
            num_images=self._num_images,
            num_crops=self._num_images * form.num_crops,
            crops=form.crops,
            source_bytes=self.file.path.stat().st_size,
            provenance={"file": self.file.path.name},
            metadata=about.metadata,
            stored_as=about.codec,
            image_checksums=form.image_checksums,
            lost=(*form.lost, *self._unread()),
            why_no_crops=WHY_NO_CROPS if form.crops == NO_CROPS else "",
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images in order; a few are in memory at a time."""
        form, names, path = self._form, self._names, self.file.path
        rows = max(1, _BYTES_AT_ONCE // max(1, sum(self._bytes_per_image(name) for name in names)))
        parts = {name: self.file.parts(name, rows) for name in names}
        keys = self.file.keys()
        for start in range(0, self._num_images, rows):
            block = {name: next(part) for name, part in parts.items()}
            for row in range(min(rows, self._num_images - start)):
                image, key = of_one_image(block, row), next(keys, None)
                if key is None:
                    raise CorruptError(f"{path}: {KEYS}: expected {self._num_images}, got {start + row}")
                yield Entry(key, f"{path}: image {start + row}", partial(form.image, image))
        for name, part in (*parts.items(), (KEYS, keys)):
            if next(part, None) is not None:
                raise CorruptError(f"{path}: {name}: expected {self._num_images} rows, got more")

    @cached_property
    def _names(self) -> list[str]:
        return [name for name in OF_IMAGES if name in self.file.shapes()]

    @cached_property
    def _about(self) -> About:
        text = self.file.text(ABOUT)
        return About() if text is None else About.parse(text, str(self.file.path))

    @cached_property
    def _num_images(self) -> int:
        """N, after a comparison of the shapes of all arrays."""
        shapes, path = self.file.shapes(), self.file.path
        try:
            labels = kind_name(self._names)
        except MismatchError as error:
            raise MismatchError(f"{path}: {error}") from None
        shape = shapes[labels][0]
        if len(shape) not in ((2, 3) if labels == INDICES else (3,)) or not prod(shape):
            raise MismatchError(f"{path}: {labels}: expected an array (N, M, ...), which is not empty, got shape {shape}")
        if KEYS not in shapes:
            raise MismatchError(f"{path}: expected an array 'keys' with the names of the images, got only {', '.join(sorted(shapes))}")
        for name in self._names:
            per_image, wanted = name in PLURALS.values(), shape[:1] if name in PLURALS.values() else shape[:2]
            if shapes[name][0][: len(wanted)] != wanted:
                what = "an image" if per_image else "an image and crop"
                raise MismatchError(f"{path}: {name}: expected a row for {what}, as {labels} of shape {shape}, got {shapes[name][0]}")
            if prod(shapes[name][0][1:]) > MAX_DENSE_NUMBERS:
                raise MismatchError(f"{path}: {name}: expected at most {MAX_DENSE_NUMBERS} numbers of an image, got {shapes[name][0]}")
        return shape[0]

    @cached_property
    def _form(self) -> Form:
        path = self.file.path
        _ = self._num_images
        first = of_one_image({name: next(self.file.parts(name, 1)) for name in self._names}, 0)
        stated = whole_number(self.file.whole(NUM_CLASSES), NUM_CLASSES, str(path)) if NUM_CLASSES in self.file.shapes() else None
        if None not in (stated, self.num_classes) and stated != self.num_classes:
            raise MismatchError(f"{path}: expected {self.num_classes} classes, got {stated}")
        try:
            return Form.of(first, self._about, self.num_classes or stated)
        except MismatchError as error:
            raise MismatchError(f"{path}: {error}") from None

    def _bytes_per_image(self, name: str) -> int:
        shape, dtype = self.file.shapes()[name]
        return prod(shape[1:]) * dtype.itemsize

    def _unread(self) -> Iterator[str]:
        known = {*OF_IMAGES, KEYS, NUM_CLASSES, ABOUT}
        for name in sorted(set(self.file.shapes()) - known):
            yield f"array {name!r}: not one of {', '.join(sorted(known))}"
