"""Decoded labels, one row per crop: `SparseLabels`, `DenseLabels`; with crops and flips: `ImageLabels`, `BatchLabels`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.codec import POLICIES
from softlabel_codec.errors import ArgumentError, StateError

NO_TARGETS = (
    "policy 'bucket' takes the classes that are not kept for one class more, so there is no target of each class. "
    "Use soft_cross_entropy, or read the labels with another policy: with_policy('uniform')"
)
Rows = slice | Sequence[int] | NDArray[Any]
TopK = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Tails:
    """Tails of I images: how the probability that the crops left out is distributed over the classes (spec/sparse-v1.md, section 6).

    Attributes
    ----------
    classes : int32 (I, N)
        Listed classes of each image, ascending, padded with -1 at the end.
    weights : float32 (I, N)
        Share of each listed class; padding is 0.
    floor : float32 (I,)
        Share of every class that is not listed. Over all classes the shares of an image add up to 1.
    slopes : float32 (I, C) or None
        With `tail=all`, which lists all classes: by how much the logarithm of a weight grows from a crop that does not keep the main
        class, which has that of `weights`, to one that is sure of it (spec/sparse-v1.md, section 6.2). None if all crops of an image
        have one tail.
    main_class : int32 (I,) or None
        The main class of each image, if there are slopes.
    """

    classes: NDArray[np.int32]
    weights: NDArray[np.float32]
    floor: NDArray[np.float32]
    slopes: NDArray[np.float32] | None = None
    main_class: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.floor)

    def __getitem__(self, images: Rows) -> Tails:
        """Return the tails of some images (a slice or an index array)."""
        chosen = Tails(self.classes[images], self.weights[images], self.floor[images])
        if self.slopes is None or self.main_class is None:
            return chosen
        return replace(chosen, slopes=self.slopes[images], main_class=self.main_class[images])

    def dense(self, num_classes: int) -> NDArray[np.float32]:
        """Return the weights of all classes, float32 (I, C); with slopes, those for a crop that does not keep the main class."""
        weights = np.repeat(self.floor[:, None], num_classes, axis=1)
        images, places = np.nonzero(self.classes >= 0)
        weights[images, self.classes[images, places]] = self.weights[images, places]
        return weights

    def of_crops(self, images: NDArray[np.int64], of_main: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights (R, N), of any sum, of listed classes for crops of images (R,) in which the main class has values (R,)."""
        weights = self.weights[images]
        return weights if self.slopes is None else np.asarray(weights * np.exp(self.slopes[images] * of_main[:, None]), np.float32)

    def weights_of(self, images: NDArray[np.int64], classes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the weights of classes (R, K) in the tails of images (R,), float32 (R, K); 0 for the class -1."""
        places = self.places_of(images, classes)
        listed = np.take_along_axis(self.weights[images], np.maximum(places, 0), axis=1)
        weights = np.where(places >= 0, listed, self.floor[images][:, None])
        return np.where(classes >= 0, weights, 0).astype(np.float32)

    def places_of(self, images: NDArray[np.int64], classes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return where classes (R, K) are listed in the tails of images (R,), int64 (R, K): a column of `classes`; -1 if they are not."""
        span = int(max(self.classes.max(initial=0), classes.max(initial=0))) + 2
        image, place = np.nonzero(self.classes >= 0)
        if not len(place):
            return np.full(classes.shape, -1)
        known = image * span + self.classes[image, place]  # ascending
        wanted = images[:, None] * span + classes
        found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where((known[found] == wanted) & (classes >= 0), place[found], -1)


class _Targets(NamedTuple):
    """Targets of some classes of some crops: of the crop in row `rows[e]`, that of class `classes[e]` is `targets[e]`."""

    rows: NDArray[Any]
    classes: NDArray[Any]
    targets: NDArray[np.float32]

    def and_(self, more: _Targets) -> _Targets:
        """Return these and more."""
        return _Targets(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))

    def largest(self, num_rows: int, k: int) -> TopK:
        """Return the k largest of each row, the lowest classes first of equal ones; no row may have fewer."""
        order = np.lexsort((self.classes, -self.targets, self.rows))
        chosen = order[np.searchsorted(self.rows[order], np.arange(num_rows))[:, None] + np.arange(k)]
        return self.classes[chosen].astype(np.int32), self.targets[chosen]


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
        k = _check_k(k, self.num_classes)
        stated, background = self._by_class()
        rows, classes = _lowest_others(stated, (len(self), self.num_classes), k)
        return _Targets(rows, classes, background[rows]).and_(stated).largest(len(self), k)

    def _by_class(self) -> tuple[_Targets, NDArray[np.float32]]:
        """Return the targets of classes that are kept or listed in a tail, and of each crop that of every other class, float32 (R,)."""
        if self.policy == "bucket":
            raise StateError(f"labels: {NO_TARGETS}")
        rows, places = np.nonzero(self.indices >= 0)
        kept = _Targets(rows, self.indices[rows, places], self._foreground()[rows, places])
        even = np.zeros(len(self), np.float32)
        if self.policy == "renorm":
            return kept, even
        others = self.num_classes - self.counts
        np.divide(self.remainder, others, out=even, where=others > 0)
        if self.policy == "uniform":
            return kept, even
        listed, background = self._along_tail(even)
        return kept.and_(listed), background

    def _along_tail(self, even: NDArray[np.float32]) -> tuple[_Targets, NDArray[np.float32]]:
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
        return _Targets(rows, classes[rows, columns], targets), np.where(along, floor * scale, even).astype(np.float32)

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
        k, targets = _check_k(k, self.num_classes), self.dense()
        smallest = np.partition(targets, self.num_classes - k, axis=1)[:, self.num_classes - k, None]
        rows, classes = np.nonzero(targets >= smallest)
        return _Targets(rows, classes, targets[rows, classes]).largest(len(self), k)

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


