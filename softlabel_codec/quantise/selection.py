"""Selects the classes of a crop to keep: from probabilities, or from given top-K classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arrays import as_array
from softlabel_codec.checks.limits import MAX_KEPT_CLASSES
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError

SUM_TOLERANCE = 1e-3
SMALL_REMAINDER = 1e-5
"""Remainders below this are summed up, where that is possible: of so little, 1 - sum of the values is mostly the rounding of these."""


@dataclass(frozen=True)
class Selection:
    """The kept classes of R crops, most probable first, ties in order of class.

    Attributes
    ----------
    indices : int64 (R, K)
        Classes; rows that keep fewer than K are padded with -1.
    values : float32 (R, K)
        Their probabilities; padding is 0.
    remainder : float64 (R,)
        1 - sum of the values, at least 0; or the sum of what is left out, where that is known and small. Exactly 0 where all classes are
        kept.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float32]
    remainder: NDArray[np.float64]


def select_from_probs(probs: NDArray[np.float32], codec: Codec) -> Selection:
    """Select the classes that `codec` keeps of `probs`, float32 (R, C), already checked."""
    if codec.kept_classes == 1:
        top = probs.argmax(axis=1)[:, None]
        return _finish(top.astype(np.int64), np.take_along_axis(probs, top, axis=1), probs.shape[1])
    return select_where(_candidates(probs, codec), probs, codec.k)


def select_where(kept: NDArray[np.bool_], probs: NDArray[np.float32], most: int | None = None) -> Selection:
    """Return the selection of the classes that are marked in `kept` (R, C), at least one of each crop: at most the `most` most probable."""
    rows, classes = np.nonzero(kept)
    values = probs[rows, classes]
    order = np.lexsort((-values, rows))  # stable: nonzero has already put the classes of a row in ascending order
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    if most is not None:  # ties at the last value may have let too many in
        order, rows, place = order[place < most], rows[place < most], place[place < most]
    indices = np.full((len(probs), int(place.max()) + 1), -1, np.int64)
    kept_values = np.zeros(indices.shape, np.float32)
    indices[rows, place] = classes[order]
    kept_values[rows, place] = values[order]
    return _finish(indices, kept_values, probs.shape[1])


def sum_small_remainders(selection: Selection, probs: NDArray[np.float32]) -> Selection:
    """Return a selection of probabilities (R, C) whose small remainders are the sums of what is left out."""
    rows = np.flatnonzero(selection.remainder < SMALL_REMAINDER)
    kept, others = selection.indices[rows], probs[rows]
    crops, places = np.nonzero(kept >= 0)
    others[crops, kept[crops, places]] = 0
    remainder = selection.remainder.copy()
    remainder[rows] = others.sum(axis=1, dtype=np.float64)
    return replace(selection, remainder=remainder)


def select_from_topk(
    indices: NDArray[Any], values: NDArray[Any], codec: Codec, num_classes: int, others: NDArray[np.float64] | None = None
) -> Selection:
    """Select the classes that `codec` keeps of classes that are already the most probable ones.

    Parameters
    ----------
    indices : integer (R, K)
        Distinct classes of each crop, in any order.
    values : float (R, K)
        Their probabilities.
    others : float64 (R,), optional
        The sum of the probabilities of all other classes: small remainders are summed up from these.

    Raises
    ------
    ArgumentError
        If rows are not valid labels, or too few classes are given for the codec to choose from.
    """
    indices, values = indices.astype(np.int64), values.astype(np.float32)
    before, after = values[:, :-1], values[:, 1:]
    if not ((before > after) | ((before == after) & (indices[:, :-1] < indices[:, 1:]))).all():
        order = np.lexsort((indices, -values), axis=1)
        indices, values = np.take_along_axis(indices, order, axis=1), np.take_along_axis(values, order, axis=1)
    given = indices.shape[1]
    if codec.t is not None:
        threshold = np.float32(codec.t)
        complete = (values[:, -1] < threshold) | (given == num_classes) | (given * codec.t > 1 + SUM_TOLERANCE)
        _check_rows(complete, f"the {given} given classes all have p >= t={codec.t}, so more may be missing: pass more classes")
        kept = values >= threshold
        kept[:, 0] = True
    else:
        wanted = codec.kept_classes or given
        if given < wanted:
            raise ArgumentError(f"codec {str(codec)!r}: expected at least {wanted} classes per crop, got {given}")
        kept = np.broadcast_to(np.arange(given) < wanted, values.shape)
    width = int(kept.sum(axis=1).max())
    selection = _finish(np.where(kept, indices, -1)[:, :width], np.where(kept, values, 0)[:, :width], num_classes)
    if others is None:
        return selection
    left = others + np.where(kept, 0, values).sum(axis=1, dtype=np.float64)
    return replace(selection, remainder=np.where(selection.remainder < SMALL_REMAINDER, left, selection.remainder))


