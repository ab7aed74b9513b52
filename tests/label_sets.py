"""Small label sets for tests, and the same labels in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import random_probs

from softlabel_codec import SoftLabelWriter
from softlabel_codec.label_set.making import index_path, shard_name, write_index
from softlabel_codec.sampler import CropSampler

SHARDS = (("a/1.jpg", "a/2.jpg", "a/3.jpg"), (), ("b/1.jpg",), ("b/2.jpg", "c/1.jpg"))
COUNTS = {"a/1.jpg": 3, "a/2.jpg": 1, "a/3.jpg": 40, "b/1.jpg": 7, "b/2.jpg": 2, "c/1.jpg": 12}


def write_shard(
    path: Path, keys: Sequence[str], num_crops: int | None = None, codec: str = "marginal_smoothing:k=5", **options: Any
) -> Path:
    """Write a file of images whose labels depend on their keys only; `skipped_keys` are those of the file."""
    skipped, seed = options.pop("skipped_keys", ()), options.pop("seed", 0)
    sampler = options.get("sampler") or CropSampler(seed=5)
    options = {"num_classes": 20, "metadata": {"temperature": 1.0, "nested": {"list": [1, 2.5, None, "é"]}}, **options}
    with SoftLabelWriter(path, codec=codec, **options) as writer:
        for key in keys:
            count = COUNTS[key] if num_crops is None else num_crops
            crops, flips = sampler.sample(key, (48, 64), range(count))
            place = {} if "sampler" in options else {"crops": crops, "flips": flips}
            probs = random_probs(np.random.default_rng([seed, *key.encode()]), count, options["num_classes"])
            writer.add(key, image_size=(48, 64), probs=probs, **place)
        writer.finish(skipped_keys=list(skipped))
    return path


def write_set(folder: Path, shards: Sequence[Sequence[str]] = SHARDS, *, name: str = "x", **options: Any) -> Path:
    """Write a label set of shards with these keys, and return its folder."""
    folder.mkdir(exist_ok=True)
    files = [folder / shard_name(name, number, len(shards)) for number in range(len(shards))]
    for file, keys in zip(files, shards, strict=True):
        write_shard(file, keys, **options)
    write_index(index_path(folder, name), files)
    return folder


def shard_of(folder: Path, number: int, num_shards: int = len(SHARDS)) -> Path:
    """Return a shard of a set that `write_set` wrote."""
    return folder / shard_name("x", number, num_shards)


def edit_index(folder: Path, shard_2: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change what the index of a set says, and what it says of shard 2."""
    path = folder / "x.slc.index.json"
    values = json.loads(path.read_bytes())
    values["shards"][2].update(shard_2 or {})
    path.write_text(json.dumps({**values, **changes}))


def write_both(folder: Path, shards: Sequence[Sequence[str]] = SHARDS, **options: Any) -> tuple[Path, Path]:
    """Write the same labels as a set and as one file."""
    return write_set(folder / "set", shards, **options), write_shard(
        folder / "whole.slc", [key for keys in shards for key in keys], **options
    )
