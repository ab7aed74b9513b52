"""Compare loaders of photographs, crop for crop, with those of torchvision: python -m benchmarks.pipelines.

It needs torchvision and torchcodec (the environment of `make test-others`) and photographs beside the repository, runs in one thread of
one process, and writes `results/pipelines.json`, from which `python -m benchmarks.report.write` fills a table of the report.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from benchmarks.measure.common import PHOTOGRAPHS, RESULTS, circumstances, shared_labels, spread, write_container
from softlabel_codec.torch import SoftLabelDataset, SoftLabelSampler, collate_crops
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD

RESULT = RESULTS / "pipelines.json"
PACKAGES = ("softlabel_codec", "numpy", "torch", "torchvision", "torchcodec", "pillow")
CODEC = "marginal_smoothing:k=5"
SIZE, CROPS, IMAGES_PER_BATCH, ROUNDS = 224, 4, 20, 9


def _theirs(transform: Callable[[Any], Any], read: Callable[[str], Any] | None = None) -> Iterable[Any]:
    """Return a loader of torchvision's: one crop of each photograph, as many crops to a batch as ours have."""
    options = {} if read is None else {"loader": read}
    dataset = datasets.ImageFolder(str(PHOTOGRAPHS), transform, **options)
    return DataLoader(dataset, CROPS * IMAGES_PER_BATCH, shuffle=True)


def _torchcodec(path: str) -> torch.Tensor:
    from torchcodec.decoders import decode_jpeg

    decoded: torch.Tensor = decode_jpeg(path)
    return decoded


def _loaders(labels: Path) -> dict[str, Iterable[Any]]:
    normalize = IMAGENET_MEAN, IMAGENET_STD
    v2_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*normalize)]
    cut = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]

    def ours(**options: Any) -> Iterable[Any]:
        dataset = SoftLabelDataset(PHOTOGRAPHS, labels, CROPS, SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD, **options)
        return DataLoader(dataset, IMAGES_PER_BATCH, sampler=SoftLabelSampler(dataset), collate_fn=collate_crops)

    return {
        "torchvision ImageFolder, v1 transforms, float": _theirs(
            v1.Compose([v1.RandomResizedCrop(SIZE), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(*normalize)])
        ),
        "torchvision v2 on tensors, float": _theirs(v2.Compose([v2.PILToTensor(), *cut, *v2_float])),
        "torchvision v2 on PIL images, uint8": _theirs(v2.Compose([*cut, v2.PILToTensor()])),
        "torchvision v2 on tensors, uint8": _theirs(v2.Compose([v2.PILToTensor(), *cut])),
        "torchvision v2 on tensors of torchcodec, uint8": _theirs(v2.Compose(cut), _torchcodec),
        "ours, float": ours(),
        "ours, uint8": ours(normalized=False),
        "ours, backend='torch', float": ours(backend="torch"),
        "ours, backend='torch', uint8": ours(backend="torch", normalized=False),
    }


def _crops_per_second(loader: Iterable[Any]) -> float:
    """Return crops per second of processor time."""
    started, crops = time.process_time(), 0
    for images, _ in loader:
        crops += len(images)
    return crops / (time.process_time() - started)


def measure() -> dict[str, Any]:
    """Return crops per second and core of each loader, taken in turns, and the ratios of each turn."""
    labels = shared_labels()
    if labels is None:
        sys.exit("There are no photographs beside the repository.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.slc"
        write_container(labels, path, CODEC, derived=True)
        loaders = _loaders(path)
        for loader in loaders.values():
            _crops_per_second(loader)
        rates = np.array([[_crops_per_second(loader) for loader in loaders.values()] for _ in range(ROUNDS)])
    names = list(loaders)
    their_uint8 = [name for name in names if name.startswith("torchvision") and name.endswith("uint8")]
    fastest = max(their_uint8, key=lambda name: float(np.median(rates[:, names.index(name)])))
    return {
        **circumstances(PACKAGES),
        "size": SIZE,
        "crops_per_image": CROPS,
        "codec": CODEC,
        "crops_per_second_and_core": {name: spread(rates[:, place]) for place, name in enumerate(names)},
        "fastest_uint8_of_torchvision": fastest,
        "times_image_folder": {name: spread(rates[:, place] / rates[:, 0]) for place, name in enumerate(names)},
        "times_fastest_uint8": {name: spread(rates[:, place] / rates[:, names.index(fastest)]) for place, name in enumerate(names)},
    }


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
    print(RESULT, file=sys.stderr)
