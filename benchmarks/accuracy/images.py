"""The images of the accuracy experiment, as folders."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.accuracy.plan import ALL, FEW, PADDED

MARGIN = 2
"""Pixels on each side of a padded image."""
SIDE = 32
"""Of a padded image without its margin, and of its crops."""


def unpack(data: Path, folder: Path, per_class: int | None, few_per_class: int) -> None:
    """Write the folders `all/train`, `all/val`, `few/train`, `padded/train` and `padded/val`, unless they are there.

    Images of the first two are the files of Tiny-ImageNet; padded ones are halved to 32 pixels, get a margin of two, and are PNG.
    """
    done = folder / "done"
    if done.exists():
        return
    train, val = {ALL: per_class, FEW: few_per_class, PADDED: few_per_class}, {ALL: None, PADDED: None}
    with np.load(data) as file, ThreadPoolExecutor() as threads:
        packed = dict(file)
        for split, limits in (("train", train), ("val", val)):
            for name, limit in limits.items():
                write = partial(_write_padded if name == PADDED else _write, folder / name / split)
                list(threads.map(write, *zip(*_images(packed, split, limit), strict=True)))
    done.touch()


def _images(packed: dict[str, Any], split: str, per_class: int | None) -> Iterator[tuple[str, bytes]]:
    jpeg, offsets = packed[f"{split}_jpeg"], packed[f"{split}_offsets"]
    seen: dict[int, int] = {}
    for number, (key, label) in enumerate(zip(packed[f"{split}_keys"], packed[f"{split}_labels"].tolist(), strict=True)):
        seen[label] = seen.get(label, 0) + 1
        if per_class is None or seen[label] <= per_class:
            yield key.decode(), jpeg[offsets[number] : offsets[number + 1]].tobytes()


def _write(folder: Path, key: str, jpeg: bytes) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg)


def _write_padded(folder: Path, key: str, jpeg: bytes) -> None:
    path = (folder / key).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.pad(np.asarray(image), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    Image.fromarray(pixels).save(path, compress_level=1)
