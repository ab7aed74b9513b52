"""What the benchmarks share: labels to measure on, the machine they ran on, and timing side by side."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec import SoftLabelWriter
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError
from softlabel_codec.sampler import CropSampler

SHARED = Path(__file__).resolve().parents[3] / "shared"
PHOTOGRAPHS = SHARED / "data" / "imagenet-100" / "train"
RESULTS = Path(__file__).resolve().parents[1] / "results"
SAMPLER = CropSampler(seed=0)
PACKAGES = ("softlabel_codec", "numpy", "zstandard", "torch", "pillow", "simplejpeg", "h5py", "lmdb", "pyarrow")
K = 5


@dataclass(frozen=True)
class Labels:
    """A teacher's probabilities over crops of images.

    Attributes
    ----------
    source : str
        Where they come from.
    keys : list of str
        One for each of I images.
    image_sizes : int (I, 2)
        Height and width in pixels.
    crops : int (I, M, 4)
        Top, left, height, width in pixels.
    flips : bool (I, M)
    probs : float32 (I, M, C)
    real : bool
        Whether a teacher of ImageNet gave them to photographs.
    """

    source: str
    keys: list[str]
    image_sizes: NDArray[np.int64]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    probs: NDArray[np.float32]
    real: bool = True

    @property
    def num_classes(self) -> int:
        """C."""
        return self.probs.shape[2]

    @property
    def num_crops(self) -> int:
        """Crops of all images."""
        return self.flips.size

    def first(self, num_images: int) -> Labels:
        """Return the labels of the first images."""
        part = slice(num_images)
        arrays = {name: getattr(self, name)[part] for name in ("keys", "image_sizes", "crops", "flips", "probs")}
        return replace(self, **arrays)

    def some_crops(self, chosen: NDArray[np.bool_]) -> Labels:
        """Return the labels of some crops, bool (M,), of each image."""
        return replace(self, **{name: getattr(self, name)[:, chosen] for name in ("crops", "flips", "probs")})

    def possible(self, codec: str) -> bool:
        """Return whether a codec fits the number of classes."""
        try:
            Codec.parse(codec).check_classes(self.num_classes)
        except ArgumentError:
            return False
        return True


@dataclass(frozen=True)
class TopK:
    """The K most probable classes of each crop: what every format can store.

    Attributes
    ----------
    keys, image_sizes, crops, flips
        As in `Labels`.
    indices : int64 (I, M, K)
        Most probable first.
    values : float32 (I, M, K)
    num_classes : int
    """

    keys: list[str]
    image_sizes: NDArray[np.int64]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    indices: NDArray[np.int64]
    values: NDArray[np.float32]
    num_classes: int

    @property
    def num_crops(self) -> int:
        """Crops of all images."""
        return self.flips.size

    def repeated(self, times: int) -> TopK:
        """Return the same labels several times, each time under other keys."""
        keys = [copied(key, number) for number in range(times) for key in self.keys]
        return self.take(keys, np.tile(np.arange(len(self.keys)), times))

    def regrouped(self, crops_per_image: int) -> TopK:
        """Return the same crops as more images of fewer crops; neighbours in the file come from different photographs."""
        parts = self.flips.shape[1] // crops_per_image
        whole = self.take([f"{part:03d}/{key}" for part in range(parts) for key in self.keys], np.tile(np.arange(len(self.keys)), parts))
        chosen = np.repeat(np.arange(parts * crops_per_image).reshape(parts, -1), len(self.keys), axis=0)
        rows = np.arange(len(chosen))[:, None], chosen
        return replace(whole, **{name: getattr(whole, name)[rows] for name in ("crops", "flips", "indices", "values")})

    def take(self, keys: list[str], images: NDArray[np.int64]) -> TopK:
        """Return the labels of these images, under these keys."""
        names = ("image_sizes", "crops", "flips", "indices", "values")
        return replace(self, keys=keys, **{name: getattr(self, name)[images] for name in names})


def copied(key: str, number: int) -> str:
    """Return the key of a copy of an image."""
    return f"{number:03d}/{key}"


def shared_labels() -> Labels | None:
    """Return real labels of real photographs, from the data that lies beside the repository, if it does."""
    path = SHARED / "data" / "teacher-logits-100x200.npz"
    if not path.exists():
        return None
    labels = labels_of_file(path)
    images, crops = labels.flips.shape
    return replace(labels, source=f"MobileNetV2 on {images} ImageNet photographs, {crops} crops each")


def labels_of_file(path: Path) -> Labels:
    """Return the labels in a file with the arrays `keys`, `image_size`, `crops`, `flips` and `logits`, and perhaps `source`, a text."""
    with np.load(path) as data:
        logits = data["logits"].astype(np.float32)
        sizes, crops, flips = data["image_size"].astype(np.int64), data["crops"].astype(np.int64), data["flips"]
        keys = data["keys"].tolist()
        source = str(data["source"]) if "source" in data else f"{path.name}, {len(keys)} images, {flips.shape[1]} crops each"
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return Labels(source, keys, sizes, crops, flips, powers / powers.sum(axis=2, keepdims=True))


def top_k(labels: Labels, k: int) -> TopK:
    """Return the k largest probabilities of each crop, equal ones by class."""
    indices = np.argsort(-labels.probs, axis=2, kind="stable")[:, :, :k]
    values = np.take_along_axis(labels.probs, indices, axis=2)
    return TopK(labels.keys, labels.image_sizes, labels.crops, labels.flips, indices, values, labels.num_classes)


def write_container(labels: Labels | TopK, path: Path, codec: str, *, derived: bool, copies: int = 1) -> int:
    """Write labels with this package, several times under other keys, and return the size of the file in bytes."""
    how = {"crops": "derived", "sampler": SAMPLER} if derived else {}
    with SoftLabelWriter(path, labels.num_classes, codec, {}, overwrite=True, **how) as writer:
        for number in range(copies):
            for image, key, size in _images(labels):
                geometry = {} if derived else {"crops": labels.crops[image], "flips": labels.flips[image]}
                writer.add(key if copies == 1 else copied(key, number), image_size=size, **geometry, **_labels_of(labels, image))
    return path.stat().st_size


def _images(labels: Labels | TopK) -> Iterator[tuple[int, str, tuple[int, int]]]:
    for image, (key, (height, width)) in enumerate(zip(labels.keys, labels.image_sizes.tolist(), strict=True)):
        yield image, key, (height, width)


def _labels_of(labels: Labels | TopK, image: int) -> dict[str, Any]:
    if isinstance(labels, Labels):
        return {"probs": labels.probs[image]}
    return {"indices": labels.indices[image], "values": labels.values[image]}


def time_side_by_side(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Return the seconds that each way takes, once per round, taking turns so that a busy machine is busy for all."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in seconds.items()}


def spread(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return smallest, median and largest value and how many there are."""
    numbers = [float(value) for value in values]
    return {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers), "n": len(numbers)}


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return what a result depends on besides the code: date, machine and versions."""
    versions = {package: importlib.metadata.version(package) for package in packages}
    machine = {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": versions}


def result_name(result: Mapping[str, Any]) -> str:
    """Return `<date>-<cpu>.json`."""
    cpu = re.sub(r"[^a-z0-9]+", "-", result["machine"]["cpu"].lower()).strip("-")
    return f"{result['date']}-{cpu}.json"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
