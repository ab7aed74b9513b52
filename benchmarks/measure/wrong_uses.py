"""What `check_against_teacher` finds of wrong uses of stored labels, with the teacher and the photographs beside the repository.

python -m benchmarks.measure.wrong_uses --json benchmarks/results/wrong-uses.json
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.measure.common import PHOTOGRAPHS, SHARED, circumstances
from softlabel_codec import SoftLabelWriter
from softlabel_codec.images.files import apply_crop, image_size, load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import load_teacher
from softlabel_codec.torch import SoftLabelDataset, check_against_teacher, collate_crops, normalize

CROPS, SIZE, BATCH = 4, 224, 10
OWN, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CODECS = [
    "hard",
    "smoothing",
    "marginal_smoothing:k=5",
    "marginal_smoothing:t=0.02",
    "marginal_smoothing:t=0.05,tail=100",
    "marginal_smoothing:t=0.1,tail=30,step=1",
    "dense:values=f16",
    "dense:values=log8",
    "dense:content=logits",
]
Use = Callable[[Path, dict[str, Any]], tuple[Any, dict[str, Any]]]


class Remembers(nn.Module):
    """A teacher that looks at the same pixels once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.known = model.to(memory_format=torch.channels_last), {}

    def forward(self, images: Tensor) -> Tensor:
        key = hashlib.sha256((images * 4096).round().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.model(images.contiguous(memory_format=torch.channels_last))
        return self.known[key]


class Prefetcher:
    """Normalises what a loader gives, as timm's PrefetchLoader does."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.dataset = loader, loader.dataset

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        for images, targets in self.loader:
            yield (images.float() - mean) / std, targets


def tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an image, uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def cropped_again(image: Image.Image) -> Tensor:
    """Cut and mirror a crop as the transform of an ImageFolder would."""
    crops, flips = CropSampler(seed=9).sample(hashlib.sha256(image.tobytes()).hexdigest(), (SIZE, SIZE), range(1))
    return tensor(apply_crop(image, crops[0].tolist(), bool(flips[0]), SIZE))


def mirrored(image: Image.Image) -> Tensor:
    """Mirror half of all crops."""
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if hashlib.sha256(image.tobytes()).digest()[0] % 2 else image
    return tensor(turned)


def zoomed(image: Image.Image) -> Tensor:
    """Cut out the middle, as for validation."""
    side = SIZE * 8 // 7
    edge = (side - SIZE) // 2
    return tensor(image.resize((side, side), Image.Resampling.BILINEAR).crop((edge, edge, edge + SIZE, edge + SIZE)))


def loader(labels: Path, images: dict[str, Any], **options: Any) -> DataLoader[Any]:
    """Return a loader through all photographs, in order."""
    options = {"mean": OWN[0], "std": OWN[1], **options}
    return DataLoader(SoftLabelDataset(images, labels, CROPS, SIZE, **options), BATCH, collate_fn=collate_crops)


def use(**options: Any) -> Use:
    """Return a use of the dataset with some options."""
    return lambda labels, images: (loader(labels, images, **options), {})


def other_pixels(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Use:
    """Return a use of the labels with other images."""
    return lambda labels, images: (loader(labels, change(images)), {})


def compressed(images: dict[str, Any], quality: int) -> dict[str, Any]:
    """Return JPEG copies of images."""
    copies = {}
    for key, path in images.items():
        data = io.BytesIO()
        load_image(path).save(data, "JPEG", quality=quality)
        copies[key] = np.asarray(load_image(Image.open(data)))
    return copies


def exchanged(images: dict[str, Any]) -> dict[str, Any]:
    """Return other images of the same sizes under the same names."""
    keys = list(images)
    others = zip(keys, keys[1:] + keys[:1], strict=True)
    return {key: np.asarray(load_image(images[other]).resize(load_image(images[key]).size)) for key, other in others}


def scaled_to_one(image: Image.Image) -> Tensor:
    """Return pixels as ToTensor gives them, without a normalisation."""
    return tensor(image).float() / 255


SAID = {"mean": OWN[0], "std": OWN[1]}
USES: dict[str, Use] = {
    "right": use(),
    "right, as bytes": use(normalized=False),
    "right, decoded at a part of the size": use(normalized=False, reduced_decoding=True),
    "cropped and mirrored again": use(after_crop=cropped_again),
    "half of the crops mirrored": use(after_crop=mirrored),
    "the middle cut out": use(after_crop=zoomed),
    "normalised twice (timm's prefetcher)": lambda labels, images: (Prefetcher(loader(labels, images)), {}),
    "normalised with ImageNet's mean, said to be the teacher's": lambda labels, images: (
        loader(labels, images, after_crop=lambda image: normalize(tensor(image), *IMAGENET)),
        SAID,
    ),
    "not normalised, said to be": lambda labels, images: (loader(labels, images, after_crop=scaled_to_one), SAID),
    **{f"interpolation {name}": use(interpolation=name) for name in ("bicubic", "lanczos", "hamming", "box", "nearest")},
    "another copy of the images, JPEG at quality 75": other_pixels(partial(compressed, quality=75)),
    "another copy of the images, JPEG at quality 95": other_pixels(partial(compressed, quality=95)),
    "other images under the same names": other_pixels(exchanged),
    "another temperature, 1.2 for 1": lambda labels, images: (loader(labels, images), {"temperature": 1.2}),
}


def write_labels(codec: str, path: Path, images: dict[str, Any], teacher: nn.Module) -> Path:
    """Label the photographs."""
    how = {"size": SIZE, "interpolation": "bilinear", "mean": list(OWN[0]), "std": list(OWN[1]), "exif_orientation": "ignored"}
    sampler = CropSampler(seed=0)
    with SoftLabelWriter(path, 1000, codec, {"preprocessing": how, "temperature": 1.0}, crops="derived", sampler=sampler) as writer:
        for key, source in images.items():
            image = load_image(source)
            crops, flips = sampler.sample(key, image_size(image), range(CROPS))
            cut = [apply_crop(image, crop, flip, SIZE) for crop, flip in zip(crops.tolist(), flips.tolist(), strict=True)]
            with torch.inference_mode():
                logits = teacher(normalize(torch.stack([tensor(crop) for crop in cut]), *OWN))
            given = {"vectors": logits} if "logits" in codec else {"probs": torch.softmax(logits, dim=1)}
            writer.add(key, image_size=image_size(image), **{name: value.numpy() for name, value in given.items()})
    return path


def measure(num_images: int, folder: Path) -> dict[str, Any]:
    """Return what the check says of each use of the labels in each codec."""
    keys = list_images(PHOTOGRAPHS)
    keys = keys[:: len(keys) // num_images][:num_images]
    images: dict[str, Any] = {key: PHOTOGRAPHS / key for key in keys}
    loaded = load_teacher(f"{SHARED / 'teacher' / 'mobilenet_v2.py'}:build")
    teacher = Remembers(loaded.model).eval()
    files = {codec: write_labels(codec, folder / f"{number}.slc", images, teacher) for number, codec in enumerate(CODECS)}
    uses: dict[str, dict[str, Any]] = {}
    for name, make in USES.items():
        uses[name] = {}
        for codec, path in files.items():
            made, options = make(path, images)
            found = check_against_teacher(made, teacher, None, **options)
            kept = ("ok", "reason", "agreement", "margin", "difference", "cross_entropy", "kl")
            uses[name][codec] = {field: getattr(found, field) for field in kept}
        print(name, {codec: found["ok"] for codec, found in uses[name].items()}, flush=True)
        teacher.known.clear()
    return {**circumstances(), "num_crops": num_images * CROPS, "teacher": loaded.name, "uses": uses}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.images, Path(folder))
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
