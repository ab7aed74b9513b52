"""Two label sets of the same images: how sure each is, how far their labels lie apart, and where most."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import MismatchError
from softlabel_codec.labels import ImageLabels, Labels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report.stats_report import Distribution
from softlabel_codec.show.measures import Floats, distances, parts, sureness, targets_of

MOST_IMAGES = 2000
MOST_NUMBERS = 2**26
"""So many targets are looked at for distributions, unless one image has more."""
_KEYS_AT_A_TIME = 2**16


@dataclass(frozen=True)
class Sureness:
    """How sure the labels of a set are, over the crops of some of its images.

    Attributes
    ----------
    num_images : int
        How many images were looked at.
    maxima, entropies : float64 (R,)
        Largest target, and entropy in nats, of each crop.
    """

    num_images: int
    maxima: Floats
    entropies: Floats


@dataclass(frozen=True)
class Comparison:
    """What two label sets, A and B, say of the images that both have.

    Attributes
    ----------
    common_images : int
        Images in both.
    here, there : Sureness
        Of A and of B, over all crops of the images that were compared.
    num_crops : int
        Crops of these images whose label both know.
    kl, cross_entropy : Distribution or None
        KL(A || B) and -sum p_A ln p_B in nats, where they are finite; None if no crop was compared, or none is finite.
    infinite : float
        Share of crops where both are infinite: B gives no probability to a class to which A gives some.
    variation : Distribution or None
        Total variation, from 0 to 1.
    same_top : float or None
        Share of crops with the same most probable class.
    variation_of : dict of int to float
        Mean total variation of each image, by its number in A.
    """

    common_images: int
    here: Sureness
    there: Sureness
    num_crops: int
    kl: Distribution | None
    cross_entropy: Distribution | None
    infinite: float
    variation: Distribution | None
    same_top: float | None
    variation_of: dict[int, float]

    def farthest(self, count: int) -> list[int]:
        """Return the numbers in A of the images whose labels differ most, the worst first."""
        return sorted(self.variation_of, key=lambda number: -self.variation_of[number])[:count]


class OtherLabels(NamedTuple):
    """The labels of an image's crops in another set: a row for each crop, and which of them that set knows, bool (M,)."""

    labels: Labels
    known: NDArray[np.bool_]


class Partner:
    """The other label set, B, by the images and crops of the first, A.

    Raises
    ------
    MismatchError
        If their labels cannot belong to the same crops: they have other numbers of classes, or crops lie in images with other padding.
    """

    def __init__(self, here: SoftLabelReader, there: SoftLabelReader) -> None:
        if here.num_classes != there.num_classes:
            raise MismatchError(f"{there.path}: expected labels of {here.num_classes} classes, as in {here.path}, got {there.num_classes}")
        if here.padding != there.padding:
            raise MismatchError(f"{there.path}: expected padding of {here.padding}, as in {here.path}, got {there.padding}")
        self.here, self.there = here, there
        self._knows_any = there.container.layout.family.of_places
        kinds = {_kind(here), _kind(there)}
        self.note = "" if self._knows_any or len(kinds) == 1 else f"crops are stored as {here.crops} and as {there.crops}"
        """Why labels of crops cannot be compared; empty if they can."""

    def labels_of(self, number: int, image: ImageLabels) -> OtherLabels | None:
        """Return the labels of an image's crops in B, and of which crops B knows them; None if it knows none.

        Label fields know those of all crops, others only those of the same crops: those that have the same number and place.

        Parameters
        ----------
        number : int
            The image in A.
        image : ImageLabels
            What A says of it.
        """
        found = int(self.there.find([self.here.keys[number]], missing=-1)[0])
        if found < 0 or self.note:
            return None
        if self._knows_any:
            return OtherLabels(self.there.labels_at([found], image.crops[None]).labels, np.ones(image.num_crops, np.bool_))
        other = self.there.read(found)
        rows = np.minimum(np.arange(image.num_crops), other.num_crops - 1)
        same = (image.crops == other.crops[rows]).all(axis=1) & (image.flips == other.flips[rows]) & (rows == np.arange(image.num_crops))
        return OtherLabels(other.labels[rows], same) if same.any() else None


