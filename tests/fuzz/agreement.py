"""What the package and the independent reader in `minimal_reader.py` must agree on: which bytes are sound, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import minimal_reader
import numpy as np

from softlabel_codec.codec import Codec
from softlabel_codec.container.msgpack_maps import unpack_map
from softlabel_codec.errors import ArgumentError, FormatError
from softlabel_codec.labels import DenseLabels, Labels, SparseLabels

MAX_SLOW_BYTES = 2**16
MAX_SLOW_CLASSES = 2**14


class DisagreementError(AssertionError):
    """Two ways of reading the same bytes differ."""


def require(condition: Any, what: str) -> None:
    if not condition:
        raise DisagreementError(what)


def same_verdict(mine: str | None, theirs: str | None, what: str) -> None:
    """Raise DisagreementError unless both readers accept (None), or both refuse."""
    require((mine is None) == (theirs is None), f"{what}: the package says {mine or 'sound'}, the minimal reader {theirs or 'sound'}")


def comparable_metadata(data: bytes) -> bool:
    """Return whether the minimal reader can be asked: it knows canonical codec strings only, and lists all classes of a tail."""
    try:
        values = unpack_map(data)
    except FormatError:
        return True
    codec, num_classes = values.get("codec"), values.get("num_classes")
    if not isinstance(codec, str):
        return True
    try:
        parsed = Codec.parse(codec)
    except ArgumentError:
        return True
    return str(parsed) == codec and not (parsed.tail and isinstance(num_classes, int) and num_classes > MAX_SLOW_CLASSES)


def same_image(image: minimal_reader.Image, size: Sequence[int], crops: Any, flips: Any, labels: Labels, codec: Codec) -> None:
    """Compare what the package found of an image with what the minimal reader did."""
    require(list(image.size) == list(size), "size of an image")
    require(np.array_equal(np.array(image.crops, np.float64), np.asarray(crops, np.float64)), "crops")
    require(image.flips == flips.tolist(), "flips")
    if isinstance(labels, DenseLabels) and codec.values == "log8":
        for mine, theirs in zip(image.vectors, labels.vectors, strict=True):
            _close(mine, theirs, "vectors")
    elif isinstance(labels, DenseLabels):
        require(np.array_equal(np.array(image.vectors), labels.vectors.astype(np.float64)), "vectors")
    else:
        _same_sparse(image, labels)


def _same_sparse(image: minimal_reader.Image, labels: SparseLabels) -> None:
    counts = labels.counts.tolist()
    require(image.indices == [row[:count] for row, count in zip(labels.indices.tolist(), counts, strict=True)], "classes")
    for row, (values, count) in enumerate(zip(image.values, counts, strict=True)):
        _close(values, labels.values[row, :count], "values")
        require(not labels.values[row, count:].any(), "padding")
    _close(image.remainder, labels.remainder, "remainders")
    if labels.tails is not None and labels.tail_of is not None:
        weights = labels.tails.dense(labels.num_classes)[labels.tail_of]
        for row in weights:
            _close(image.tail or [], row, "tail")
        slopes = labels.tails.slopes
        require((image.slopes is None) == (slopes is None), "whether a tail has slopes")
        if slopes is not None and image.slopes is not None:
            require((slopes[labels.tail_of] == 1.5 * np.array(image.slopes)).all(), "slopes of a tail")
            require((labels.tails.main_class[labels.tail_of] == image.main_class).all(), "main class")  # type: ignore[index]


def _close(mine: Sequence[float], theirs: Any, what: str) -> None:
    """Up to the order of summation: an ulp of binary32, and the last places of 1 less a sum."""
    good = len(mine) == len(theirs) and np.allclose(np.array(mine, np.float64), theirs, rtol=2.0**-22, atol=1e-12)
    require(good, f"{what}: {list(mine)[:5]} and {np.asarray(theirs).tolist()[:5]}")


def same_labels(mine: Labels, theirs: Labels, what: str) -> None:
    """Compare labels of two ways of the package: bit by bit, but for padding."""
    if isinstance(mine, DenseLabels) or isinstance(theirs, DenseLabels):
        require(np.array_equal(mine.vectors, theirs.vectors), f"{what}: vectors")  # type: ignore[union-attr]
        return
    width = max(mine.indices.shape[1], theirs.indices.shape[1])
    for name, fill in (("indices", -1), ("values", 0)):
        arrays = [_widened(getattr(labels, name), width, fill) for labels in (mine, theirs)]
        require(np.array_equal(*arrays), f"{what}: {name}")
    require(np.array_equal(mine.remainder, theirs.remainder), f"{what}: remainder")
    require((mine.tails is None) == (theirs.tails is None), f"{what}: tails")
    if mine.tails is not None and theirs.tails is not None:
        for row, (one, other) in enumerate(zip(mine.tail_of, theirs.tail_of, strict=True)):
            _same_tail(mine.tails, int(one), theirs.tails, int(other), f"{what}: tail of row {row}")


def _same_tail(mine: Any, one: int, theirs: Any, other: int, what: str) -> None:
    for name in ("classes", "weights"):
        listed = [getattr(tails, name)[place][tails.classes[place] >= 0] for tails, place in ((mine, one), (theirs, other))]
        require(np.array_equal(*listed), f"{what}: {name}")
    require(mine.floor[one] == theirs.floor[other], f"{what}: floor")
    for name in ("slopes", "main_class"):
        arrays = [getattr(tails, name) for tails in (mine, theirs)]
        require((arrays[0] is None) == (arrays[1] is None), f"{what}: whether there are {name}")
        require(arrays[0] is None or np.array_equal(arrays[0][one], arrays[1][other]), f"{what}: {name}")


def _widened(array: Any, width: int, fill: int) -> Any:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
