"""Statistics of the labels of a file or a set: confidence, kept classes, crops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.labels import DenseLabels, Labels, SparseLabels
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report.file_report import Part
from softlabel_codec.report.inspecting import inspect
from softlabel_codec.storage.location import shown

NUMBERS_PER_BATCH = 2**22
"""Count of label values that are decoded at a time, unless one image has more."""
CONFIDENCE_BINS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Distribution:
    """Mean and quantiles of a quantity over crops (or images).

    Attributes
    ----------
    mean : float
        The mean.
    quantiles : dict
        Value at 5, 25, 50, 75 and 95 %.
    """

    mean: float
    quantiles: dict[str, float]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Distribution:
        """Return the distribution of some values, at least one."""
        levels = np.quantile(values, QUANTILES)
        return cls(float(values.mean()), {f"{q:.0%}": float(level) for q, level in zip(QUANTILES, levels, strict=True)})


@dataclass(frozen=True)
class StatsReport:
    """Statistics of a container file or a label set, over all or a sample of its images.

    Attributes
    ----------
    path, codec, num_classes
        Which labels, and how they are encoded.
    crops, sampler, padding
        How crops are stored, as in `FileReport`.
    temperature : float or None
        T of softmax(logits / T) at which the labels were read for confidence, entropy and remainder; None: as they are stored.
    num_images, sampled_images, sampled_crops : int
        How many images there are, and how many images and crops were sampled.
    bytes_per_crop, bytes_per_image : float
        All bytes divided by all crops, and by all images.
    budget : list of Part
        Bytes of each part.
    confidence : Distribution
        Target of the most probable class.
    confidence_histogram : list of int
        Crops by confidence, in 20 equal bins from 0 to 1.
    entropy : Distribution
        Entropy of the target over all classes, in nats.
    kept_classes : Distribution
        Number of classes stored of a crop.
    kept_classes_histogram : dict
        Crops by number of kept classes.
    remainder : Distribution
        Probability of all classes that are not stored.
    top1_classes_seen : int
        Distinct most probable classes of all sampled crops.
    top1_classes_per_image : Distribution
        Distinct most probable classes among the crops of an image.
    top1_agreement : Distribution
        Share of an image's crops that have its most frequent most probable class.
    fitted_kl, unseen_kl : Distribution or None
        Of label fields: mean KL of the teacher's labels from the field in nats, of each image, as the writer measured it: on the crops that
        the field was made from; and, for some of the images, on crops that it was not made from. None of other codecs, or where the writer
        did not measure it.
    crop_area : Distribution
        Area of a crop as a fraction of the image's without padding.
    flipped : float
        Share of mirrored crops.
    """

    path: str
    codec: str
    num_classes: int
    crops: str
    sampler: dict[str, Any] | None
    padding: dict[str, Any] | None
    temperature: float | None
    num_images: int
    sampled_images: int
    sampled_crops: int
    bytes_per_crop: float
    bytes_per_image: float
    budget: list[Part]
    confidence: Distribution
    confidence_histogram: list[int]
    entropy: Distribution
    kept_classes: Distribution
    kept_classes_histogram: dict[str, int]
    remainder: Distribution
    top1_classes_seen: int
    top1_classes_per_image: Distribution
    top1_agreement: Distribution
    fitted_kl: Distribution | None
    unseen_kl: Distribution | None
    crop_area: Distribution
    flipped: float


def stats(path: str | os.PathLike[str], *, max_images: int = 2000, temperature: float | None = None) -> StatsReport:
    """Return statistics of a container file, or of a label set, from at most `max_images` of its images, evenly spread.

    With a temperature, those of the labels as `SoftLabelReader(path, temperature=...)` reads them.

    Raises
    ------
    FormatError
        If it is unfinished or damaged.
    MismatchError, OSError
        If a shard that is read is not the one of the set, or is not there.
    ArgumentError, MismatchError
        If the labels cannot be read at the temperature, or do not say their own.
    StateError
        If it holds no images, or features instead of labels.
    """
    report = inspect(path)
    if not report.num_images:
        raise StateError(f"{shown(path)}: there are no images")
    with SoftLabelReader(path, temperature=temperature) as reader:
        if reader.parsed_codec.content == "features":
            advice = "`slcodec inspect` says what they take, and --against compares them with other features"
            raise StateError(f"{shown(path)}: expected labels of classes, got features, of which there are no statistics: {advice}")
        sample = np.unique(np.linspace(0, len(reader) - 1, min(max_images, len(reader))).astype(np.int64))
        seen = _Seen()
        for images in _batches(reader, sample):
            seen.add(reader, images)
    confidence, kept = seen.joined("confidence"), seen.joined("kept")
    counts = np.bincount(kept.astype(np.int64))
    return StatsReport(
        path=shown(path),
        codec=report.codec,
        num_classes=report.num_classes,
        crops=report.crops,
        sampler=report.sampler,
        padding=report.padding,
        temperature=temperature,
        num_images=report.num_images,
        sampled_images=len(sample),
        sampled_crops=len(confidence),
        bytes_per_crop=report.bytes_per_crop,
        bytes_per_image=report.bytes_per_image,
        budget=report.budget,
        confidence=Distribution.of(confidence),
        confidence_histogram=np.histogram(confidence, CONFIDENCE_BINS, (0, 1))[0].tolist(),
        entropy=Distribution.of(seen.joined("entropy")),
        kept_classes=Distribution.of(kept),
        kept_classes_histogram={str(number): int(count) for number, count in enumerate(counts) if count},
        remainder=Distribution.of(seen.joined("remainder")),
        top1_classes_seen=len(seen.classes),
        top1_classes_per_image=Distribution.of(seen.joined("distinct")),
        top1_agreement=Distribution.of(seen.joined("agreement")),
        fitted_kl=seen.known("fitted"),
        unseen_kl=seen.known("unseen"),
        crop_area=Distribution.of(seen.joined("area")),
        flipped=float(seen.joined("flips").mean()),
    )


def plot_stats(report: StatsReport, out: str | os.PathLike[str]) -> None:
    """Draw confidence, kept classes and bytes per crop by column.

    Raises
    ------
    StateError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only this needs it
    except ImportError:
        raise StateError("plots need matplotlib: pip install 'softlabel_codec[plot]'") from None
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _plot_confidence(left, report)
    _plot_kept(middle, report)
    _plot_budget(right, report)
    crops = counted(report.sampled_crops, "crop")
    title = f"{Path(report.path).name}   {report.codec}   {crops} of {counted(report.sampled_images, 'image')}"
    figure.suptitle(title, parse_math=False)
    known = figure.canvas.get_supported_filetypes()
    if Path(out).suffix.lstrip(".").lower() not in known:
        raise ArgumentError(f"{out}: expected a file extension for pictures, one of {', '.join(sorted(known))}")
    figure.savefig(out, dpi=120)


