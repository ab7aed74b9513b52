"""`concatenate_labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import ArgumentError
from softlabel_codec.labels.dense import DenseLabels
from softlabel_codec.labels.images import Labels
from softlabel_codec.labels.sparse import SparseLabels
from softlabel_codec.labels.tails import Tails


def concatenate_labels(parts: Sequence[Labels]) -> Labels:
    """Concatenate labels of the same kind; sparse labels are padded to the widest."""
    sparse = [part for part in parts if isinstance(part, SparseLabels)]
    if not sparse:
        dense = [part for part in parts if isinstance(part, DenseLabels)]
        return DenseLabels(np.concatenate([part.vectors for part in dense]), dense[0].content)
    first = sparse[0]
    if len(sparse) < len(parts) or any((part.num_classes, part.policy) != (first.num_classes, first.policy) for part in sparse):
        raise ArgumentError("labels of different kinds, numbers of classes or policies cannot be concatenated")
    width = max(part.indices.shape[1] for part in sparse)
    tails, tail_of = _concatenate_tails(sparse)
    return replace(
        first,
        indices=np.concatenate([_pad(part.indices, width, -1) for part in sparse]),
        values=np.concatenate([_pad(part.values, width, 0) for part in sparse]),
        remainder=np.concatenate([part.remainder for part in sparse]),
        tails=tails,
        tail_of=tail_of,
        main_values=None if tails is None or tails.slopes is None else np.concatenate([part.values_of_main_class() for part in sparse]),
    )


def _concatenate_tails(parts: Sequence[SparseLabels]) -> tuple[Tails | None, NDArray[np.int64] | None]:
    tails = [part.tails for part in parts if part.tails is not None]
    if len(tails) < len(parts):
        if tails:
            raise ArgumentError("labels with and without tails cannot be concatenated")
        return None, None
    slopes = [part.slopes for part in tails if part.slopes is not None]
    main_class = [part.main_class for part in tails if part.main_class is not None]
    if 0 < len(slopes) < len(parts):
        raise ArgumentError("labels with tails of all classes and of some cannot be concatenated")
    width = max(part.classes.shape[1] for part in tails)
    first = np.cumsum([0, *(len(part) for part in tails[:-1])])
    joined = Tails(
        np.concatenate([_pad(part.classes, width, -1) for part in tails]),
        np.concatenate([_pad(part.weights, width, 0) for part in tails]),
        np.concatenate([part.floor for part in tails]),
        np.concatenate(slopes) if slopes else None,
        np.concatenate(main_class) if main_class else None,
    )
    return joined, np.concatenate([start + part.tail_of for start, part in zip(first, parts, strict=True) if part.tail_of is not None])


def _pad(array: NDArray[Any], width: int, fill: int) -> NDArray[Any]:
    missing = width - array.shape[1]
    return array if missing == 0 else np.pad(array, ((0, 0), (0, missing)), constant_values=fill)
