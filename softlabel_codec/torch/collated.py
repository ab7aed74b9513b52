"""What is said where labels arrive that `collate_crops` should have put together."""

from __future__ import annotations

from typing import Any, NoReturn

from torch.utils.data._utils.collate import default_collate_fn_map

from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels import DenseLabels, SparseLabels
from softlabel_codec.torch.targets import DenseTargets, SparseTargets

_ADVICE = "Give the DataLoader collate_fn=collate_crops (of softlabel_codec.torch), or put it together with collate_crops([sample])"


def check_collated(labels: Any) -> None:
    """Raise ArgumentError unless labels are targets of a batch."""
    if not isinstance(labels, SparseTargets | DenseTargets):
        of_sample = " of a single sample" if isinstance(labels, SparseLabels | DenseLabels) else ""
        raise ArgumentError(f"labels: expected SparseTargets or DenseTargets, got {type(labels).__name__}{of_sample}. {_ADVICE}")


def _refuse(batch: Any, *, collate_fn_map: Any = None) -> NoReturn:
    """Stand in for what torch's `default_collate` does with labels, which are more than a tensor."""
    raise ArgumentError(f"a DataLoader cannot put soft labels together by itself. {_ADVICE}")


default_collate_fn_map[SparseLabels] = default_collate_fn_map[DenseLabels] = _refuse
