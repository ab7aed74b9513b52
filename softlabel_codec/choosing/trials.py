"""What a codec makes of a pilot: bytes, and how much it loses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.choosing.pilot import Pilot, log
from softlabel_codec.codec import Codec
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.reader import SoftLabelReader

_LEAST_KL = 1e-9
"""KL(p || uniform) in nats, below which labels are taken to say nothing, so that what is lost is not divided by 0."""


@dataclass(frozen=True)
class Trial:
    """A codec that was tried.

    Attributes
    ----------
    codec : str
        The codec string.
    crops_per_image : int
        How many crops of each image were stored; the most, if images had different numbers.
    bytes_per_image : float
        What an image takes in a file: labels, crops, key and its part of the index.
    lost : float
        Share of KL(p || uniform) that is lost, 0 to 1 and more: the mean over crops of KL(p || q) divided by the mean of that, p being the
        teacher's labels and q those that are read back. Of label fields, on crops that they were not made from.
    """

    codec: str
    crops_per_image: int
    bytes_per_image: float
    lost: float

    def __str__(self) -> str:
        lost = f"loses {100 * self.lost:.3g} %" if self.lost < 1 else "loses everything"
        return f"{self.crops_per_image} crops, {self.bytes_per_image:,.0f} bytes per image, {lost}"


def measure(pilot: Pilot, codec: Codec) -> Trial:
    """Write a pilot in a codec, read it back, and compare."""
    with tempfile.TemporaryDirectory(prefix="softlabel-pilot-") as folder:
        path = Path(folder) / "pilot.slc"
        pilot.write(path, str(codec))
        with SoftLabelReader(path) as reader:
            num_bytes = _growing_bytes(reader)
            if codec.family != "field":
                lost = _lost(_read(reader, pilot), pilot.power)
        if codec.family == "field":
            path = path.with_name("fitted.slc")
            pilot.write_without_held_out(path, str(codec))
            with SoftLabelReader(path) as reader:
                lost = _lost(_read_held_out(reader, pilot), pilot.power)
    return Trial(str(codec), pilot.most_crops, num_bytes / len(pilot), lost)


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Labels of the teacher, and of the file, for the same crops, (m, C) each."""


def _read(reader: SoftLabelReader, pilot: Pilot) -> Iterator[Pair]:
    for image, given in zip(reader, pilot.images.values(), strict=True):
        yield given["probs"], image.labels.dense()


def _read_held_out(reader: SoftLabelReader, pilot: Pilot) -> Iterator[Pair]:
    for number, (crops, probs) in enumerate(pilot.held_out()):
        yield probs, reader.labels_at([number], crops[None]).labels.dense()


def _growing_bytes(reader: SoftLabelReader) -> int:
    """Return how many bytes of a file there are because it has images: blocks, keys and index."""
    assert isinstance(reader.container, OpenContainer)
    trailer, beginning = reader.container.trailer, len(reader.container.beginning.data)
    return (trailer.summary_offset - beginning) + (trailer.copy_offset - trailer.index_offset)


def _lost(pairs: Iterator[Pair], power: float) -> float:
    kl = of_uniform = 0.0
    for probs, labels in pairs:
        p, q = (_softened(each, power) if power != 1 else each for each in (probs, labels))
        own = float(np.einsum("mc,mc->", p, log(p), dtype=np.float64))
        kl += own - float(np.einsum("mc,mc->", p, log(q), dtype=np.float64))
        of_uniform += own + len(p) * float(np.log(p.shape[1]))
    return max(0.0, kl) / max(of_uniform, _LEAST_KL)


def _softened(targets: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Return a power of targets (m, C), normalised: those at a temperature that is 1 / power times as high."""
    logs = power * log(targets).astype(np.float64)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
