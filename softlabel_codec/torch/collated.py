"""Errors for labels that were not collated with `collate_crops`."""

from __future__ import annotations

from typing import Any, NoReturn

from torch.utils.data._utils.collate import default_collate_fn_map

from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import DenseLabels, SparseLabels
from softlabel_codec.torch.tensorlike import TensorLike

_ADVICE = "Give the DataLoader collate_fn=collate_crops (of softlabel_codec.torch), or collate it with collate_crops([sample])"


def check_collated(labels: Any) -> None:
    """Raise ArgumentError unless labels are targets of a batch."""
    if not isinstance(labels, TensorLike):
        of_sample = " of a single sample" if isinstance(labels, SparseLabels | DenseLabels) else ""
        raise ArgumentError(f"labels: expected SparseTargets or DenseTargets, got {type(labels).__name__}{of_sample}. {_ADVICE}")


def _refuse(batch: Any, *, collate_fn_map: Any = None) -> NoReturn:
    """Replace torch's `default_collate` for labels, which it cannot collate."""
    raise ArgumentError(f"a DataLoader cannot collate soft labels by itself. {_ADVICE}")


default_collate_fn_map[SparseLabels] = default_collate_fn_map[DenseLabels] = _refuse
