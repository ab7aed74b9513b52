"""Quality of the labels of each source on the same crops: confidence, agreement with the classes, and distance from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.image_source import ImageSource, name_of, where_is
from softlabel_codec.images.classes import class_folders, classes_of, read_class_folders
from softlabel_codec.images.files import read_size
from softlabel_codec.images.sources import open_images
from softlabel_codec.images.truth import targets_of
from softlabel_codec.label_maps.maps import LabelMaps
from softlabel_codec.labels import ImageLabels
from softlabel_codec.options.train import MAPS, TRUTH, is_stored, kind_of_labels
from softlabel_codec.padding import Padding
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report.fidelity import Fidelity, FidelityMeter, SpreadMeter

MAX_IMAGES = 200
MAX_CROPS = 8
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LabelQuality:
    """Quality of the labels of a source, as means over crops.

    Attributes
    ----------
    confidence : float
        Probability of the most probable class.
    entropy : float
        In nats.
    agreement : float or None
        Share of crops whose most probable class is that of their image, if it is known.
    mean_probability_spread : float
        How much the mean probability of a class varies from draw to draw, which predicts the student: see `SpreadMeter` in
        `softlabel_codec.report.fidelity`.
    cross_entropy : dict
        For each source with labels of the same crops, the cross-entropy -sum p ln q in nats of its labels p and these labels q; None where
        it is infinite, because a class with p > 0 has q = 0.
    fidelity : dict
        For each of these sources, how near these labels are to its at T = 1, 4 and 20.
    """

    confidence: float
    entropy: float
    agreement: float | None
    mean_probability_spread: float
    cross_entropy: dict[str, float | None]
    fidelity: dict[str, list[Fidelity]]

    def kl(self, reference: str, entropy: float) -> float | None:
        """Return the divergence of these labels from those of a reference with that entropy, in nats; None if unknown or infinite."""
        cross = self.cross_entropy.get(reference)
        return None if cross is None else max(0.0, cross - entropy)


def label_quality(sources: Mapping[str, str], images: str, classes: str | None = None) -> dict[str, LabelQuality]:
    """Return the quality of labels on crops of the first label file among the sources: up to 200 images, 8 crops of each.

    Parameters
    ----------
    sources : mapping of str to str
        Label sources by name, as `TrainConfig.labels` takes them. Sources that need a teacher are left out, and all of them if none
        is a label file. Label files with other crops are measured on their own crops, and not compared.
    images : str
        The images, as for `open_images`.
    classes : str, optional
        File with the numbers of the class folders, if they do not ascend: see `read_class_folders`.
    """
    stored = [labels for labels in sources.values() if is_stored(labels)]
    if not stored:
        return {}
    with SoftLabelReader(stored[0]) as reader:
        folders = class_folders(reader.keys) if classes is None else read_class_folders(classes, reader.num_classes)
        crops = _Crops.of(reader, open_images(images), folders, classes is not None)
    probs = {name: crops.probs(labels) for name, labels in sources.items()}
    found = {name: rows for name, rows in probs.items() if rows is not None}
    return {name: _quality(rows, crops.classes, found) for name, rows in found.items()}


def _quality(labels: _Probs, classes: NDArray[np.int64] | None, sources: Mapping[str, _Probs]) -> LabelQuality:
    agreement = None if classes is None else float((labels.rows.argmax(axis=1) == classes).mean())
    comparable = {name: other for name, other in sources.items() if other.same_crops and labels.same_crops}
    spread = SpreadMeter()
    spread.add(labels.rows)
    return LabelQuality(
        confidence=float(labels.rows.max(axis=1).mean()),
        entropy=_cross_entropy(labels.rows, labels.rows) or 0.0,
        agreement=agreement,
        mean_probability_spread=spread.result() or 0.0,
        cross_entropy={name: _cross_entropy(other.rows, labels.rows) for name, other in comparable.items()},
        fidelity={name: _fidelity(other, labels) for name, other in comparable.items()},
    )


def _fidelity(reference: _Probs, labels: _Probs) -> list[Fidelity]:
    meter = FidelityMeter(reference.temperature, labels.temperature)
    meter.add(reference.rows, labels.rows)
    return meter.result()


def _same_crops(image: ImageLabels, other: ImageLabels) -> bool:
    return np.array_equal(image.crops, other.crops) and np.array_equal(image.flips, other.flips)


def _cross_entropy(p: FloatArray, q: FloatArray) -> float | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(q), 0.0)
    total = -float(terms.sum()) / len(p)
    return total if np.isfinite(total) else None


@dataclass(frozen=True)
class _Probs:
    """Targets of crops, (R, C), and the temperature at which they were made."""

    rows: FloatArray
    same_crops: bool = True
    temperature: float = 1.0


@dataclass(frozen=True)
class _Crops:
    """Chosen crops of a label file."""

    source: ImageSource
    keys: list[str]
    numbers: NDArray[np.int64]
    labelled: list[ImageLabels]
    padding: Padding
    num_classes: int
    classes: NDArray[np.int64] | None

    @classmethod
    def of(cls, reader: SoftLabelReader, source: ImageSource, folders: Sequence[str], stated: bool) -> _Crops:
        chosen = np.unique(np.linspace(0, len(reader) - 1, min(MAX_IMAGES, len(reader))).astype(np.int64))
        numbers = np.linspace(0, int(reader.num_crops[chosen].min()) - 1, MAX_CROPS).astype(np.int64)
        numbers = np.unique(numbers)
        keys = [reader.keys[int(image)] for image in chosen]
        labelled = list(reader.read_batch(chosen, np.tile(numbers, (len(chosen), 1))))
        classes = None if stated else targets_of(source, keys)
        if classes is None and len(folders) == reader.num_classes:
            classes = classes_of(keys, folders, name_of(source))
        of_crops = None if classes is None else np.repeat(classes, len(numbers))
        return cls(source, keys, numbers, labelled, reader.padding, reader.num_classes, of_crops)

    def probs(self, labels: str) -> _Probs | None:
        """Return the labels of these crops from a source; None if they need a teacher."""
        if is_stored(labels):
            return self._stored(labels)
        if kind_of_labels(labels) == MAPS:
            return _Probs(_normalised(self._mapped(LabelMaps.load(labels))))
        if labels == TRUTH and self.classes is not None:
            return _Probs(np.eye(self.num_classes)[self.classes])
        return None

    def _stored(self, labels: str) -> _Probs | None:
        with SoftLabelReader(labels) as reader:
            places = reader.find(self.keys, missing=-1)
            if (places < 0).any() or (reader.num_crops[places] <= self.numbers[-1]).any():
                return None
            found = list(reader.read_batch(places, np.tile(self.numbers, (len(places), 1))))
            same = reader.padding == self.padding and all(map(_same_crops, found, self.labelled))
            return _Probs(_normalised(np.concatenate([image.labels.dense() for image in found])), same, reader.temperature)

    def _mapped(self, maps: LabelMaps) -> NDArray[np.float32]:
        sizes = [read_size(self.source.read(key), where_is(self.source, key), maps.exif_orientation) for key in self.keys]
        mapped = [maps.labels(key, image.crops, size).dense() for key, image, size in zip(self.keys, self.labelled, sizes, strict=True)]
        return np.concatenate(mapped)


def _normalised(rows: NDArray[np.float32]) -> FloatArray:
    exact = rows.astype(np.float64)
    normalised: FloatArray = exact / exact.sum(axis=1, keepdims=True)
    return normalised