Labels = SparseLabels | DenseLabels


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """Crops of one image and their labels.

    Attributes
    ----------
    crops : int32 (M, 4)
        top, left, height, width in pixels of the stored image; floats if the file stores fractions (see `SoftLabelReader.crops`).
    flips : bool (M,)
        Whether each crop is mirrored left to right after cutting and scaling.
    image_size : (int, int)
        Height and width of the stored image in pixels; (0, 0) if the file does not say.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_crc32 : int or None
        CRC-32 of the labelled image's file, if the file stores it.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    image_size: tuple[int, int]
    labels: Labels
    image_crc32: int | None = None

    @property
    def num_crops(self) -> int:
        """M."""
        return len(self.flips)


@dataclass(frozen=True, eq=False)
class BatchLabels:
    """Crops of several images and their labels: one row for each crop, image after image.

    Attributes
    ----------
    crops : int32 (R, 4)
        As in `ImageLabels`.
    flips : bool (R,)
        Whether each crop is mirrored.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_sizes : int64 (B, 2)
        Height and width of each image.
    num_crops : int64 (B,)
        Number of crops of each image.
    images : int64 (B,)
        Number of each image in the file.
    image_crc32s : int64 (B,) or None
        CRC-32 of the file of each labelled image, if the file stores them.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    labels: Labels
    image_sizes: NDArray[np.int64]
    num_crops: NDArray[np.int64]
    images: NDArray[np.int64]
    image_crc32s: NDArray[np.int64] | None = None

    @classmethod
    def of_image(cls, image: ImageLabels, number: NDArray[np.int64]) -> BatchLabels:
        """Return a batch of one image, whose number is `number` (1,)."""
        crc32s = None if image.image_crc32 is None else np.array([image.image_crc32], np.int64)
        num_crops = np.array([image.num_crops], np.int64)
        return cls(image.crops, image.flips, image.labels, np.array([image.image_size], np.int64), num_crops, number, crc32s)

    def __iter__(self) -> Iterator[ImageLabels]:
        """Yield the images one by one."""
        start = 0
        crc32s = [None] * len(self.images) if self.image_crc32s is None else self.image_crc32s.tolist()
        for count, size, crc32 in zip(self.num_crops.tolist(), self.image_sizes.tolist(), crc32s, strict=True):
            rows = slice(start, start + count)
            labels = self.labels if len(self.images) == 1 else self.labels[rows]
            yield ImageLabels(self.crops[rows], self.flips[rows], (size[0], size[1]), labels, crc32)
            start += count


def as_rows(rows: int | Rows, num_rows: int) -> Rows:
    """Return an index that selects rows of an array; a single number selects one row. IndexError if there is no such row."""
    if not hasattr(rows, "__index__") or isinstance(rows, np.ndarray):
        return rows
    number = range(num_rows)[rows]
    return slice(number, number + 1)


def _check_k(k: int, num_classes: int) -> int:
    number = check_whole("k", k, 1)
    if number > num_classes:
        raise ArgumentError(f"k: expected at most {num_classes}, the number of classes, got {number}")
    return number


def _lowest_others(stated: _Targets, shape: tuple[int, int], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows and classes: for each row of (R, C) the k lowest classes that are not stated, or all if there are fewer."""
    num_rows, num_classes = shape
    width = min(num_classes, int(np.bincount(stated.rows, minlength=1).max()) + k)
    other = np.ones((num_rows, width), np.bool_)
    low = stated.classes < width
    other[stated.rows[low], stated.classes[low]] = False
    rows, classes = np.nonzero(other & (other.cumsum(axis=1) <= k))
    return rows, classes


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


def check_policy(policy: str, has_tails: bool, more: Sequence[str] = ()) -> str:
    """Return `policy` if it is a remainder policy that fits labels with or without tails, or one `more`, else raise ArgumentError."""
    possible = (*(name for name in POLICIES if has_tails or name != "tail"), *more)
    if policy not in possible:
        raise ArgumentError(f"remainder policy: expected one of {', '.join(possible)}, got {policy!r}")
    return policy


def _pad(array: NDArray[Any], width: int, fill: int) -> NDArray[Any]:
    missing = width - array.shape[1]
    return array if missing == 0 else np.pad(array, ((0, 0), (0, missing)), constant_values=fill)
