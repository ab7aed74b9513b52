"""What the labels of images say, as plain numbers: what is shown on the page and on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from softlabel_codec.container.matching import KeyFinder
from softlabel_codec.errors import MismatchError, StateError
from softlabel_codec.labels import ImageLabels, Labels, SparseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.show.field_maps import FieldMap
from softlabel_codec.show.measures import Distances, Floats, distances, entropy, parts, targets_of
from softlabel_codec.show.pairs import OtherLabels, Partner
from softlabel_codec.show.rounding import rounded, shortened

SHOWN_CLASSES = 6
"""So many classes are shown of each crop; and of the other set, if there is one."""
SHOWN_OF_TAIL = 8
MOST_CLASSES = 2**22
"""Targets of all classes are computed; with more, a file of a few bytes would take gigabytes."""


@dataclass(frozen=True)
class OtherLabel:
    """The label of a crop in the other set.

    Attributes
    ----------
    targets : list of float
        Of the classes that `CropView.classes` lists.
    entropy : float
        In nats.
    kl : float or None
        KL(label || this label) in nats; None if it is infinite.
    variation : float
        Total variation between the two, from 0 to 1.
    """

    targets: list[float]
    entropy: float
    kl: float | None
    variation: float


@dataclass(frozen=True)
class CropView:
    """A crop and its label.

    Attributes
    ----------
    crop : list
        top, left, height, width in pixels of the image with its padding; fractions of the image, if the file stores those and the image is
        not at hand.
    flipped : bool
        Whether it is mirrored left to right.
    classes, targets : list of int, list of float
        The classes with the largest targets, largest first, and these; with another set, those of both.
    kept : list of bool
        Which of these are stored for this crop; the target of the others comes from the remainder.
    num_kept : int
        How many classes are stored in all.
    remainder : float or None
        Probability of all others together, as stored; None of dense labels, which have no others.
    entropy : float
        Of the target over all classes, in nats.
    other : OtherLabel or None
        The label of this crop in the other set, if that knows it.
    """

    crop: list[float]
    flipped: bool
    classes: list[int]
    targets: list[float]
    kept: list[bool]
    num_kept: int
    remainder: float | None
    entropy: float
    other: OtherLabel | None = None


@dataclass(frozen=True)
class TailView:
    """The tail of an image: how remainders are spread over the classes that crops do not keep.

    Attributes
    ----------
    classes, shares : list of int, list of float
        The classes with the largest shares, largest first, and these. With `tail=all` they are those of a crop that does not keep the main
        class of the image.
    num_listed : int
        How many classes the tail lists in all.
    floor : float
        Share of each class that it does not list.
    """

    classes: list[int]
    shares: list[float]
    num_listed: int
    floor: float


@dataclass(frozen=True)
class ImageView:
    """An image, its crops and their labels.

    Attributes
    ----------
    key, number : str, int
        Which image of the file.
    image_size : (int, int)
        Height and width in pixels, without padding; (0, 0) if neither the file nor an image says it.
    true_class : int or None
        Its class, by the folder that it lies in, or as the source of the images states it; None if that is not known.
    of_true_class : float or None
        Mean target of that class.
    entropy : float
        Mean over the crops, in nats.
    variation : float or None
        Mean total variation between the labels of both sets, over the crops that both know.
    tail : TailView or None
        Its tail, if the codec stores one.
    crops : list of CropView
        Its crops.
    field : FieldMap or None
        Its label field, if that was asked for.
    """

    key: str
    number: int
    image_size: tuple[int, int]
    true_class: int | None
    of_true_class: float | None
    entropy: float
    variation: float | None
    tail: TailView | None
    crops: list[CropView]
    field: FieldMap | None = None

    def all_classes(self) -> Iterator[int]:
        """Yield the classes that occur in this, some of them several times."""
        for crop in self.crops:
            yield from crop.classes
        yield from self.tail.classes if self.tail else ()
        yield from self.field.classes if self.field else ()
        if self.true_class is not None:
            yield self.true_class


def check_has_targets(reader: SoftLabelReader) -> None:
    """Raise StateError if labels are none of classes, or of too many, or there are no images."""
    if reader.parsed_codec.content == "features":
        raise StateError(f"{reader.path}: expected labels of classes, got features")
    if reader.num_classes > MOST_CLASSES:
        raise StateError(f"{reader.path}: expected labels of at most {MOST_CLASSES} classes to show, got {reader.num_classes}")
    if not len(reader):
        raise StateError(f"{reader.path}: there are no images")


def numbers_of_keys(reader: SoftLabelReader, keys: Sequence[str]) -> list[int]:
    """Return the numbers of the images with these keys, in their order, each once; MismatchError if one is not in the file."""
    numbers = dict(zip(keys, reader.find(keys, missing=-1).tolist(), strict=True))
    unknown = next((key for key, number in numbers.items() if number < 0), None)
    if unknown is not None:
        nearest = ", ".join(map(repr, KeyFinder(reader.keys, reader.path).nearest(unknown)))
        raise MismatchError(f"{reader.path}: expected keys of labelled images, got {unknown!r}. The nearest are {nearest}")
    return list(numbers.values())


def look(
    reader: SoftLabelReader,
    numbers: Sequence[int],
    true_classes: Mapping[int, int],
    partner: Partner | None = None,
    max_crops: int | None = None,
) -> Iterator[tuple[ImageView, ImageLabels]]:
    """Yield what the labels of images say, and the labels.

    Parameters
    ----------
    reader : SoftLabelReader
        The labels.
    numbers : sequence of int
        Which images.
    true_classes : dict of int to int
        Their classes, by their numbers, as far as these are known.
    partner : Partner, optional
        The other set.
    max_crops : int, optional
        Look at the first so many crops of each image only.
    """
    for number in numbers:
        count = int(reader.num_crops[number])
        image = reader.read(number, None if max_crops is None or max_crops >= count else range(max_crops))
        other = None if partner is None else partner.labels_of(number, image)
        yield _view(reader.keys[number], number, image, true_classes.get(number), other), image


def _view(key: str, number: int, image: ImageLabels, true_class: int | None, other: OtherLabels | None) -> ImageView:
    crops: list[CropView] = []
    of_true_class: list[float] = []
    for rows in parts(image.num_crops, image.labels.num_classes):
        targets = targets_of(image.labels[rows])
        crops += _crops(image, rows, targets, other)
        if true_class is not None:
            of_true_class += targets[:, true_class].tolist()
    known = [crop.other.variation for crop in crops if crop.other is not None]
    return ImageView(
        key=key,
        number=number,
        image_size=image.image_size,
        true_class=true_class,
        of_true_class=shortened(np.mean(of_true_class)) if of_true_class else None,
        entropy=shortened(np.mean([crop.entropy for crop in crops])),
        variation=shortened(np.mean(known)) if known else None,
        tail=_tail(image.labels),
        crops=crops,
    )


def _crops(image: ImageLabels, rows: slice, targets: Floats, other: OtherLabels | None) -> list[CropView]:
    """Return some crops of an image, whose targets are (R, C)."""
    labels = image.labels[rows]
    top, entropies = _top_classes(labels, targets), entropy(targets)
    theirs = None if other is None else _Theirs.of(targets, other.labels[rows])
    found = []
    for row, place in enumerate(range(image.num_crops)[rows]):
        of_other = theirs if other is not None and other.known[place] else None
        classes = top[row] if of_other is None else _by_target({*top[row], *of_other.top[row]}, targets[row])
        kept = set(labels.indices[row].tolist()) if isinstance(labels, SparseLabels) else None
        view = CropView(
            crop=image.crops[place].tolist(),
            flipped=bool(image.flips[place]),
            classes=classes,
            targets=rounded(targets[row, classes]),
            kept=[kept is None or number in kept for number in classes],
            num_kept=int(labels.counts[row]) if isinstance(labels, SparseLabels) else labels.num_classes,
            remainder=shortened(labels.remainder[row]) if isinstance(labels, SparseLabels) else None,
            entropy=shortened(entropies[row]),
            other=None if of_other is None else of_other.label(row, classes),
        )
        found.append(view)
    return found


class _Theirs(NamedTuple):
    """What the other set says of some crops: targets (R, C), top classes, entropies (R,), and how far all that is from ours."""

    targets: Floats
    top: list[list[int]]
    entropies: Floats
    apart: Distances

    @classmethod
    def of(cls, ours: Floats, labels: Labels) -> _Theirs:
        targets = targets_of(labels)
        return cls(targets, _top_classes(labels, targets), entropy(targets), distances(ours, targets))

    def label(self, row: int, classes: list[int]) -> OtherLabel:
        kl = self.apart.kl[row]
        return OtherLabel(
            rounded(self.targets[row, classes]),
            shortened(self.entropies[row]),
            shortened(kl) if np.isfinite(kl) else None,
            shortened(self.apart.variation[row]),
        )


def _by_target(classes: set[int], targets: Floats) -> list[int]:
    """Return classes by their targets (C,), the largest first, of equal ones the lowest class."""
    return sorted(classes, key=lambda number: (-targets[number], number))


def _top_classes(labels: Labels, targets: Floats) -> list[list[int]]:
    """Return the classes with the largest targets of each crop, (R, C), of those that labels tell from others."""
    if not isinstance(labels, SparseLabels):
        return [row.tolist() for row in labels.topk(min(SHOWN_CLASSES, labels.num_classes))[0]]
    listed = np.zeros(0, np.int32) if labels.tails is None else labels.tails.classes[0]  # of the one tail of the image
    found = []
    for row, kept in zip(targets, labels.indices, strict=True):
        told_apart = np.union1d(kept[kept >= 0], listed[listed >= 0])
        found.append(told_apart[np.argsort(-row[told_apart], kind="stable")[:SHOWN_CLASSES]].tolist())
    return found


def _tail(labels: Labels) -> TailView | None:
    if not isinstance(labels, SparseLabels) or labels.tails is None:
        return None
    tails = labels.tails
    listed = int((tails.classes[0] >= 0).sum())
    order = np.argsort(-tails.weights[0, :listed], kind="stable")[:SHOWN_OF_TAIL]
    return TailView(tails.classes[0, order].tolist(), rounded(tails.weights[0, order]), listed, shortened(tails.floor[0]))