def _batches(reader: SoftLabelReader, sample: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of some images in batches that take little memory."""
    size = np.cumsum(reader.num_crops[sample] * reader.num_classes)
    cuts = np.flatnonzero(np.diff(size // NUMBERS_PER_BATCH)) + 1
    yield from np.split(sample, cuts)


class _Seen:
    """Quantities of each crop (or image), collected batch by batch."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self.classes: set[int] = set()

    def add(self, reader: SoftLabelReader, images: NDArray[np.int64]) -> None:
        batch = reader.read_batch(images)
        self._note_fields(reader, images)
        for name, values in _label_measures(batch.labels).items():
            self._parts.setdefault(name, []).append(values)
        ends = np.cumsum(batch.num_crops)
        shares = [_shares(classes) for classes in np.split(batch.labels.top1, ends[:-1])]
        self.classes.update(batch.labels.top1.tolist())
        self._note("distinct", [distinct for distinct, _ in shares])
        self._note("agreement", [agreement for _, agreement in shares])
        self._note("flips", batch.flips)
        sides = batch.crops[:, 2:].astype(np.float64)
        if not reader.crops.startswith("fractions"):
            sides = sides / np.repeat(batch.image_sizes, batch.num_crops, axis=0)
        self._note("area", sides.prod(axis=1))

    def _note_fields(self, reader: SoftLabelReader, images: NDArray[np.int64]) -> None:
        if reader.container.layout.family.of_places:
            fitted, unseen = reader.field_kl(images)
            self._note("fitted", fitted)
            self._note("unseen", unseen)

    def known(self, name: str) -> Distribution | None:
        """Return the distribution of a quantity over the images of which it is known, if there are any."""
        values = self.joined(name) if name in self._parts else np.empty(0)
        values = values[~np.isnan(values)]
        return Distribution.of(values) if len(values) else None

    def joined(self, name: str) -> NDArray[np.float64]:
        return np.concatenate(self._parts[name]).astype(np.float64)

    def _note(self, name: str, values: Any) -> None:
        self._parts.setdefault(name, []).append(np.asarray(values, np.float64))


def _label_measures(labels: Labels) -> dict[str, NDArray[Any]]:
    if isinstance(labels, DenseLabels):
        rows = max(1, NUMBERS_PER_BATCH // labels.num_classes)  # crops whose targets take little memory together
        parts = [labels[first : first + rows] for first in range(0, len(labels), rows)]
        return {
            "confidence": np.concatenate([part.dense().max(axis=1) for part in parts]),
            "entropy": np.concatenate([_entropy_terms(part.dense()).sum(axis=1) for part in parts]),
            "kept": np.full(len(labels), labels.num_classes),
            "remainder": np.zeros(len(labels)),
        }
    return _sparse_measures(labels)


def _sparse_measures(labels: SparseLabels) -> dict[str, NDArray[Any]]:
    counts = labels.counts
    values, rest = labels.values.astype(np.float64), labels.remainder.astype(np.float64)
    if labels.policy == "renorm":
        values, rest = values / values.sum(axis=1, keepdims=True), np.zeros(len(rest))
    if labels.policy == "tail" and labels.tails is not None and labels.tails.slopes is not None:
        entropy = _entropy_along_full_tail(labels)
    else:
        of_rest = _entropy_along_tail(labels) if labels.policy == "tail" else _entropy_of_even(rest, labels)
        entropy = _entropy_terms(values).sum(axis=1) + of_rest
    return {"confidence": values[:, 0], "entropy": entropy, "kept": counts, "remainder": labels.remainder}


def _entropy_of_even(rest: NDArray[np.float64], labels: SparseLabels) -> NDArray[np.float64]:
    """Return the part of the entropy that is due to remainders (R,) spread evenly over the classes that are not kept."""
    others = np.maximum(labels.num_classes - labels.counts, 1)
    return np.asarray(others * _entropy_terms(rest / others))


def _entropy_along_tail(labels: SparseLabels) -> NDArray[np.float64]:
    """Return the part of the entropy that is due to remainders spread along their image's tail.

    A class of weight w has the target s * w with s = rest / Z, so that the sum over the classes of -s w ln(s w) is
    s * (sum of -w ln w) - rest * ln s: sums over all classes of the tail, less those that are kept.
    """
    assert labels.tails is not None
    assert labels.tail_of is not None
    tails, of, rest = labels.tails, labels.tail_of, labels.remainder.astype(np.float64)
    num_unlisted = labels.num_classes - (tails.classes >= 0).sum(axis=1)
    kept = labels.tails.weights_of(of, labels.indices).astype(np.float64)
    total = (tails.weights.sum(axis=1, dtype=np.float64) + num_unlisted * tails.floor)[of] - kept.sum(axis=1)
    terms = (_entropy_terms(tails.weights).sum(axis=1) + num_unlisted * _entropy_terms(tails.floor))[of] - _entropy_terms(kept).sum(axis=1)
    along = (total > 1e-6) & (rest > 0)
    scale = np.divide(rest, total, out=np.ones(len(rest)), where=along)
    return np.where(along, scale * terms - rest * np.log(scale), _entropy_of_even(rest, labels))


def _entropy_along_full_tail(labels: SparseLabels) -> NDArray[np.float64]:
    """Return the entropy (R,) of labels of which each crop has its own weights of all classes: few crops at a time."""
    rows = max(1, NUMBERS_PER_BATCH // labels.num_classes)
    parts = (labels[first : first + rows].dense() for first in range(0, len(labels), rows))
    return np.concatenate([_entropy_terms(part).sum(axis=1) for part in parts])


def _entropy_terms(probs: NDArray[Any]) -> NDArray[np.float64]:
    probs = probs.astype(np.float64)
    return np.asarray(-probs * np.log(np.where(probs > 0, probs, 1.0)))


def _shares(classes: NDArray[np.int32]) -> tuple[int, float]:
    counts = np.unique(classes, return_counts=True)[1]
    return len(counts), float(counts.max() / len(classes))


def _plot_confidence(axes: Any, report: StatsReport) -> None:
    edges = np.linspace(0, 1, CONFIDENCE_BINS + 1)
    shares = np.array(report.confidence_histogram) / report.sampled_crops
    axes.bar(edges[:-1], shares, width=1 / CONFIDENCE_BINS, align="edge", edgecolor="white")
    axes.axvline(report.confidence.mean, color="black", linestyle="--", label=f"mean {report.confidence.mean:.2f}")
    axes.set(title="Confidence: target of the top class", xlabel="probability", ylabel="share of crops", xlim=(0, 1))
    axes.legend()


def _plot_kept(axes: Any, report: StatsReport) -> None:
    numbers = [int(number) for number in report.kept_classes_histogram]
    shares = np.array(list(report.kept_classes_histogram.values())) / report.sampled_crops
    axes.bar(numbers, shares, width=0.9)
    axes.set(title=f"Classes kept: mean {report.kept_classes.mean:.1f} of {report.num_classes}", xlabel="classes", ylabel="share of crops")
    axes.set_xlim(0, max(numbers) + 1)


def _plot_budget(axes: Any, report: StatsReport) -> None:
    parts = sorted(report.budget, key=lambda part: part.file_bytes)
    bars = axes.barh([part.name for part in parts], [part.bytes_per_crop for part in parts])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(title=f"Bytes per crop: {report.bytes_per_crop:.2f}", xlabel="bytes")
    axes.margins(x=0.15)
