"""Decoded labels, one row per crop: `SparseLabels`, `DenseLabels`; with crops and flips: `ImageLabels`, `BatchLabels`."""

from softlabel_codec.labels.concatenating import concatenate_labels
from softlabel_codec.labels.dense import DenseLabels
from softlabel_codec.labels.images import BatchLabels, ImageLabels, Labels
from softlabel_codec.labels.rows import Rows, TopK, as_rows
from softlabel_codec.labels.sparse import NO_TARGETS, SparseLabels, check_policy
from softlabel_codec.labels.tails import Tails

__all__ = [
    "NO_TARGETS",
    "BatchLabels",
    "DenseLabels",
    "ImageLabels",
    "Labels",
    "Rows",
    "SparseLabels",
    "Tails",
    "TopK",
    "as_rows",
    "check_policy",
    "concatenate_labels",
]
