"""`DenseLabels`: a vector of C numbers for each crop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import StateError
from softlabel_codec.labels.rows import Rows, Targets, TopK, as_rows, check_k


@dataclass(frozen=True, eq=False)
class DenseLabels:
    """A vector of C numbers for each crop.

    Attributes
    ----------
    vectors : float32 (R, C)
        The stored numbers. Logits with `values=log8` are known up to a number that is added to all of a crop.
    content : str
        What they are: `probs`, `logits` or `features`.
    """

    vectors: NDArray[np.float32]
    content: str = "probs"

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: int | Rows) -> DenseLabels:
        """Return the labels of some rows (a slice or an index array), or of one."""
        return replace(self, vectors=self.vectors[as_rows(rows, len(self))])

    @property
    def num_classes(self) -> int:
        """C, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def top1(self) -> NDArray[np.int32]:
        """Index of the largest number of each crop, int32 (R,)."""
        return np.asarray(self.vectors.argmax(axis=1), np.int32)

    def topk(self, k: int) -> TopK:
        """Return the k classes with the largest targets of each crop, int32 (R, k), and these, float32 (R, k); see `SparseLabels.topk`."""
        k, targets = check_k(k, self.num_classes), self.dense()
        smallest = np.partition(targets, self.num_classes - k, axis=1)[:, self.num_classes - k, None]
        rows, classes = np.nonzero(targets >= smallest)
        return Targets(rows, classes, targets[rows, classes]).largest(len(self), k)

    def dense(self) -> NDArray[np.float32]:
        """Return the targets, float32 (R, C): the probabilities, or the softmax of the logits.

        Raises
        ------
        StateError
            If the content is `features`, which have no target: use `vectors`.
        """
        if self.content == "features":
            raise StateError("dense: these labels are features, not probabilities: use .vectors")
        if self.content == "probs":
            return self.vectors
        powers = np.exp(self.vectors.astype(np.float64) - self.vectors.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
