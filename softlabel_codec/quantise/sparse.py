"""Sparse labels: selection, value encoding and tails together (spec/sparse-v1.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import SparseLabels, Tails, check_policy
from softlabel_codec.quantise.full_tails import FullTailCodes, dequantise_full_tails, full_tail_of_left_out, quantise_full_tail
from softlabel_codec.quantise.gain import select_by_gain
from softlabel_codec.quantise.neighbours import NEIGHBOURS
from softlabel_codec.quantise.places import Places
from softlabel_codec.quantise.selection import (
    Selection,
    check_left_out,
    check_others,
    check_probs,
    check_topk,
    select_from_probs,
    select_from_topk,
    sum_small_remainders,
    wrong_labels,
)
from softlabel_codec.quantise.tails import TailCodes, concatenate_tails, dequantise_tails, left_out_of, quantise_tail, tail_of_image
from softlabel_codec.quantise.values import VALUE_WIDTH, ValueEncoding, value_encoding


class SparseCodes(NamedTuple):
    """The labels of R crops as integers, ready to be packed into bytes.

    Attributes
    ----------
    indices : int64 (R, K)
        Kept classes, most probable first, padded with -1.
    values : int64 (R, K) or None
        Value codes, ascending within a row; arbitrary where padded. None if the codec stores no values.
    remainders : int64 (R,) or None
        Remainder codes; None if the encoding implies the remainder.
    tails : TailCodes, FullTailCodes or None
        Tails of I images, if the codec keeps them; FullTailCodes with `tail=all`.
    tail_of : int64 (R,) or None
        Index of the tail of each crop's image.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.int64] | None
    remainders: NDArray[np.int64] | None
    tails: TailCodes | FullTailCodes | None = None
    tail_of: NDArray[np.int64] | None = None


