"""Small sound files of every kind, which inputs of the fuzz targets change, and the layouts of blocks."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from dissect import Pieces

from softlabel_codec import SoftLabelWriter, writer
from softlabel_codec.block.layout import Layout
from softlabel_codec.codec import Codec
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.views import AllViews, Sampler

SAMPLER = CropSampler(seed=7, scale=(0.1, 0.9))
SIZE = (48, 64)


class Base(NamedTuple):
    """What a base file is made of."""

    codec: str
    num_classes: int = 7
    crops: str = "pixels"
    counts: tuple[int, ...] = (2, 1, 3)
    keys: tuple[str, ...] = ("b/1.png", "a/größe.png", "a/3.png")
    padding: Padding = NO_PADDING
    sampler: Sampler | None = None
    block_bytes: int = 20
    """About the size of a block: that of an image's labels, or larger, so that images share one."""


MANY = Base("hard", 5, counts=(1,) * 9, keys=tuple(f"k{number}" for number in range(9)))
BASES = (
    Base("hard"),
    Base("hard", 2, counts=(1,), keys=("a",)),
    Base("smoothing"),
    Base("smoothing:values=f16"),
    Base("marginal_smoothing:k=3"),
    Base("marginal_smoothing:k=3,values=f32"),
    Base("marginal_smoothing:k=3,step=1.0,values=log8", 3),
    Base("marginal_renorm:k=2,values=f16", 300),
    Base("marginal_smoothing:k=12", 40, counts=(3, 2), keys=("a", "b")),
    Base("marginal_smoothing:t=0.05"),
    Base("marginal_smoothing:t=0.1,values=f16", 20),
    Base("marginal_renorm:t=0.01,values=f32", 300, counts=(4,), keys=("one",)),
    Base("marginal_smoothing:k=2,tail=4"),
    Base("marginal_smoothing:t=0.2,tail=7,values=f32", 7),
    Base("dense:f32", 3),
    Base("dense:f16", 4),
    Base("dense:f16,content=logits", 3),
    Base("dense:content=features", 2),
    Base("marginal_smoothing:k=2", crops="derived"),
    Base("marginal_smoothing:t=0.1,tail=3", crops="derived"),
    Base("hard", crops="fractions:f32"),
    Base("marginal_smoothing:k=2,values=f16", crops="fractions:f16"),
    Base("marginal_smoothing:k=1", 2**31, counts=(2, 2), keys=("a", "b")),
    Base("hard", counts=(), keys=()),
    MANY,
    Base("hard", padding=Padding(4, "reflect"), sampler=AllViews(*SIZE)),
    Base("marginal_smoothing:k=2", crops="derived", padding=Padding(3, fill=(1, 2, 3)), sampler=AllViews(40, 50)),
    Base("field"),
    Base("field:step=1.0,cost=1e-07", 2),
    Base("field:cost=1e-05", 300, crops="derived", counts=(9, 4), keys=("a", "b")),
    Base("field", crops="fractions:f32"),
    Base("field", crops="derived", padding=Padding(3, fill=(1, 2, 3)), sampler=AllViews(40, 50)),
    Base("dense:values=log8", 9),
    Base("dense:values=log8,step=0.04,content=logits", 7, counts=(60, 1), keys=("a", "b")),
    Base("marginal_smoothing:k=2,tail=all"),
    Base("marginal_smoothing:t=0.1,values=f16,tail=all,mean=log", 20),
    Base("marginal_smoothing:t=0.1,tail=all,mean=log", crops="derived"),
    Base("marginal_smoothing:gain=0.01,tail=8", 30, counts=(5, 4, 6), keys=("a", "b", "c"), crops="derived"),
    Base("marginal_smoothing:gain=0.01,tail=8", 300, counts=(5, 1, 6), block_bytes=4096),
    Base("marginal_smoothing:t=0.1,tail=all,mean=log", 20, block_bytes=4096),
    Base("dense:values=log8", 9, block_bytes=4096),
    Base("field", 9, crops="derived", counts=(9, 1, 4), block_bytes=4096),
)
"""A number in a kept input says which: new ones go to the end."""


@cache
def pieces_of(number: int) -> Pieces:
    """Return a base file in pieces; whoever changes them copies them first."""
    return Pieces.split(file_of(number))


@cache
def file_of(number: int) -> bytes:
    """Return the bytes of a base file."""
    base = BASES[number]
    rng = np.random.default_rng(number)
    sampler = base.sampler or SAMPLER
    with tempfile.TemporaryDirectory() as folder, patch.object(writer, "TARGET_BYTES_PER_BLOCK", base.block_bytes):
        path = Path(folder) / "base.slc"
        options = {"crops": base.crops, "sampler": sampler if base.crops == "derived" else None, "padding": base.padding}
        with SoftLabelWriter(path, base.num_classes, base.codec, {"a": 1}, **options) as labels:
            for key, count in zip(base.keys, base.counts, strict=True):
                crops, flips = sampler.sample(key, base.padding.around(SIZE), range(count))
                if base.crops.startswith("fractions"):
                    crops = (crops / np.array([*SIZE, *SIZE])).astype("f4" if base.crops.endswith("32") else "f2")
                labels.add(key, image_size=SIZE, crops=crops, flips=flips, **_labels(rng, base, count))
            labels.finish(skipped_keys=["gone.png"] if number % 2 else [])
        return path.read_bytes()


def _labels(rng: np.random.Generator, base: Base, count: int) -> dict[str, np.ndarray]:
    if base.num_classes > 10**6:
        return {"indices": rng.integers(base.num_classes, size=(count, 1)), "values": rng.uniform(0.1, 1, (count, 1)).astype("f4")}
    probs = rng.dirichlet(np.full(base.num_classes, 0.4), count).astype(np.float32)
    content = Codec.parse(base.codec).content
    return {"probs": probs} if content == "probs" else {"vectors": np.log(probs + np.float32(1e-6))}


@cache
def layout_of(number: int) -> Layout:
    """Return the layout of the blocks of a base file."""
    base = BASES[number]
    sampler = (base.sampler or SAMPLER) if base.crops == "derived" else None
    return Layout(Codec.parse(base.codec), base.num_classes, base.crops, sampler, padding=base.padding)
