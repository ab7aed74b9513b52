"""Sparse labels: selection, value encoding and tails together (spec/sparse-v1.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import SparseLabels, check_policy
from softlabel_codec.quantise.gain import select_by_gain
from softlabel_codec.quantise.selection import (
    Selection,
    check_left_out,
    check_probs,
    check_topk,
    select_from_probs,
    select_from_topk,
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
    tails : TailCodes or None
        Tails of I images, if the codec keeps them.
    tail_of : int64 (R,) or None
        Index of the tail of each crop's image.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.int64] | None
    remainders: NDArray[np.int64] | None
    tails: TailCodes | None = None
    tail_of: NDArray[np.int64] | None = None


class SparseQuantiser:
    """Quantiser of sparse codecs."""

    def __init__(self, codec: Codec, num_classes: int) -> None:
        self._codec, self._num_classes = codec, num_classes
        self._encoding: ValueEncoding = value_encoding(codec, num_classes)

    def quantise(self, labels: Mapping[str, Any], num_crops: int) -> SparseCodes:
        tail = self._codec.tail
        left_out: NDArray[Any]
        if set(labels) == {"probs"}:
            probs = check_probs(labels["probs"], num_crops, self._num_classes).astype(np.float32, copy=False)
            if self._codec.gain is not None:
                return self.of_selection(*select_by_gain(probs, self._codec.gain, tail))
            selection = select_from_probs(probs, self._codec)
            left_out = left_out_of(probs, selection) if tail else np.empty(0)
        elif self._codec.gain is not None:
            why = "Which classes gain enough is not known of the most probable ones alone"
            raise ArgumentError(f"{wrong_labels(self._codec, 'probs', labels)}. {why}")
        elif set(labels) == {"indices", "values"} | ({"left_out"} if tail else set()):
            topk = check_topk(labels["indices"], labels["values"], num_crops, self._num_classes)
            selection = select_from_topk(*topk, self._codec, self._num_classes)
            left_out = check_left_out(labels["left_out"], self._num_classes) if tail else np.empty(0)
        else:
            raise wrong_labels(self._codec, "probs, or indices and values" + (" and left_out" if tail else ""), labels)
        return self.of_selection(selection, quantise_tail(left_out, selection, tail) if tail else None)

    def of_selection(self, selection: Selection, tail: TailCodes | None) -> SparseCodes:
        """Return the codes of an image's selection, and of its tail."""
        codes = SparseCodes(selection.indices, *self._encoding.quantise(selection))
        return codes if tail is None else codes._replace(tails=tail, tail_of=np.zeros(len(selection.indices), np.int64))

    def dequantise(self, codes: SparseCodes, policy: str) -> SparseLabels:
        values, remainder = self._encoding.dequantise(codes.indices, codes.values, codes.remainders)
        tails = None if codes.tails is None else dequantise_tails(codes.tails, self._num_classes)
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
            concatenate_tails(tails) if tails else None,
            np.repeat(np.arange(len(parts)), [len(part.indices) for part in parts]) if tails else None,
        )

    def rows(self, codes: SparseCodes, rows: slice, image: int) -> SparseCodes:
        kept = codes.indices[rows]
        width = int((kept >= 0).sum(axis=1).max())
        tails = None if codes.tails is None else tail_of_image(codes.tails, image)
        return SparseCodes(
            kept[:, :width],
            None if codes.values is None else codes.values[rows, :width],
            None if codes.remainders is None else codes.remainders[rows],
            tails,
            None if tails is None else np.zeros(len(kept), np.int64),
        )

    def policy(self, asked: str | None) -> str:
        return self._codec.policy if asked is None else check_policy(asked, self._codec.tail > 0)

    def num_entries(self, codes: SparseCodes) -> tuple[int, int, int]:
        num_listed = 0 if codes.tails is None else codes.tails.classes.shape[1]
        return int(np.count_nonzero(codes.indices >= 0)), codes.indices.shape[1], num_listed

    def expected_bytes(self, codes: SparseCodes) -> int:
        num_entries, _, num_listed = self.num_entries(codes)
        return num_entries * (1 + VALUE_WIDTH[self._codec.values]) + len(codes.indices) + 2 * num_listed

    def most_bytes(self, codes: SparseCodes) -> int:
        return 8 * codes.indices.size + (0 if codes.tails is None else 8 * codes.tails.classes.size)


def _widen(array: NDArray[np.int64], width: int, fill: int) -> NDArray[np.int64]:
    return array if array.shape[1] == width else np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