class SparseQuantiser:
    """Quantiser of sparse codecs."""

    def __init__(self, codec: Codec, num_classes: int) -> None:
        self._codec, self._num_classes = codec, num_classes
        self._encoding: ValueEncoding = value_encoding(codec, num_classes)

    def quantise(self, labels: Mapping[str, Any], num_crops: int, places: Places | None = None) -> SparseCodes:
        tail = self._codec.tail
        if set(labels) == {"probs"}:
            probs = check_probs(labels["probs"], num_crops, self._num_classes).astype(np.float32, copy=False)
            if self._codec.gain is not None:
                selection, codes = select_by_gain(probs, self._codec.gain, int(tail))
                return self.of_selection(self._summed(selection, probs), codes)
            selection = self._summed(select_from_probs(probs, self._codec), probs)
            return self.of_selection(selection, self.tail_of_probs(probs, selection))
        if self._codec.mean == "log" or self._codec.gain is not None:
            raise _only_probs(self._codec, labels)
        if set(labels) - {"others"} != {"indices", "values"} | ({"left_out"} if tail else set()):
            raise wrong_labels(self._codec, "probs, or indices and values" + (" and left_out" if tail else ""), labels)
        topk = check_topk(labels["indices"], labels["values"], num_crops, self._num_classes)
        others = check_others(labels["others"], topk[1]) if "others" in labels else None
        selection = select_from_topk(*topk, self._codec, self._num_classes, others)
        left_out = check_left_out(labels["left_out"], self._num_classes) if tail else None
        return self.of_selection(selection, None if left_out is None else self._tail_of_left_out(left_out, selection))

    def _summed(self, selection: Selection, probs: NDArray[np.float32]) -> Selection:
        return sum_small_remainders(selection, probs) if self._codec.values == "log8" else selection

    def tail_of_probs(self, probs: NDArray[np.float32], selection: Selection) -> TailCodes | FullTailCodes | None:
        """Return the tail of an image with these probabilities (R, C), of which its crops keep a selection; None if the codec has none."""
        if self._codec.mean == "log":
            return quantise_full_tail(probs, selection)
        return self._tail_of_left_out(left_out_of(probs, selection), selection) if self._codec.tail else None

    def _tail_of_left_out(self, left_out: NDArray[np.float64], selection: Selection) -> TailCodes | FullTailCodes:
        tail = self._codec.tail
        return quantise_tail(left_out, selection, tail) if isinstance(tail, int) else full_tail_of_left_out(left_out, selection)

    def of_selection(self, selection: Selection, tail: TailCodes | FullTailCodes | None) -> SparseCodes:
        """Return the codes of an image's selection, and of its tail."""
        codes = SparseCodes(selection.indices, *self._encoding.quantise(selection))
        return codes if tail is None else codes._replace(tails=tail, tail_of=np.zeros(len(selection.indices), np.int64))

    def dequantise(self, codes: SparseCodes, policy: str) -> SparseLabels:
        values, remainder = self._encoding.dequantise(codes.indices, codes.values, codes.remainders)
        tails = None if codes.tails is None else _dequantised(codes.tails, self._num_classes)
        return SparseLabels(codes.indices.astype(np.int32), values, remainder, self._num_classes, policy, tails, codes.tail_of)

    def concatenate(self, parts: Sequence[SparseCodes]) -> SparseCodes:
        if len(parts) == 1:
            return parts[0]
        width = max(part.indices.shape[1] for part in parts)
        values = [_widen(part.values, width, 0) for part in parts if part.values is not None]
        remainders = [part.remainders for part in parts if part.remainders is not None]
        tails = [part.tails for part in parts if part.tails is not None]
        return SparseCodes(
            np.concatenate([_widen(part.indices, width, -1) for part in parts]),
            np.concatenate(values) if values else None,
            np.concatenate(remainders) if remainders else None,
            _joined(tails) if tails else None,
            np.repeat(np.arange(len(parts)), [len(part.indices) for part in parts]) if tails else None,
        )

    def rows(self, codes: SparseCodes, rows: slice, image: int) -> SparseCodes:
        kept = codes.indices[rows]
        width = int((kept >= 0).sum(axis=1).max())
        tails = None if codes.tails is None else _of_image(codes.tails, image)
        return SparseCodes(
            kept[:, :width],
            None if codes.values is None else codes.values[rows, :width],
            None if codes.remainders is None else codes.remainders[rows],
            tails,
            None if tails is None else np.zeros(len(kept), np.int64),
        )

    def policy(self, asked: str | None) -> str:
        if asked is None:
            return self._codec.policy
        knows_shares = bool(self._codec.tail) or self._codec.values == "none"
        return check_policy(asked, bool(self._codec.tail), () if knows_shares else (NEIGHBOURS,))

    def num_entries(self, codes: SparseCodes) -> tuple[int, int, int]:
        return int(np.count_nonzero(codes.indices >= 0)), codes.indices.shape[1], _num_listed(codes.tails)

    def expected_bytes(self, codes: SparseCodes) -> int:
        num_entries, _, num_listed = self.num_entries(codes)
        of_tail = num_listed * (1 if self._codec.full_tail else 2)
        return num_entries * (1 + VALUE_WIDTH[self._codec.values]) + len(codes.indices) + of_tail

    def most_bytes(self, codes: SparseCodes) -> int:
        return 8 * (codes.indices.size + _num_listed(codes.tails))


def _only_probs(codec: Codec, labels: Mapping[str, Any]) -> ArgumentError:
    if codec.gain is not None:
        why = "Which classes gain enough is not known of the most probable ones alone"
    else:
        why = "Its tail is made of logarithms of all probabilities, for which left_out cannot stand; with mean=arithmetic it can"
    return ArgumentError(f"{wrong_labels(codec, 'probs', labels)}. {why}")


def _num_listed(tails: TailCodes | FullTailCodes | None) -> int:
    if tails is None:
        return 0
    return int((tails.codes if isinstance(tails, FullTailCodes) else tails.classes).shape[1])


def _dequantised(tails: TailCodes | FullTailCodes, num_classes: int) -> Tails:
    return dequantise_full_tails(tails) if isinstance(tails, FullTailCodes) else dequantise_tails(tails, num_classes)


def _of_image(tails: TailCodes | FullTailCodes, image: int) -> TailCodes | FullTailCodes:
    if isinstance(tails, FullTailCodes):
        return FullTailCodes(tails.codes[image : image + 1], tails.main_class[image : image + 1])
    return tail_of_image(tails, image)


def _joined(parts: Sequence[TailCodes | FullTailCodes]) -> TailCodes | FullTailCodes:
    full = [part for part in parts if isinstance(part, FullTailCodes)]
    if full:
        return FullTailCodes(np.concatenate([part.codes for part in full]), np.concatenate([part.main_class for part in full]))
    return concatenate_tails([part for part in parts if isinstance(part, TailCodes)])


def _widen(array: NDArray[np.int64], width: int, fill: int) -> NDArray[np.int64]:
    return array if array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
