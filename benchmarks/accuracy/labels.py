"""The labels of the accuracy experiment: what a teacher says once, written with every codec, and all views of padded images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.images import MARGIN, SIDE
from softlabel_codec import AllViews, SoftLabelReader, SoftLabelWriter
from softlabel_codec.labels import DenseLabels, Labels
from softlabel_codec.report.fidelity import FidelityMeter, SpreadMeter
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode

SAMPLER = CropSampler(seed=0, scale=(0.25, 1.0))
_AREA = SIDE**2 / (SIDE + 2 * MARGIN) ** 2
VIEW_SAMPLER = CropSampler(seed=0, scale=(_AREA, _AREA), ratio=(1.0, 1.0))
"""Crops of a padded image: one of 25 places, mirrored or not."""
COMPARED_IMAGES = 500
VIEWS_PER_IMAGE = 2 * (2 * MARGIN + 1) ** 2

FloatArray = NDArray[np.float64]


def softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return probabilities of logits at a temperature."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probs: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probs


def write_labels(logits: Path, path: Path, codec: str, stored: int, temperature: float) -> dict[str, Any]:
    """Write the first crops of each image with a codec; return what is known of the labels.

    Returns
    -------
    dict
        `bytes`, `num_images`, and of crops of up to 500 images the means of `entropy` in nats and `confidence` of the teacher, the `spread`
        of its mean probability, and `kl`, KL(teacher || labels as read) in nats, None where it is infinite; and the latter with `lost` and
        `total_variation` at T = 1, 4 and 20: `fidelity`.
    """
    crops = range(stored)
    with SoftLabelReader(logits) as reader:
        metadata = {**reader.metadata, "temperature": temperature}
        with SoftLabelWriter(path, reader.num_classes, codec, metadata, crops="derived", sampler=SAMPLER, overwrite=True) as writer:
            for number, key in enumerate(reader.keys):
                image = reader.read(number, crops)
                writer.add(key, image_size=image.image_size, probs=softmax(_logits(image.labels), temperature))
        return {"bytes": path.stat().st_size, **_compared(reader, path, crops, temperature)}


def _logits(labels: Labels) -> NDArray[np.float32]:
    assert isinstance(labels, DenseLabels)
    assert labels.content == "logits"
    return labels.vectors  # dense() gives probabilities


def _compared(logits: SoftLabelReader, path: Path, crops: range, temperature: float) -> dict[str, Any]:
    meter, spread, parts = FidelityMeter(temperature, temperature), SpreadMeter(), []
    with SoftLabelReader(path) as reader:
        for number in np.unique(np.linspace(0, len(reader) - 1, COMPARED_IMAGES).astype(np.int64)).tolist():
            p = softmax(_logits(logits.read(reader.keys[number], crops).labels), temperature).astype(np.float64)
            meter.add(p, reader.read(number, crops).labels.dense())
            spread.add(p)
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append((np.where(p > 0, -p * np.log(p), 0).sum(axis=1), p.max(axis=1)))
        entropy, confidence = (float(np.concatenate(values).mean()) for values in zip(*parts, strict=True))
        fidelity = [asdict(one) for one in meter.result()]
        kl = next(one["kl"] for one in fidelity if one["temperature"] == temperature)
        teacher = {"entropy": entropy, "confidence": confidence, "spread": spread.result()}
        return {"num_images": len(reader), **teacher, "kl": kl, "fidelity": fidelity}


def write_views(images: Path, path: Path, teacher: str, device: str) -> dict[str, Any]:
    """Write all 50 views of each padded image with the teacher's probabilities as 32-bit floats; return what is known of them."""
    views = AllViews(SIDE, SIDE)
    how: dict[str, Any] = {"sampler": views, "size": SIDE, "batch_size": VIEWS_PER_IMAGE, "precision": "float32", "device": device}
    report = encode(EncodeConfig(images=str(images), out=str(path), teacher=teacher, codec="dense:values=f32", overwrite=True, **how))
    return {"bytes": report.file_bytes, "num_images": report.num_images}
