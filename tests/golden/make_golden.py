"""Write the golden files: containers of version 1 and what a reader must find in them.

They are written once and never again: a reader of any later version must read them, and find the same. The script
refuses to overwrite; what is missing is written, so that new codecs can be added.

usage: python tests/golden/make_golden.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from softlabel_codec import SoftLabelReader, SoftLabelWriter
from softlabel_codec.sampler import CropSampler

FOLDER = Path(__file__).parent / "v1"
SIZES = [(60, 80), (1, 1), (480, 640), (77, 33), (300, 300)]
COUNTS = [3, 1, 40, 150, 7]
KEYS = ["n02/tench.JPEG", "n01/größe/猫.png", "n01/a.b.c.JPEG", "z", "n02/tench 2.JPEG"]

CASES: dict[str, dict[str, Any]] = {
    "hard": {"codec": "hard"},
    "smoothing": {"codec": "smoothing"},
    "smoothing-f32": {"codec": "smoothing:values=f32"},
    "smoothing-f16": {"codec": "smoothing:values=f16"},
    "marginal_smoothing-k5": {"codec": "marginal_smoothing:k=5"},
    "marginal_smoothing-k5-step": {"codec": "marginal_smoothing:k=5,step=0.25"},
    "marginal_smoothing-k5-f32": {"codec": "marginal_smoothing:k=5,values=f32"},
    "marginal_smoothing-k5-f16": {"codec": "marginal_smoothing:k=5,values=f16"},
    "marginal_smoothing-k12-all-classes": {"codec": "marginal_smoothing:k=12", "num_classes": 12},
    "marginal_smoothing-k20-beyond-look-back": {"codec": "marginal_smoothing:k=20"},
    "marginal_smoothing-t": {"codec": "marginal_smoothing:t=0.02"},
    "marginal_smoothing-t-f16": {"codec": "marginal_smoothing:t=0.05,values=f16"},
    "marginal_renorm-k5": {"codec": "marginal_renorm:k=5"},
    "marginal_renorm-t-f32": {"codec": "marginal_renorm:t=0.1,values=f32"},
    "two-classes": {"codec": "marginal_smoothing:k=1", "num_classes": 2},
    "many-classes": {"codec": "marginal_smoothing:k=3", "num_classes": 2**31},
    "large-palette": {"codec": "marginal_smoothing:k=9", "num_classes": 3000, "flat": True},
    "fractions-f32": {"codec": "marginal_smoothing:k=5,values=f32", "crops": "fractions:f32"},
    "fractions-f16": {"codec": "marginal_smoothing:k=5,values=f16", "crops": "fractions:f16"},
    "dense": {"codec": "dense", "num_classes": 20},
    "dense-f16": {"codec": "dense:values=f16", "num_classes": 20},
    "dense-logits": {"codec": "dense:content=logits", "num_classes": 20},
    "dense-features-f16": {"codec": "dense:values=f16,content=features", "num_classes": 20},
    "several-blocks-ascending-keys": {"codec": "marginal_smoothing:k=5", "images": 600, "counts": 1},
    "several-blocks-other-order": {"codec": "marginal_smoothing:t=0.05", "images": 60, "counts": 20, "reverse": True},
    "smallest": {"codec": "hard", "num_classes": 2, "smallest": True},
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        container, expected = FOLDER / f"{name}.slc", FOLDER / f"{name}.npz"
        if container.exists() != expected.exists():
            sys.exit(f"{name}: expected both or neither of {container.name} and {expected.name}")
        if not container.exists():
            write_case(container, **case)
            np.savez_compressed(expected, **contents(container))
            print(container.name, container.stat().st_size)


def write_case(path: Path, codec: str, num_classes: int = 1000, crops: str = "pixels", **options: Any) -> None:
    keys, sizes, counts = _images(**{name: options[name] for name in ("images", "counts", "reverse", "smallest") if name in options})
    rng = np.random.default_rng(len(path.stem))
    metadata = {"made_by": "make_golden.py", "nested": {"list": [1, 2.5, None, True, "é"]}}
    with SoftLabelWriter(path, num_classes, codec, {} if options.get("smallest") else metadata, crops=crops) as writer:
        for key, size, count in zip(keys, sizes, counts, strict=True):
            geometry, flips = CropSampler(seed=5).sample(key, size, range(count))
            if options.get("smallest"):
                flips[:] = False
            if crops != "pixels":
                geometry = (geometry / np.array([*size, *size])).astype("f4" if crops.endswith("32") else "f2")
            labels = _labels(rng, codec, num_classes, count, bool(options.get("flat")), bool(options.get("smallest")))
            writer.add(key, image_size=size if crops == "pixels" else None, crops=geometry, flips=flips, **labels)


def contents(path: Path) -> dict[str, Any]:
    """Return everything that a reader must find in a file, as arrays."""
    with SoftLabelReader(path) as reader:
        batch = reader.read_batch(range(len(reader)))
        found: dict[str, Any] = {
            "keys": np.array(list(reader.keys)),
            "num_classes": reader.num_classes,
            "codec": reader.codec,
            "sizes": batch.image_sizes,
            "counts": batch.image_rows,
            "crops": batch.crops,
            "flips": batch.flips,
        }
        if reader.codec.startswith("dense"):
            found["vectors"] = batch.labels.vectors
        else:
            found |= {"indices": batch.labels.indices, "values": batch.labels.values, "remainder": batch.labels.remainder}
        return found


def _images(images: int = 0, counts: int = 0, reverse: bool = False, smallest: bool = False) -> tuple[list[str], list[tuple[int, int]], list[int]]:
    if smallest:
        return ["a"], [(1, 1)], [1]
    if not images:
        return KEYS, SIZES, COUNTS
    keys = [f"class{number // 50:03d}/image-{number:05d}.jpg" for number in range(images)]
    return keys[::-1] if reverse else keys, [(48 + number % 5, 64) for number in range(images)], [counts] * images


def _labels(rng: np.random.Generator, codec: str, num_classes: int, count: int, flat: bool, smallest: bool) -> dict[str, Any]:
    if smallest:
        return {"probs": np.array([[0.25, 0.75]], np.float32)}
    if num_classes > 10**6:
        classes = rng.choice(num_classes, 12, replace=False)[rng.permuted(np.tile(np.arange(12), (count, 1)), axis=1)[:, :3]]
        return {"indices": classes, "values": rng.dirichlet([1.0] * 4, count)[:, :3].astype(np.float32)}
    profile = np.zeros(num_classes) if flat else -1.2 * rng.permutation(num_classes) ** 0.4
    logits = profile + rng.normal(0, 1.5, (count, num_classes)) + rng.exponential(2, (count, 1)) * (profile == profile.max())
    if "content=" in codec:
        return {"vectors": logits.astype(np.float32)}
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"probs": (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)}


if __name__ == "__main__":
    main()
