"""`SparseLabels`: the most probable classes of each crop, and the remainder for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import POLICIES
from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.labels.rows import Rows, Targets, TopK, as_rows, check_k, lowest_others
from softlabel_codec.labels.tails import Tails

NO_TARGETS = (
    "policy 'bucket' takes the classes that are not kept for one class more, so there is no target of each class. "
    "Use soft_cross_entropy, or read the labels with another policy: with_policy('uniform')"
)


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """The most probable classes of each crop, and the remainder for all others.

    Attributes
    ----------
    indices : int32 (R, K)
        Kept classes of each crop, most probable first; of label fields only the first one is in its place. Rows that keep fewer than K
        classes are padded with -1.
    values : float32 (R, K)
        Their probabilities, as the teacher gave them (not renormalised). Padding is 0.
    remainder : float32 (R,)
        Probability of all other classes together, at least 0.
    num_classes : int
        C.
    policy : str
        How the remainder enters a target: `uniform` spreads it evenly over the other classes, `renorm` drops
        it and renormalises, `tail` spreads it along the image's tail, `bucket` takes the other classes for one class more, whose target
        it is (spec/sparse-v1.md, section 7).
    tails : Tails or None
        The tails of I images, if the codec keeps them.
    tail_of : int64 (R,) or None
        Index into `tails` of each crop's image.
    main_values : float32 (R,) or None
        Of labels at another temperature whose tails have slopes: the value of its image's main class that each crop had, 0 if it does not
        keep it, by which weights change. Otherwise None: it is that in `values`.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    remainder: NDArray[np.float32]
    num_classes: int
    policy: str = "uniform"
    tails: Tails | None = None
    tail_of: NDArray[np.int64] | None = None
    main_values: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.remainder)

    def __getitem__(self, rows: int | Rows) -> SparseLabels:
        """Return the labels of some rows (a slice or an index array), or of one."""
        rows = as_rows(rows, len(self))
        chosen = replace(self, indices=self.indices[rows], values=self.values[rows], remainder=self.remainder[rows])
        if self.tails is None or self.tail_of is None:
            return chosen
        used, tail_of = np.unique(self.tail_of[rows], return_inverse=True)
        main_values = None if self.main_values is None else self.main_values[rows]
        return replace(chosen, tails=self.tails[used], tail_of=tail_of, main_values=main_values)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of kept classes of each crop, int64 (R,)."""
        return np.asarray((self.indices >= 0).sum(axis=1), np.int64)

    @property
    def top1(self) -> NDArray[np.int32]:
        """Most probable class of each crop as the teacher ranked them, int32 (R,).

        It is the class of `topk(1)`, unless rounding made targets equal (`values=f16`): then that is the lowest of these classes. Of label
        fields it is the most probable class that the field lists, even where all others, of which none stands out, have more.
        """
        return self.indices[:, 0]

    def with_policy(self, policy: str) -> SparseLabels:
        """Return the same labels, read with another remainder policy (`uniform`, `renorm`, `bucket`, or `tail` if there are tails)."""
        return replace(self, policy=check_policy(policy, self.tails is not None))

    def dense(self) -> NDArray[np.float32]:
        """Return the targets of all classes, float32 (R, C).

        Equal to the formulas of FKD (Shen & Xing, ECCV 2022, section 3.2), with the remainder clamped at 0.

        Raises
        ------
        StateError
            If the policy is `bucket`, which gives the classes that are not kept no targets of their own.

        Examples
        --------
        >>> labels = SparseLabels(np.int32([[2, 0]]), np.float32([[0.5, 0.25]]), np.float32([0.25]), num_classes=4)
        >>> labels.dense().tolist(), labels.with_policy("renorm").dense()[0, 2].round(3).item()
        ([[0.25, 0.125, 0.5, 0.125]], 0.6669999957084656)
        """
        stated, background = self._by_class()
        targets = np.repeat(background[:, None], self.num_classes, axis=1)
        targets[stated.rows, stated.classes] = stated.targets
        return targets

    def topk(self, k: int) -> TopK:
        """Return the k classes with the largest targets of each crop, largest first, of equal targets the lowest classes.

        Equal to what sorting `dense()` gives, but the targets of all classes are never built.

        Parameters
        ----------
        k : int
            1 to C.

        Returns
        -------
        classes : int32 (R, k)
            The classes.
        probs : float32 (R, k)
            Their targets.

        Raises
        ------
        StateError
            As for `dense`.

        Examples
        --------
        >>> labels = SparseLabels(np.int32([[2, 0]]), np.float32([[0.5, 0.25]]), np.float32([0.25]), num_classes=4)
        >>> [array.tolist() for array in labels.topk(3)]
        [[[2, 0, 1]], [[0.5, 0.25, 0.125]]]
        """
        k = check_k(k, self.num_classes)
        stated, background = self._by_class()
        rows, classes = lowest_others(stated, (len(self), self.num_classes), k)
        return Targets(rows, classes, background[rows]).and_(stated).largest(len(self), k)

    def _by_class(self) -> tuple[Targets, NDArray[np.float32]]:
        """Return the targets of classes that are kept or listed in a tail, and of each crop that of every other class, float32 (R,)."""
        if self.policy == "bucket":
            raise StateError(f"labels: {NO_TARGETS}")
        rows, places = np.nonzero(self.indices >= 0)
        kept = Targets(rows, self.indices[rows, places], self._foreground()[rows, places])
        even = np.zeros(len(self), np.float32)
        if self.policy == "renorm":
            return kept, even
        others = self.num_classes - self.counts
        np.divide(self.remainder, others, out=even, where=others > 0)
        if self.policy == "uniform":
            return kept, even
        listed, background = self._along_tail(even)
        return kept.and_(listed), background

    def _along_tail(self, even: NDArray[np.float32]) -> tuple[Targets, NDArray[np.float32]]:
        """Return the targets of classes that a tail lists and the crop does not keep, and of each crop that of the classes in neither."""
        assert self.tails is not None
        assert self.tail_of is not None
        classes, floor = self.tails.classes[self.tail_of], self.tails.floor[self.tail_of]
        weights = self.tails.of_crops(self.tail_of, self.values_of_main_class())
        listed = self.listed_not_kept()
        total = self._sum_not_kept(weights, floor, listed)
        along = total > 0
        scale = np.zeros(len(self))
        np.divide(self.remainder, total, out=scale, where=along)
        rows, columns = np.nonzero(listed & along[:, None])
        targets = (weights[rows, columns] * scale[rows]).astype(np.float32)
        return Targets(rows, classes[rows, columns], targets), np.where(along, floor * scale, even).astype(np.float32)

    def listed_not_kept(self) -> NDArray[np.bool_]:
        """Return which classes of its image's tail a crop does not keep, bool (R, N); false where padded. Labels must have tails."""
        assert self.tails is not None
        assert self.tail_of is not None
        listed: NDArray[np.bool_] = self.tails.classes[self.tail_of] >= 0
        places = self.tails.places_of(self.tail_of, self.indices)
        rows, kept = np.nonzero(places >= 0)
        listed[rows, places[rows, kept]] = False
        return listed

    def weight_not_kept(self, tails: Tails, listed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the sum of the weights of all classes that a crop does not keep, float64 (R,).

        Parameters
        ----------
        tails : Tails
            These labels' own, or others that list the same classes.
        listed : bool (R, N)
            What `listed_not_kept` returns.
        """
        assert self.tail_of is not None
        return self._sum_not_kept(tails.of_crops(self.tail_of, self.values_of_main_class()), tails.floor[self.tail_of], listed)

    def values_of_main_class(self) -> NDArray[np.float32]:
        """Return by what the tails of crops change: values of their image's main class as stored, float32 (R,); 0 without slopes."""
        if self.main_values is not None:
            return self.main_values
        if self.tails is None or self.tails.main_class is None:
            return np.zeros(len(self), np.float32)
        is_main = self.indices == self.tails.main_class[self.tail_of][:, None]
        return np.asarray(np.where(is_main, self.values, 0).sum(axis=1, dtype=np.float32))

    def _sum_not_kept(self, weights: NDArray[np.float32], floor: NDArray[np.float32], listed: NDArray[np.bool_]) -> NDArray[np.float64]:
        num_others = self.num_classes - self.counts - listed.sum(axis=1)
        of_listed = np.where(listed, weights, 0).sum(axis=1, dtype=np.float64)
        return np.asarray(of_listed + num_others * floor.astype(np.float64))

    def _foreground(self) -> NDArray[np.float32]:
        if self.policy == "renorm":
            return np.asarray(self.values / self.values.sum(axis=1, dtype=np.float64, keepdims=True), np.float32)
        return self.values


def check_policy(policy: str, has_tails: bool, more: Sequence[str] = ()) -> str:
    """Return `policy` if it is a remainder policy that fits labels with or without tails, or one `more`, else raise ArgumentError."""
    possible = (*(name for name in POLICIES if has_tails or name != "tail"), *more)
    if policy not in possible:
        raise ArgumentError(f"remainder policy: expected one of {', '.join(possible)}, got {policy!r}")
    return policy
