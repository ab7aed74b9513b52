"""The arrays in which labels are exchanged, by name: the same in `.npz` and safetensors files, tables, and members of shards.

=================  ==========================  ==========================================================================================
of N images        of one image                what
=================  ==========================  ==========================================================================================
`keys` (N,)        (the member or row has it)  text: names of the images, each once
`probs`            `probs`                     float (N, M, C), (M, C): probabilities of all classes; or else
`logits`           `logits`                    likewise what the teacher returned before its softmax; or else
`features`         `features`                  likewise other numbers, such as the output of a projection head; or else
`indices`          `indices`                   integer (N, M, K), (M, K): the most probable classes; after the last one of a crop -1
`values`           `values`                    float, likewise: their probabilities, not renormalised; without them labels are `hard`
`crops`            `crops`                     (N, M, 4), (M, 4): top, left, height, width; integers in pixels, or floats as fractions
`flips`            `flips`                     bool (N, M), (M,): whether a crop is mirrored; none is if left out
`image_sizes`      `image_size`                integer (N, 2), (2,): height and width; needed with crops in pixels
`image_crc32s`     `image_crc32`               uint32 (N,), (): CRC-32 of the images' files; may be left out
`num_classes`      `num_classes`               integer (): C, needed with `indices`
`about`            (once in a file or shard)   text: JSON that an export adds: codec and metadata; may be left out
=================  ==========================  ==========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError
from softlabel_codec.formats.importing import NO_CROPS, PIXELS, SourceImage
from softlabel_codec.formats.labels import INDICES, KINDS, VALUES, Arrays, Kind, checked, kept_float_bytes, kind_name

KEYS, CROPS, FLIPS, NUM_CLASSES, ABOUT = "keys", "crops", "flips", "num_classes", "about"
PLURALS = {"image_size": "image_sizes", "image_crc32": "image_crc32s"}
"""Arrays of N images that have another name than those of one."""
OF_IMAGE = (*KINDS, VALUES, CROPS, FLIPS, *PLURALS)
"""Arrays of one image."""
WHY_NO_CROPS = (
    "the source has no array 'crops'. Add one; for labels of whole images that is [0.0, 0.0, 1.0, 1.0], as fractions, if the teacher saw "
    "nothing less"
)


@dataclass(frozen=True)
class About:
    """What an export says of a label file of ours.

    Attributes
    ----------
    codec : Codec or None
        Its codec; None if the source is none of our exports.
    metadata : dict
        Its metadata.
    """

    codec: Codec | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps({"codec": str(self.codec), "metadata": self.metadata}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def parse(cls, text: object, where: str) -> About:
        """Return what `text` made; CorruptError if it is something else."""
        try:
            found = json.loads(text)  # type: ignore[arg-type]  # what is no text is a TypeError
            codec, metadata = Codec.parse(found["codec"]), found["metadata"]
        except (ValueError, KeyError, TypeError, RecursionError, ArgumentError) as error:
            raise CorruptError(f"{where}: about: expected JSON with codec and metadata, as an export writes it: {error!r}") from None
        if not isinstance(metadata, dict):
            raise CorruptError(f"{where}: about: expected an object as metadata, got {type(metadata).__name__}")
        return cls(codec, metadata)


@dataclass(frozen=True)
class Form:
    """In which form the images of a source come: that of the first one.

    Attributes
    ----------
    kind : Kind
        Their labels.
    crops : str
        How crops are given: see `Found.crops`.
    num_crops : int
        M of the first image.
    image_checksums : bool
        Whether checksums of the images' files are given.
    lost : tuple of str
        What is lost of such images.
    """

    kind: Kind
    crops: str
    num_crops: int
    image_checksums: bool
    lost: tuple[str, ...]

    @classmethod
    def of(cls, first: Arrays, about: About, num_classes: int | None) -> Form:
        """Return the form of an image.

        Parameters
        ----------
        first : mapping of str to array
            The arrays of an image.
        about : About
            What is said of the source.
        num_classes : int, optional
            C as the caller or the source says it.

        Raises
        ------
        ArgumentError
            If the number of classes is not known.
        MismatchError
            If there are no labels, or they have no such form.
        """
        name = kind_name(first)
        labels = first[name]
        if labels.ndim not in ((1, 2) if name == INDICES else (2,)) or not labels.size:
            raise MismatchError(f"{name}: expected an array with a row for each crop of an image, got shape {labels.shape}")
        lost = []
        number = first.get(VALUES) if name == INDICES else labels
        if number is not None and number.dtype.itemsize > 4:
            lost.append(f"float64: {name} are rounded to float32")
        if name == INDICES:
            c = _given(num_classes)
            k: int | None = labels.shape[1] if labels.ndim == 2 else 1
            if number is None and k != 1:
                raise MismatchError(f"indices: expected one class of each crop, as there are no values, got {k}")
        else:
            c, k = labels.shape[1], None
            if num_classes not in (None, c):
                raise MismatchError(f"{name}: expected {num_classes} classes, got {c}")
        floats = None if number is None else kept_float_bytes(number.dtype, VALUES if name == INDICES else name)
        crops = first.get(CROPS)
        mode = NO_CROPS if crops is None else PIXELS
        if crops is not None and crops.dtype.kind == "f":
            mode = "fractions:f16" if crops.dtype.itemsize == 2 else "fractions:f32"
        stored_as = about.codec if about.codec is not None and about.codec.family == "sparse" else None
        return cls(Kind(name, c, k, floats, stored_as), mode, len(labels), "image_crc32" in first, tuple(lost))

    def image(self, arrays: Arrays) -> SourceImage:
        """Return an image; MismatchError if it has another form."""
        labels = checked(arrays, self.kind)
        return SourceImage(labels, self._crops(arrays), _flips(arrays), _size(arrays), _crc32(arrays, self.image_checksums))

    def _crops(self, arrays: Arrays) -> NDArray[Any] | None:
        crops = arrays.get(CROPS)
        if (crops is None) != (self.crops == NO_CROPS):
            raise MismatchError(f"crops: expected {'none' if crops is not None else 'some'}, as in the first image")
        if crops is None:
            return None
        if crops.ndim != 2 or crops.shape[1] != 4 or crops.dtype.kind not in "iuf":
            raise MismatchError(f"crops: expected numbers of shape (M, 4), got {crops.dtype} of shape {crops.shape}")
        if (crops.dtype.kind == "f") == (self.crops == PIXELS):
            raise MismatchError(f"crops: expected {self.crops}, as in the first image, got {crops.dtype}")
        if crops.dtype.kind != "f":
            return crops
        if not ((crops >= 0).all() and (crops <= 1).all()):
            row = (
                int(((crops < 0) | (crops > 1)).any(axis=1).argmax())
                if np.isfinite(crops).all()
                else int((~np.isfinite(crops)).argmax() // 4)
            )
            advice = "Pixels are integers: convert them"
            raise MismatchError(f"crops: crop {row}: expected fractions from 0 to 1, got {crops[row].tolist()}. {advice}")
        return crops.astype(np.float32) if crops.dtype.itemsize > 4 else crops


def _given(num_classes: int | None) -> int:
    if num_classes is None:
        raise ArgumentError("num_classes: labels of some classes do not say how many there are: pass it (--num-classes), or store it")
    return num_classes


def _flips(arrays: Arrays) -> NDArray[np.bool_] | None:
    flips = arrays.get(FLIPS)
    if flips is None:
        return None
    if flips.ndim != 1 or flips.dtype.kind not in "biu" or not ((flips == 0) | (flips == 1)).all():
        raise MismatchError(f"flips: expected bool (M,), got {flips.dtype} of shape {flips.shape}")
    return flips.astype(np.bool_)


def _size(arrays: Arrays) -> tuple[int, int] | None:
    size = arrays.get("image_size")
    if size is None:
        return None
    if size.shape != (2,) or size.dtype.kind not in "iu":
        raise MismatchError(f"image_size: expected height and width as integers, got {size.dtype} of shape {size.shape}")
    return int(size[0]), int(size[1])


def _crc32(arrays: Arrays, wanted: bool) -> int | None:
    crc32 = arrays.get("image_crc32")
    if (crc32 is not None) != wanted:
        raise MismatchError(f"image_crc32: expected {'one' if wanted else 'none'}, as in the first image")
    if crc32 is None:
        return None
    if crc32.shape != () or crc32.dtype.kind not in "iu":
        raise MismatchError(f"image_crc32: expected an integer, got {crc32.dtype} of shape {crc32.shape}")
    return int(crc32)


def whole_number(array: NDArray[Any], name: str, where: str) -> int:
    """Return the integer that an array of one number holds; CorruptError if it holds something else."""
    if array.size != 1 or array.dtype.kind not in "iu":
        raise CorruptError(f"{where}: {name}: expected one integer, got {array.dtype} of shape {array.shape}")
    return int(array.reshape(-1)[0])


def of_one_image(arrays: Mapping[str, NDArray[Any]], number: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of an image out of those of several."""
    return {name: np.asarray(arrays[plural][number]) for name in OF_IMAGE if (plural := PLURALS.get(name, name)) in arrays}
