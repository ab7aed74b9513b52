"""Rate against distortion: bytes per crop over how far decoded labels are from the teacher's, a curve for each family of codecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.common import Labels, write_container
from softlabel_codec import SoftLabelReader

FLOOR = 1e-12
MS = "marginal_smoothing:"
FAMILIES = {
    "k": [f"{MS}k={k}" for k in (1, 2, 3, 5, 8, 10, 20)],
    "t": [f"{MS}t={t}" for t in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)],
    "t, tail=30": [f"{MS}t={t},tail=30" for t in (0.2, 0.1, 0.05, 0.03, 0.02)],
    "t, tail=100": [f"{MS}t={t},tail=100" for t in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01)],
    "t, tail=300": [f"{MS}t={t},tail=300" for t in (0.1, 0.05, 0.03, 0.02, 0.01)],
    "k=5, log8 step": [f"{MS}k=5,step={step}" for step in (0.05, 0.1, 0.2, 0.4, 0.8)],
    "t=0.05, tail=100, log8 step": [f"{MS}t=0.05,step={step},tail=100" for step in (0.05, 0.1, 0.2, 0.4, 0.8)],
    "k=5, other values": [f"{MS}k=5,values=f16", f"{MS}k=5,values=f32", "marginal_renorm:k=5"],
}


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return for each family its points; KL is None where a class that the teacher holds possible gets no probability by policy."""
    points: dict[str, dict[str, Any]] = {}
    entropy = _entropy(labels)
    for codec in dict.fromkeys(codec for family in FAMILIES.values() for codec in family if labels.possible(codec)):
        stored = write_container(labels, folder / "stored.slc", codec, derived=False)
        derived = write_container(labels, folder / "derived.slc", codec, derived=True)
        points[codec] = {
            "codec": codec,
            "stored": stored / labels.num_crops,
            "derived": derived / labels.num_crops,
            **distortion_of(labels, folder / "derived.slc", entropy),
        }
    return {"families": {name: [points[codec] for codec in family if codec in points] for name, family in FAMILIES.items()}, "floor": FLOOR}


def _entropy(labels: Labels) -> float:
    return float(sum(-_product(probs, np.log(np.maximum(probs, FLOOR))) for probs in labels.probs))


def _product(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(np.einsum("rc,rc->r", left, right).sum(dtype=np.float64))


def distortion_of(labels: Labels, path: Path, entropy: float | None = None) -> dict[str, float | None]:
    """Return means over crops of KL(teacher || decoded) in nats, total variation, and the shares whose top class is the teacher's.

    `top1` is that of the dense target, where log8 makes near ones equal and the lowest class wins; `first` is the class
    that is stored first. `entropy` is the sum of those of the teacher's labels, if it is known.
    """
    entropy = _entropy(labels) if entropy is None else entropy
    cross = variation = agreed = first = 0.0
    with SoftLabelReader(path) as reader:
        renormalised = reader.codec.startswith("marginal_renorm")
        for probs, image in zip(labels.probs, reader, strict=True):
            targets = image.labels.dense()
            cross -= _product(probs, np.log(np.maximum(targets, FLOOR)))
            variation += float(np.abs(probs - targets).sum(dtype=np.float64)) / 2
            agreed += int((probs.argmax(axis=1) == targets.argmax(axis=1)).sum())
            first += int((probs.argmax(axis=1) == image.labels.top1).sum())
    n = labels.num_crops
    return {"kl": None if renormalised else (cross - entropy) / n, "total_variation": variation / n, "top1": agreed / n, "first": first / n}
