"""The image path: what it costs to decode a photograph and cut its crops, and what else was tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure.common import PHOTOGRAPHS, Labels, spread, time_side_by_side, write_container
from softlabel_codec.images.files import apply_crop, load_image
from softlabel_codec.torch import SoftLabelDataset
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor

CODEC = "marginal_smoothing:k=5"
ROUNDS = 5
CROPS = 1, 4, 8
SIZE = 224
REDUCED_SIZES = 112, 64
IMAGES_PER_BATCH = 25


def measure(labels: Labels, folder: Path) -> dict[str, Any] | None:
    """Return times and pixel differences; None without photographs."""
    if not PHOTOGRAPHS.is_dir() or not labels.real:
        return None
    paths = {crops: folder / f"{crops}.slc" for crops in ("stored", "derived")}
    for crops, path in paths.items():
        write_container(labels, path, CODEC, derived=crops == "derived")
    return {
        "stations": _stations(labels),
        "decoders": _decoders(labels),
        "labels_share": _labels_share(paths, labels),
        "crops_per_image": _crops_per_image(paths["stored"], labels),
        "reduced_decoding": {f"{size} pixels": _reduced(paths["stored"], labels, size) for size in REDUCED_SIZES},
    }


def _stations(labels: Labels) -> dict[str, Any]:
    """Return milliseconds per image of each station of the path with 4 crops."""
    photographs = [load_image(PHOTOGRAPHS / key) for key in labels.keys]
    geometry = [(crops[:4].tolist(), flips[:4].tolist()) for crops, flips in zip(labels.crops, labels.flips, strict=True)]

    def cut(image: Image.Image, due: Any) -> list[Image.Image]:
        return [apply_crop(image, crop, flip, SIZE) for crop, flip in zip(*due, strict=True)]

    pieces = [cut(image, due) for image, due in zip(photographs, geometry, strict=True)]
    tensors = [to_tensor(images) for images in pieces]
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: [load_image(PHOTOGRAPHS / key) for key in labels.keys],
        "cut and scale 4 crops": lambda: [cut(image, due) for image, due in zip(photographs, geometry, strict=True)],
        "to a uint8 tensor": lambda: [to_tensor(images) for images in pieces],
        "normalise": lambda: [normalize(pixels, IMAGENET_MEAN, IMAGENET_STD) for pixels in tensors],
    }
    return _milliseconds(ways, len(labels.keys))


def _decoders(labels: Labels) -> dict[str, Any]:
    """Return what decoding takes with Pillow and with simplejpeg (libjpeg-turbo by itself), and whether pixels are the same."""
    paths = [PHOTOGRAPHS / key for key in labels.keys]
    colored = [path for path in paths if _is_rgb(path)]
    ways: dict[str, Callable[[], object]] = {
        "Pillow": lambda: [load_image(path) for path in colored],
        "simplejpeg": lambda: [Image.fromarray(_turbo(path)) for path in colored],
    }
    differing = sum(int((np.asarray(load_image(path)) != _turbo(path)).sum()) for path in colored)
    return {"milliseconds_per_image": _milliseconds(ways, len(colored)), "differing_samples": differing, "images": len(colored)}


def _is_rgb(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode == "RGB"


def _turbo(path: Path) -> NDArray[np.uint8]:
    return simplejpeg.decode_jpeg(path.read_bytes(), "RGB")


def _labels_share(paths: dict[str, Path], labels: Labels) -> dict[str, Any]:
    """Return the share of the labels in the time of images and labels, in percent."""
    ways = {}
    for crops, path in paths.items():
        dataset = SoftLabelDataset(PHOTOGRAPHS, path, 4)
        ways[f"images and labels, {crops}"] = _through(dataset.__getitems__, len(labels.keys))
        ways[f"labels, {crops}"] = _through(dataset.labels_of, len(labels.keys))
    seconds = time_side_by_side(ways, ROUNDS)
    share = {crops: spread(100 * seconds[f"labels, {crops}"] / seconds[f"images and labels, {crops}"]) for crops in paths}
    each = {name: spread(times / len(labels.keys) * 1e3) for name, times in seconds.items()}
    return {"milliseconds_per_image": each, "percent": share, "crops": 4, "images_per_batch": IMAGES_PER_BATCH}


def _crops_per_image(path: Path, labels: Labels) -> dict[str, Any]:
    """Return milliseconds per crop when one decoding serves several crops."""
    ways = {f"{n} crops": _through(SoftLabelDataset(PHOTOGRAPHS, path, n).__getitems__, len(labels.keys)) for n in CROPS}
    seconds = time_side_by_side(ways, ROUNDS)
    return {f"{n} crops": spread(seconds[f"{n} crops"] / len(labels.keys) / n * 1e3) for n in CROPS}


def _reduced(path: Path, labels: Labels, size: int) -> dict[str, Any]:
    """Return what decoding at a part of the size gains and how far pixels are off, in levels of 0..255."""
    datasets = {
        way: SoftLabelDataset(PHOTOGRAPHS, path, 4, size, normalized=False, reduced_decoding=way == "reduced")
        for way in ("whole", "reduced")
    }
    numbers = list(range(len(labels.keys)))
    whole, reduced = ([sample.images.numpy().astype(np.int64) for sample in datasets[way].__getitems__(numbers)] for way in datasets)
    errors = [np.abs(mine - theirs) for mine, theirs in zip(whole, reduced, strict=True)]
    changed = [error for error in errors if error.any()]
    seconds = time_side_by_side({way: _through(dataset.__getitems__, len(numbers)) for way, dataset in datasets.items()}, ROUNDS)
    return {
        "milliseconds_per_image": {way: spread(times / len(numbers) * 1e3) for way, times in seconds.items()},
        "images_decoded_reduced": len(changed) / len(errors),
        "mean_difference": float(np.mean([error.mean() for error in changed])) if changed else 0.0,
        "largest_difference": int(max((error.max() for error in changed), default=0)),
    }


def _through(read: Callable[[range], object], num_images: int) -> Callable[[], object]:
    batches = [range(start, min(start + IMAGES_PER_BATCH, num_images)) for start in range(0, num_images, IMAGES_PER_BATCH)]
    return lambda: [read(batch) for batch in batches]


def _milliseconds(ways: dict[str, Callable[[], object]], num_images: int) -> dict[str, Any]:
    return {name: spread(times / num_images * 1e3) for name, times in time_side_by_side(ways, ROUNDS).items()}
