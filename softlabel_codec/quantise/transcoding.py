"""Labels of one codec as labels of another: what is possible, and the selection that the other keeps of what is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import ALL, Codec
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.labels import DenseLabels, Labels, SparseLabels
from softlabel_codec.quantise.dense import DenseCodes, DenseQuantiser
from softlabel_codec.quantise.field import FieldCodes, FieldQuantiser
from softlabel_codec.quantise.places import Places
from softlabel_codec.quantise.selection import SMALL_REMAINDER, SUM_TOLERANCE, Selection, implied_remainder
from softlabel_codec.quantise.sparse import SparseCodes, SparseQuantiser

AnyCodes = SparseCodes | DenseCodes | FieldCodes
_QUANTISERS: dict[str, type[SparseQuantiser | DenseQuantiser | FieldQuantiser]] = {
    "sparse": SparseQuantiser,
    "dense": DenseQuantiser,
    "field": FieldQuantiser,
}
_STORED = ("kept_classes", "t", "gain", "values", "step", "tail", "mean")


def stored_alike(one: Codec, other: Codec) -> bool:
    """Return whether labels have the same bytes in both codecs, which then differ at most in how they are read."""
    sparse = one.family == other.family == "sparse"
    return one == other or (sparse and all(getattr(one, name) == getattr(other, name) for name in _STORED))


def check_transcoding(source: Codec, target: Codec) -> None:
    """Raise ArgumentError if labels of one codec cannot become labels of another, whatever they are; the text says what is lost."""
    reason = None
    if not stored_alike(source, target):
        reason = _field_reason(source, target) or _dense_reason(source, target) or _sparse_reason(source, target)
    if reason:
        raise ArgumentError(f"codec: labels of {str(source)!r} cannot become {str(target)!r}: {reason}")


def _field_reason(source: Codec, target: Codec) -> str:
    """Return why it is not possible, if either codec is a field; else an empty text."""
    if target.family == "field":
        return "" if source.family == "dense" and source.content != "features" else "a field is made from the probabilities of all classes"
    if source.family == "field" and target.family == "dense":
        return "the source is an approximation of them. Readers give targets of all classes: labels.dense()"
    return ""


def _dense_reason(source: Codec, target: Codec) -> str:
    """Return why it is not possible, if either codec is dense; else an empty text."""
    if "field" in (source.family, target.family):
        return ""
    if source.family == "sparse":
        return "" if target.family == "sparse" else "what the source left out is lost. Readers give targets of all classes: labels.dense()"
    if source.content == target.content:
        return ""
    if source.content == "features":
        return "the source holds features, which are no probabilities of classes"
    return "the source holds probabilities, and logits are lost" if target.content == "logits" else _features_reason(target)


def _features_reason(target: Codec) -> str:
    return "the source holds no features" if target.content == "features" else ""


def _sparse_reason(source: Codec, target: Codec) -> str:
    """Return why it is not possible, if both codecs are sparse; else an empty text."""
    if not source.family == target.family == "sparse":
        return ""
    if source.values == "none":
        return "" if target.values == "none" else "the source keeps the top class without its probability"
    if target.gain is not None and target.gain != source.gain:
        return "which classes gain enough depends on the probabilities of all of them, which only dense labels have"
    if source.gain is not None and target.t is not None:
        return "the source keeps classes by what they gain, and not all that are as probable"
    if target.t is not None and not (source.t is None or source.t <= target.t):
        return f"the source keeps classes with at least {source.t:g} only; the others are lost"
    wanted = target.kept_classes
    if wanted is not None and wanted > (source.kept_classes or 1):
        keeps = f"{source.kept_classes} of" if source.kept_classes else "as few as 1 of"
        return f"the source keeps {keeps} the {wanted} classes of each crop that are needed; the others are lost"
    if target.mean == "log" and source.mean != "log":
        return "the source does not have the logarithms of what its crops left out; those of dense labels can be had"
    if _longer(target.tail, source.tail) and not _drops(source, target):
        knows = f"lists {source.tail} classes in its tail" if source.tail else "does not know how the remainder is distributed"
        return f"the source {knows}; keep fewer classes of each crop, or ask for no longer tail"
    return ""


def _longer(one: int | str, other: int | str) -> bool:
    """Return whether a tail has more classes than another; each is a number or `all`."""
    return other != ALL and (one == ALL or int(one) > int(other))


def _drops(source: Codec, target: Codec) -> bool:
    """Return whether a sparse codec keeps fewer classes than another."""
    return (target.kept_classes, target.t, target.gain) != (source.kept_classes, source.t, source.gain)


@dataclass(frozen=True)
class Transcoder:
    """Makes codes of one codec of the labels of another. `check_transcoding` has been passed.

    Attributes
    ----------
    source, target : Codec
        From which codec to which.
    num_classes : int
        C.
    """

    source: Codec
    target: Codec
    num_classes: int

    def codes(self, labels: Labels, codes: AnyCodes, places: Places) -> AnyCodes:
        """Return the codes of all crops of one image, whose labels are known as such and as codes of the source, and which are there.

        Raises
        ------
        MismatchError
            If these labels lack a class that the target needs, or do not fit the precision of its values.
        """
        if stored_alike(self.source, self.target):
            return codes
        try:
            if isinstance(labels, DenseLabels) or self.source.family == "field":
                return self._of_dense(labels, places)
            assert isinstance(labels, SparseLabels)
            assert isinstance(codes, SparseCodes)
            return self._of_sparse(labels, codes)
        except ArgumentError as error:
            raise MismatchError(str(error)) from None

    def _of_dense(self, labels: Labels, places: Places) -> AnyCodes:
        quantiser = _QUANTISERS[self.target.family](self.target, self.num_classes)
        if self.target.content != "probs":
            assert isinstance(labels, DenseLabels)
            return quantiser.quantise({"vectors": labels.vectors}, len(labels))
        return quantiser.quantise({"probs": _normalised(labels.dense())}, len(labels), places)

    def _of_sparse(self, labels: SparseLabels, codes: SparseCodes) -> SparseCodes:
        quantiser = SparseQuantiser(self.target, self.num_classes)
        selection = self._selection(labels)
        if not self.target.tail:
            return quantiser.of_selection(selection, None)
        if (self.target.tail, self.target.mean) == (self.source.tail, self.source.mean) and not _drops(self.source, self.target):
            return quantiser.of_selection(selection, codes.tails)
        spread = labels.with_policy("uniform") if labels.policy == "renorm" else labels
        return quantiser.of_selection(selection, quantiser.tail_of_probs(spread.dense(), selection))

    def _selection(self, labels: SparseLabels) -> Selection:
        """Return what the target keeps of the classes that the source keeps."""
        kept = labels.indices >= 0
        if _drops(self.source, self.target):
            kept = kept & (self._above_threshold(labels) if self.target.t is not None else self._first(labels))
        width = int(kept.sum(axis=1).max())
        indices = np.where(kept, labels.indices, -1)[:, :width].astype(np.int64)
        values = np.where(kept, labels.values, np.float32(0))[:, :width]
        implied = implied_remainder(values, indices, self.num_classes)
        left_out = labels.remainder + np.where(kept, 0, labels.values).sum(axis=1, dtype=np.float64)
        return Selection(indices, values, np.where(implied < SMALL_REMAINDER, left_out, implied))

    def _first(self, labels: SparseLabels) -> NDArray[np.bool_]:
        return np.broadcast_to(np.arange(labels.indices.shape[1]) < (self.target.kept_classes or 0), labels.indices.shape)

    def _above_threshold(self, labels: SparseLabels) -> NDArray[np.bool_]:
        threshold = np.float32(self.target.t or 0)
        kept = labels.values >= threshold
        others = kept.all(axis=1) & (labels.remainder >= threshold)
        if self.source.t is None and others.any():
            all_of_them = f"all {labels.indices.shape[1]} classes that the source keeps have at least {threshold:g}"
            raise ArgumentError(f"crop {int(others.argmax())}: {all_of_them}, and so may others, which are lost")
        kept[:, 0] = True
        found: NDArray[np.bool_] = kept
        return found


def _normalised(probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities (R, C) that add up to 1 as a writer demands, which rounded ones of many classes may not."""
    sums = probs.sum(axis=1, dtype=np.float64, keepdims=True)
    return np.asarray(np.where(np.abs(sums - 1) > SUM_TOLERANCE, probs / sums, probs), np.float32)
