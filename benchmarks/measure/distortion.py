"""Rate against distortion: bytes per crop over how far decoded labels are from the teacher's, a curve for each family of codecs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.common import Labels, write_container
from softlabel_codec import SoftLabelReader
from softlabel_codec.report.fidelity import FidelityMeter, SpreadMeter

FLOOR = 1e-12
MS = "marginal_smoothing:"
FAMILIES = {
    "k": [f"{MS}k={k}" for k in (1, 2, 3, 5, 8, 10, 20)],
    "t": [f"{MS}t={t}" for t in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)],
    "t, tail=30": [f"{MS}t={t},tail=30" for t in (0.2, 0.1, 0.05, 0.03, 0.02)],
    "t, tail=100": [f"{MS}t={t},tail=100" for t in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01)],
    "t, tail=300": [f"{MS}t={t},tail=300" for t in (0.1, 0.05, 0.03, 0.02, 0.01)],
    "t, tail=all, mean=log": [f"{MS}t={t},tail=all,mean=log" for t in (0.2, 0.1, 0.05, 0.03, 0.02)],
    "k=5, log8 step": [f"{MS}k=5,step={step}" for step in (0.05, 0.1, 0.2, 0.4, 0.8)],
    "t=0.05, tail=100, log8 step": [f"{MS}t=0.05,step={step},tail=100" for step in (0.05, 0.1, 0.2, 0.4, 0.8)],
    "dense, log8 step": [f"dense:values=log8,step={step}" for step in (0.25, 0.5, 1.0, 2.0)],
    "k=5, other values": [f"{MS}k=5,values=f16", f"{MS}k=5,values=f32", "marginal_renorm:k=5"],
}


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return for each family its points; KL is None where a class that the teacher holds possible gets no probability by policy."""
    points: dict[str, dict[str, Any]] = {}
    for codec in dict.fromkeys(codec for family in FAMILIES.values() for codec in family if labels.possible(codec)):
        stored = write_container(labels, folder / "stored.slc", codec, derived=False)
        derived = write_container(labels, folder / "derived.slc", codec, derived=True)
        points[codec] = {
            "codec": codec,
            "stored": stored / labels.num_crops,
            "derived": derived / labels.num_crops,
            **distortion_of(labels, folder / "derived.slc"),
        }
    families = {name: [points[codec] for codec in family if codec in points] for name, family in FAMILIES.items()}
    teacher = SpreadMeter()
    for probs in labels.probs:
        teacher.add(probs)
    return {"date": time.strftime("%Y-%m-%d"), "families": families, "floor": FLOOR, "teacher_spread": teacher.result()}


def distortion_of(labels: Labels, path: Path) -> dict[str, Any]:
    """Return how near decoded labels are to the teacher's: means over crops, and the shares whose top class is the teacher's.

    `top1` is that of the dense target, where log8 makes near ones equal and the lowest class wins; `first` is the class
    that is stored first. `fidelity` is that at T = 1, 4 and 20, and `kl` and `total_variation` are those at T = 1.
    """
    agreed = first = 0
    fidelity, spread = FidelityMeter(), SpreadMeter()
    with SoftLabelReader(path) as reader:
        floor = 0.0 if reader.parsed_codec.policy == "renorm" else FLOOR
        for probs, image in zip(labels.probs, reader, strict=True):
            targets = image.labels.dense()
            fidelity.add(probs, np.maximum(targets, floor))
            spread.add(targets)
            agreed += int((probs.argmax(axis=1) == targets.argmax(axis=1)).sum())
            first += int((probs.argmax(axis=1) == image.labels.top1).sum())
    found, n = fidelity.result(), labels.num_crops
    return {
        "kl": found[0].kl,
        "total_variation": found[0].total_variation,
        "top1": agreed / n,
        "first": first / n,
        "fidelity": [asdict(one) for one in found],
        "spread": spread.result(),
    }
