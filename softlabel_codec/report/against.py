"""What differs between the labels of two files: keys, provenance, crops, and the labels of the crops that both have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels import DenseLabels, ImageLabels, Labels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report.fidelity import Fidelity, FidelityMeter, SpreadMeter
from softlabel_codec.report.stats_report import NUMBERS_PER_BATCH, Distribution

MAX_IMAGES = 2000
MAX_NUMBERS = 2**26
MOST_CLASSES = 2**22
"""Of more, the targets of all classes of a crop would take memory out of proportion to the files."""
"""Count of label values that are compared, unless one image has more."""
_FIRST_KEYS = 5
_KEYS_AT_A_TIME = 2**16


@dataclass(frozen=True)
class OnlyIn:
    """Images that one of two files has, and the other has not.

    Attributes
    ----------
    count : int
        How many there are.
    first : list of str
        The keys of the first of them.
    """

    count: int
    first: list[str]


@dataclass(frozen=True)
class AgainstReport:
    """What differs between the labels of two files, A and B, each read with the remainder policy of its codec.

    Attributes
    ----------
    path, against : str
        A and B.
    same_bytes : bool
        Whether they are the same, byte for byte.
    differences : dict
        Where description or metadata differ: name, and what A and B say; None where one says nothing.
    num_images, against_images, common_images : int
        Images in A, in B, and in both (the same keys).
    only_here, only_there : OnlyIn
        Images only in A, and only in B.
    sampled_images : int
        So many of the common images were compared, evenly spread.
    other_pictures : int
        Of these, images of another size, or with another checksum of the image's file.
    other_num_crops : int
        Of these, images with another number of crops.
    other_crops : int
        Crops that lie elsewhere in their image than the crop of the same number in the other file, or are mirrored otherwise.
    not_comparable : str
        Why labels could not be compared at all; empty if they could.
    compared_crops : int
        Crops that are the same in both: those whose labels were compared.
    kl : Distribution or None
        Divergence KL(A || B) of the targets in nats, where it is finite. None here and below if nothing was compared, or if the labels are
        features.
    infinite_kl : float or None
        Share of crops where it is infinite: a class that A gives a probability has none in B.
    total_variation : Distribution or None
        Half the sum over classes of the differences of the targets, from 0 to 1.
    fidelity : list of Fidelity
        How near B is to A at T = 1, 4 and 20, each from the temperature at which it was made (1 where the metadata do not say it). Empty if
        nothing was compared.
    mean_probability_spread : (float, float) or None
        How much the mean probability of a class varies from draw to draw in A and in B, which predicts the student: see `SpreadMeter`.
    top1_agreement : float or None
        Share of crops with the same most probable class.
    identical : float or None
        Share of crops with the same targets (or features) to the last bit.
    cosine : Distribution or None
        Cosine similarity of features; None if the labels are others.
    """

    path: str
    against: str
    same_bytes: bool
    differences: dict[str, tuple[Any, Any]]
    num_images: int
    against_images: int
    common_images: int
    only_here: OnlyIn
    only_there: OnlyIn
    sampled_images: int
    other_pictures: int
    other_num_crops: int
    other_crops: int
    not_comparable: str
    compared_crops: int
    kl: Distribution | None
    infinite_kl: float | None
    total_variation: Distribution | None
    fidelity: list[Fidelity]
    mean_probability_spread: tuple[float, float] | None
    top1_agreement: float | None
    identical: float | None
    cosine: Distribution | None


def stats_against(path: str | os.PathLike[str], against: str | os.PathLike[str], *, max_images: int = MAX_IMAGES) -> AgainstReport:
    """Compare the labels of two files.

    At most `max_images` of the common images are compared, evenly spread; fewer, if they have very many crops and classes.

    Raises
    ------
    FormatError
        If a file is unfinished or damaged.
    MismatchError
        If the metadata of one say a temperature that is none.
    """
    with SoftLabelReader(path) as here, SoftLabelReader(against) as there:
        own, theirs = _said(here), _said(there)
        differences = {name: (own.get(name), theirs.get(name)) for name in {**own, **theirs} if own.get(name) != theirs.get(name)}
        pairs, only_here = _common(here, there)
        sample = _sample(pairs, here, max_images)
        seen = _Seen(_obstacle(here, there), (here.temperature, there.temperature))
        for rows in _batches(sample, here):
            for one, other in zip(here.read_batch(rows[:, 0]), there.read_batch(rows[:, 1]), strict=True):
                seen.add(one, other)
        return AgainstReport(
            path=str(path),
            against=str(against),
            same_bytes=here.fingerprint == there.fingerprint,
            differences=differences,
            num_images=len(here),
            against_images=len(there),
            common_images=len(pairs),
            only_here=only_here,
            only_there=_missing(there, pairs[:, 1]),
            sampled_images=len(sample),
            **seen.result(),
        )


def _said(reader: SoftLabelReader) -> dict[str, Any]:
    """Return what a file says about its labels, by name."""
    return {
        "num_classes": reader.num_classes,
        "codec": reader.codec,
        "crops": reader.crops,
        "sampler": None if reader.sampler is None else reader.sampler.describe(),
        "padding": reader.padding.describe() if reader.padding else None,
        "image_checksums": reader.image_checksums,
        **dict(_flat(reader.metadata, "metadata.")),
    }


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _common(here: SoftLabelReader, there: SoftLabelReader) -> tuple[NDArray[np.int64], OnlyIn]:
    """Return the numbers of common images in both files, int64 (n, 2), in the order of the first; and its others."""
    numbers = [np.zeros(0, np.int64)]
    keys = iter(here.keys)
    while some := list(islice(keys, _KEYS_AT_A_TIME)):
        numbers.append(there.find(some, missing=-1))
    found = np.concatenate(numbers)
    common = np.flatnonzero(found >= 0)
    return np.stack([common, found[common]], axis=1), _missing(here, common)


def _missing(reader: SoftLabelReader, common: NDArray[np.int64]) -> OnlyIn:
    alone = np.ones(len(reader), np.bool_)
    alone[common] = False
    return OnlyIn(int(alone.sum()), [reader.keys[number] for number in np.flatnonzero(alone)[:_FIRST_KEYS].tolist()])


def _sample(pairs: NDArray[np.int64], here: SoftLabelReader, max_images: int) -> NDArray[np.int64]:
    """Return at most so many of some pairs of images, evenly spread."""
    if not len(pairs):
        return pairs
    numbers_per_image = float(here.num_crops[pairs[:, 0]].mean()) * here.num_classes
    count = max(1, min(len(pairs), max_images, int(MAX_NUMBERS / numbers_per_image)))
    return pairs[np.unique(np.linspace(0, len(pairs) - 1, count).astype(np.int64))]


def _batches(sample: NDArray[np.int64], here: SoftLabelReader) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of images in batches that take little memory."""
    if len(sample):
        size = np.cumsum(here.num_crops[sample[:, 0]] * here.num_classes)
        yield from np.split(sample, np.flatnonzero(np.diff(size // NUMBERS_PER_BATCH)) + 1)


def _obstacle(here: SoftLabelReader, there: SoftLabelReader) -> str:
    """Return why labels of two files cannot be compared; an empty text if they can."""
    if here.num_classes != there.num_classes:
        return f"they are of {here.num_classes} and of {there.num_classes} classes"
    if here.num_classes > MOST_CLASSES:
        return f"they are of {here.num_classes} classes, and targets of more than {MOST_CLASSES} take too much memory"
    if here.padding != there.padding:
        return "crops lie in images with other padding"
    if here.crops != there.crops and any(reader.crops.startswith("fractions") for reader in (here, there)):
        return f"crops are stored as {here.crops} and as {there.crops}"
    contents = [reader.parsed_codec.content for reader in (here, there)]
    if contents[0] != contents[1] and "features" in contents:
        return "only one of them holds features"
    return ""


class _Seen:
    """What is seen of pairs of images, one by one."""

    def __init__(self, not_comparable: str, temperatures: tuple[float, float]) -> None:
        self._not_comparable = not_comparable
        self._fidelity, self._spreads = FidelityMeter(*temperatures), (SpreadMeter(), SpreadMeter())
        self._pictures = self._num_crops = self._crops = 0
        self._measures: dict[str, list[NDArray[Any]]] = {}

    def add(self, one: ImageLabels, other: ImageLabels) -> None:
        """Compare two images."""
        checksums = one.image_crc32, other.image_crc32
        self._pictures += one.image_size != other.image_size or (None not in checksums and checksums[0] != checksums[1])
        self._num_crops += one.num_crops != other.num_crops
        if self._not_comparable:
            return
        both = slice(min(one.num_crops, other.num_crops))
        same = (one.crops[both] == other.crops[both]).all(axis=1) & (one.flips[both] == other.flips[both])
        self._crops += int((~same).sum())
        rows = np.flatnonzero(same)
        step = max(1, NUMBERS_PER_BATCH // one.labels.num_classes)
        for start in range(0, len(rows), step):
            self._compare(one.labels[rows[start : start + step]], other.labels[rows[start : start + step]])

    def _compare(self, one: Labels, other: Labels) -> None:
        """Compare the labels of the same crops."""
        if isinstance(one, DenseLabels) and isinstance(other, DenseLabels) and one.content == "features":
            self._note({"identical": (one.vectors == other.vectors).all(axis=1), "cosine": _cosines(one.vectors, other.vectors)})
            return
        targets, others = one.dense(), other.dense()
        self._note({"top1": one.top1 == other.top1, "identical": (targets == others).all(axis=1), **_distances(targets, others)})
        self._fidelity.add(targets, others)
        for spread, rows in zip(self._spreads, (targets, others), strict=True):
            spread.add(rows)

    def _note(self, measures: Mapping[str, NDArray[Any]]) -> None:
        for name, values in measures.items():
            self._measures.setdefault(name, []).append(values)

    def result(self) -> dict[str, Any]:
        """Return the part of the report that this is about."""
        found = {name: np.concatenate(parts) for name, parts in self._measures.items()}
        kl, identical = found.get("kl"), found.get("identical")
        finite = None if kl is None else np.isfinite(kl)
        spreads = self._spreads[0].result(), self._spreads[1].result()
        return {
            "other_pictures": self._pictures,
            "other_num_crops": self._num_crops,
            "other_crops": self._crops,
            "not_comparable": self._not_comparable,
            "compared_crops": 0 if identical is None else len(identical),
            "kl": None if kl is None or finite is None or not finite.any() else Distribution.of(kl[finite]),
            "infinite_kl": None if finite is None else float(1 - finite.mean()),
            "total_variation": Distribution.of(found["variation"]) if "variation" in found else None,
            "fidelity": self._fidelity.result(),
            "mean_probability_spread": None if None in spreads else spreads,
            "top1_agreement": float(found["top1"].mean()) if "top1" in found else None,
            "identical": None if identical is None else float(identical.mean()),
            "cosine": Distribution.of(found["cosine"]) if "cosine" in found else None,
        }


def _distances(targets: NDArray[np.float32], others: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return how far the targets of each of some crops, (R, C), lie apart."""
    p, q = _normalised(targets), _normalised(others)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / q), 0.0)
    return {"kl": np.maximum(terms.sum(axis=1), 0.0), "variation": np.abs(p - q).sum(axis=1) / 2}


def _cosines(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine similarity of the rows of both, (R, C); 0 where one is zero."""
    a, b = vectors.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.divide((a * b).sum(axis=1), lengths, out=np.zeros(len(a)), where=lengths > 0), np.float64)


def _normalised(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    normalised: NDArray[np.float64] = exact / exact.sum(axis=1, keepdims=True)
    return normalised
