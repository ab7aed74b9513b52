"""Write labels of 500 crops per image for the frontier: python -m benchmarks.label_files WORK.

WORK has the `teacher-unsure.pt` of `python -m benchmarks.accuracy WORK`. Two files are written there, with the arrays of
`shared/data/teacher-logits-100x200.npz`, unless they are there: `mobilenetv2-500.npz`, of every fifth of the photographs beside the
repository, whose first 200 crops are those of that file, and `unsure-500.npz`, of an image of each class of Tiny-ImageNet.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import networks
from benchmarks.accuracy.__main__ import DATA
from benchmarks.accuracy.images import SIDE, unpack
from benchmarks.accuracy.labels import SAMPLER
from benchmarks.accuracy.plan import HERE
from benchmarks.measure.common import PHOTOGRAPHS, SHARED
from softlabel_codec import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode

CROPS, EACH = 500, 5


def of_photographs(path: Path) -> None:
    """Write the labels of every fifth photograph: the crops that the file beside the repository has, and more, drawn in the same way."""
    with np.load(SHARED / "data" / "teacher-logits-100x200.npz") as data:
        known = {name: data[name][::EACH] for name in ("keys", "image_size", "crops", "flips", "logits")}
    more = CROPS - known["flips"].shape[1]
    images = {key: PHOTOGRAPHS / key for key in known["keys"].tolist()}
    how = {"images": images, "teacher": f"{SHARED / 'teacher' / 'mobilenet_v2.py'}:build", "batch_size": 50}
    found = _labelled(how | {"crops": more, "sampler": CropSampler(seed=0)}, known["keys"].tolist())
    assert np.array_equal(found["image_size"], known["image_size"])
    joined = {name: np.concatenate([known[name], found[name]], axis=1) for name in ("crops", "flips", "logits")}
    source = f"MobileNetV2 on {len(joined['flips'])} ImageNet photographs, {CROPS} crops each"
    np.savez(path, keys=known["keys"], image_size=known["image_size"], source=source, **joined)


def of_tiny_images(work: Path, path: Path) -> None:
    """Write the labels of an image of each class of Tiny-ImageNet by the unsure teacher."""
    os.environ[networks.WORK] = str(work.absolute())
    with tempfile.TemporaryDirectory() as folder:
        unpack(DATA, Path(folder) / "images", 1, 1)
        images, teacher = Path(folder) / "images" / "few" / "train", f"{HERE / 'networks.py'}:{networks.trained_small_teacher.__name__}"
        keys = sorted(str(image.relative_to(images)) for image in images.rglob("*.JPEG"))
        how = {"images": str(images), "teacher": teacher, "batch_size": 1000, "size": SIDE}
        found = _labelled(how | {"crops": CROPS, "sampler": SAMPLER}, keys)
    source = f"the unsure teacher of benchmarks/accuracy on {len(keys)} images of Tiny-ImageNet, a class each, {CROPS} crops each"
    np.savez(path, keys=np.array(keys), source=f"{source} (scale {SAMPLER.scale[0]} to 1, {SIDE} pixels)", **found)


def _labelled(how: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Return sizes, crops, flips and logits of images that a teacher labels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.slc"
        encode(EncodeConfig(out=str(path), codec="dense:values=f16,content=logits", precision="float32", device="cpu", **how))
        with SoftLabelReader(path) as reader:
            images = [reader[key] for key in keys]
    return {
        "image_size": np.array([image.image_size for image in images]),
        "crops": np.stack([image.crops for image in images]),
        "flips": np.stack([image.flips for image in images]),
        "logits": np.stack([image.labels.vectors for image in images]).astype(np.float16),  # type: ignore[union-attr]
    }


def main() -> None:
    """Write the files that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder with the weights of the unsure teacher")
    work = parser.parse_args().work
    photographs, tiny = work / "mobilenetv2-500.npz", work / "unsure-500.npz"
    if not photographs.exists():
        of_photographs(photographs)
    if not tiny.exists():
        of_tiny_images(work, tiny)


if __name__ == "__main__":
    main()