def _kind(reader: SoftLabelReader) -> str:
    return reader.crops if reader.crops.startswith("fractions") else "pixels"


def sureness_of(reader: SoftLabelReader) -> Sureness:
    """Return how sure the labels of a set are, from at most 2000 of its images, evenly spread."""
    return _sureness(reader, _evenly(np.arange(len(reader)), reader))


def compare(partner: Partner) -> Comparison:
    """Compare two sets, by at most 2000 of the images that both have, evenly spread.

    Raises
    ------
    MismatchError
        If they have no image in common.
    """
    here, there = partner.here, partner.there
    common, theirs = _common(here, there)
    if not len(common):
        raise MismatchError(f"{there.path}: expected labels of images in {here.path}, got none: they have no key in common")
    chosen = _evenly(np.arange(len(common)), here)
    seen = _Seen()
    for number in common[chosen].tolist():
        image = here.read(number)
        seen.add(number, image.labels, partner.labels_of(number, image))
    sure = _sureness(here, common[chosen]), _sureness(there, theirs[chosen])
    return Comparison(len(common), *sure, **seen.result())


def _common(here: SoftLabelReader, there: SoftLabelReader) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of common images in both sets, both int64 (n,), in the order of the first."""
    keys = iter(here.keys)
    found = [np.zeros(0, np.int64)]
    while some := list(islice(keys, _KEYS_AT_A_TIME)):
        found.append(there.find(some, missing=-1))
    numbers = np.concatenate(found)
    return np.flatnonzero(numbers >= 0), numbers[numbers >= 0]


def _evenly(numbers: NDArray[np.int64], reader: SoftLabelReader) -> NDArray[np.int64]:
    """Return some of these numbers, evenly spread: as many images of a set as are looked at."""
    per_image = float(reader.num_crops.mean()) * reader.num_classes
    count = max(1, min(len(numbers), MOST_IMAGES, int(MOST_NUMBERS / per_image)))
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, count).astype(np.int64))]


def _sureness(reader: SoftLabelReader, numbers: NDArray[np.int64]) -> Sureness:
    found = [sureness(reader.read(number).labels) for number in numbers.tolist()]
    maxima, entropies = (np.concatenate(values) for values in zip(*found, strict=True))
    return Sureness(len(numbers), maxima, entropies)


class _Seen:
    """How far apart labels are, collected image by image."""

    def __init__(self) -> None:
        self._of_crops: dict[str, list[NDArray[Any]]] = {"kl": [], "cross_entropy": [], "variation": [], "same_top": []}
        self._of_image: dict[int, float] = {}

    def add(self, number: int, labels: Labels, other: OtherLabels | None) -> None:
        if other is None:
            return
        rows = np.flatnonzero(other.known)
        variation = []
        for some in parts(len(rows), labels.num_classes):
            p, q = targets_of(labels[rows[some]]), targets_of(other.labels[rows[some]])
            apart = distances(p, q)
            for name, values in apart._asdict().items():
                self._of_crops[name].append(values)
            self._of_crops["same_top"].append(p.argmax(axis=1) == q.argmax(axis=1))
            variation.append(apart.variation)
        self._of_image[number] = float(np.concatenate(variation).mean())

    def result(self) -> dict[str, Any]:
        """Return the fields of a `Comparison` that this is about."""
        found = {name: np.concatenate([np.zeros(0), *values]) for name, values in self._of_crops.items()}
        finite = np.isfinite(found["kl"])
        num_crops = len(finite)
        return {
            "num_crops": num_crops,
            "kl": _distribution(found["kl"][finite]),
            "cross_entropy": _distribution(found["cross_entropy"][finite]),
            "infinite": float(1 - finite.mean()) if num_crops else 0.0,
            "variation": _distribution(found["variation"]),
            "same_top": float(found["same_top"].mean()) if num_crops else None,
            "variation_of": self._of_image,
        }


def _distribution(values: Floats) -> Distribution | None:
    return Distribution.of(values) if len(values) else None