def check_probs(probs: object, num_crops: int, num_classes: int) -> NDArray[Any]:
    """Return `probs` as an array if its rows are probabilities of C classes, else raise ArgumentError."""
    array = check_floats("probs", probs, (num_crops, num_classes))
    sums = array.sum(axis=1, dtype=np.float64)
    _check_rows(np.isfinite(sums), "holds NaN or infinity", "probs")
    _check_rows(array >= 0, "holds a negative probability", "probs")
    off = np.abs(sums - 1) > SUM_TOLERANCE
    if off.any():
        row = int(off.argmax())
        raise ArgumentError(
            f"probs: row {row}: expected probabilities that sum to 1 (within {SUM_TOLERANCE:g}), got a sum of {sums[row]:.6g}. "
            "Pass softmax(logits), not logits."
        )
    return array


def check_topk(indices: object, values: object, num_crops: int, num_classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return top-K classes and their probabilities as arrays if they are valid labels, else raise ArgumentError."""
    classes = as_array("indices", indices)
    if classes.dtype.kind not in "iu" or classes.ndim != 2 or len(classes) != num_crops or not 1 <= classes.shape[1] <= MAX_KEPT_CLASSES:
        raise ArgumentError(f"indices: expected integers of shape ({num_crops}, K), got {_describe(classes)}")
    array = check_floats("values", values, (num_crops, classes.shape[1]))
    _check_rows((classes >= 0) & (classes < num_classes), f"holds a class outside 0..{num_classes - 1}", "indices")
    ordered = np.sort(classes, axis=1)
    _check_rows(ordered[:, 1:] != ordered[:, :-1], "holds a class twice", "indices")
    sums = array.sum(axis=1, dtype=np.float64)
    _check_rows(np.isfinite(sums), "holds NaN or infinity", "values")
    _check_rows(array >= 0, "holds a negative probability", "values")
    _check_rows((sums <= 1 + SUM_TOLERANCE) & (sums > 0), "expected probabilities that sum to at most 1 and more than 0", "values")
    return classes, array


def check_others(others: object, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return what crops leave to classes that are not given, float64 (R,), if it completes these values to 1, else raise ArgumentError."""
    array = check_floats("others", others, (len(values),)).astype(np.float64)
    off = ~(np.isfinite(array) & (array >= 0) & (np.abs(array + values.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE))
    _check_rows(~off, "expected what is left of 1 by the values, within 0.001, and not negative", "others")
    return array


def check_left_out(left_out: object, num_classes: int) -> NDArray[np.float64]:
    """Return the probability of each class that an image's crops left out, float64 (C,), if valid, else raise ArgumentError."""
    array = check_floats("left_out", left_out, (num_classes,)).astype(np.float64)
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ArgumentError("left_out: expected sums of probabilities, finite and not negative")
    return array


def check_floats(name: str, array: object, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return `array` as a float array of that shape, else raise ArgumentError."""
    result = as_array(name, array)
    if result.dtype.kind != "f" or result.shape != shape:
        raise ArgumentError(f"{name}: expected floats of shape {shape}, got {_describe(result)}")
    return result


def wrong_labels(codec: Codec, wanted: str, labels: Mapping[str, Any]) -> ArgumentError:
    """Return the error for labels that are passed by names that a codec does not take."""
    return ArgumentError(f"codec {str(codec)!r}: expected {wanted}, got {' and '.join(labels) or 'no labels'}")


def _candidates(probs: NDArray[np.float32], codec: Codec) -> NDArray[np.bool_]:
    if codec.t is None:
        assert codec.k is not None
        place = probs.shape[1] - codec.k
        smallest_kept: NDArray[np.float32] = np.partition(probs, place, axis=1)[:, place]
        candidates: NDArray[np.bool_] = probs >= smallest_kept[:, None]
        return candidates
    kept: NDArray[np.bool_] = probs >= np.float32(codec.t)
    kept[np.arange(len(probs)), probs.argmax(axis=1)] = True
    return kept


def implied_remainder(values: NDArray[np.float32], indices: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return max(0, 1 - sum of values), and 0 where all classes are kept, float64 (R,)."""
    remainder: NDArray[np.float64] = np.maximum(0.0, 1.0 - values.sum(axis=1, dtype=np.float64))
    if indices.shape[1] >= num_classes:
        remainder[(indices >= 0).sum(axis=1) == num_classes] = 0.0
    return remainder


def _finish(indices: NDArray[np.int64], values: NDArray[np.float32], num_classes: int) -> Selection:
    values = values + np.float32(0)  # -0.0 becomes 0.0
    return Selection(indices, values, implied_remainder(values, indices, num_classes))


def _check_rows(good: Any, problem: str, name: str = "values") -> None:
    """Raise ArgumentError unless all of `good`, (R,) or (R, K), is true."""
    if not good.all():
        raise ArgumentError(f"{name}: row {int(np.argmin(good.reshape(len(good), -1).all(axis=1)))}: {problem}")


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
