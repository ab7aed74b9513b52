"""Labels alone, without crops, in the formats of others: bytes and fidelity at T = 1, 4 and 20, to set beside those of codecs.

All but FKD's files leave out crops and flips, as is done of our files there; FKD's loader needs them in its files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy
import zstandard
from numpy.typing import NDArray

from benchmarks.measure.common import PHOTOGRAPHS, SHARED, K, Labels, TopK, top_k
from benchmarks.measure.peers import IMAGES_PER_ROW_GROUP, FkdFiles
from softlabel_codec.label_maps import make_label_maps
from softlabel_codec.report.fidelity import FidelityMeter

SMALLEST = 1e-12
MAP_SIZE = 480
"""Side in pixels to which a whole image is scaled for its label map: MobileNetV2 then has 15 x 15 places, as the maps of ReLabel."""
FKD, MAPS = "FKD .tar, K = 5, f16, with crops", "ReLabel-style maps, 15 x 15 x 5"


def measure(labels: Labels, folder: Path) -> list[dict[str, Any]]:
    """Return name, bytes and fidelity of labels in each format."""
    best = top_k(labels, K)
    sizes = {
        FKD: FkdFiles(best, folder / "fkd").num_bytes,
        "Parquet, K = 5, f16, zstd": _parquet(best),
        ".npz, K = 5, f16": _npz(best),
        "safetensors, K = 5, f16, zstd": _safetensors(best),
    }
    fidelity = fidelity_of(labels, _five_classes(best))
    found = [_point(labels, name, size, fidelity) for name, size in sizes.items()]
    logits = np.log(np.maximum(labels.probs, SMALLEST)).astype(np.float16)  # less their mean, they take more bytes
    compressor = zstandard.ZstdCompressor(level=9)
    size = sum(len(compressor.compress(image.tobytes())) for image in logits)
    return [*found, _point(labels, "logits, f16, zstd", size, fidelity_of(labels, map(_softmax, logits)))]


def measure_maps(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return name, bytes and fidelity of label maps of photographs, which MobileNetV2 makes of each whole image."""
    maps = make_label_maps(
        {key: PHOTOGRAPHS / key for key in labels.keys}, f"{__file__}:{mobilenet_v2.__name__}", batch_size=4, device="cpu"
    )
    path = folder / "maps.npz"
    maps.save(path)
    size = path.stat().st_size
    read = (
        maps.labels(key, crops, (height, width)).dense()
        for key, crops, (height, width) in zip(labels.keys, labels.crops, labels.image_sizes.tolist(), strict=True)
    )
    return _point(labels, MAPS, size, fidelity_of(labels, read))


def mobilenet_v2() -> Any:
    """Return the MobileNetV2 beside the repository, with the `logit_map` that label maps need."""
    import importlib.util

    import torch

    place = importlib.util.spec_from_file_location("mobilenet_v2", SHARED / "teacher" / "mobilenet_v2.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    model = module.build()

    def logit_map(images: torch.Tensor) -> torch.Tensor:
        relu = torch.nn.functional.relu6
        features = relu(model.last(model.blocks(relu(model.stem(images)))))
        return torch.nn.functional.conv2d(features, model.head.weight[:, :, None, None], model.head.bias)

    model.logit_map = logit_map
    return model


MEAN = STD = (0.5, 0.5, 0.5)
INPUT_SIZE = MAP_SIZE


def fidelity_of(labels: Labels, read: Iterator[NDArray[Any]]) -> list[dict[str, Any]]:
    """Return the fidelity of targets (M, C) of each image at T = 1, 4 and 20."""
    meter = FidelityMeter()
    for probs, found in zip(labels.probs, read, strict=True):
        meter.add(probs, np.maximum(found, SMALLEST))
    return [asdict(one) for one in meter.result()]


def _point(labels: Labels, name: str, size: int, fidelity: list[dict[str, Any]]) -> dict[str, Any]:
    bytes_of = {"bytes_per_image": size / len(labels.keys), "bytes_per_crop": size / labels.num_crops}
    return {"codec": name, **bytes_of, "fidelity": fidelity, "unseen": None}


def _five_classes(best: TopK) -> Iterator[NDArray[np.float64]]:
    """Yield targets (M, C) of each image: the stored values, and of all other classes the same share of what is left."""
    others = best.num_classes - best.indices.shape[2]
    for indices, values in zip(best.indices, best.values.astype(np.float16).astype(np.float64), strict=True):
        left = np.maximum(1 - values.sum(axis=1, keepdims=True), 0)
        targets = np.repeat(left / others, best.num_classes, axis=1)
        np.put_along_axis(targets, indices, values, axis=1)
        yield targets


def _softmax(logits: NDArray[np.float16]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _columns(best: TopK, image: int) -> dict[str, NDArray[Any]]:
    """Return a column for each rank, of classes and of values."""
    columns = {"class": best.indices[image].astype(np.uint16), "value": best.values[image].astype(np.float16)}
    return {f"{name}_{rank}": np.ascontiguousarray(column[:, rank]) for name, column in columns.items() for rank in range(K)}


def _parquet(best: TopK) -> int:
    parts = [_columns(best, image) for image in range(len(best.keys))]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    out = io.BytesIO()
    rows = IMAGES_PER_ROW_GROUP * best.flips.shape[1]
    options: dict[str, Any] = {"row_group_size": rows, "compression": "zstd", "compression_level": 19, "use_dictionary": False}
    pyarrow.parquet.write_table(pyarrow.table(columns), out, use_byte_stream_split=list(columns), **options)
    return out.tell()


def _npz(best: TopK) -> int:
    size = 0
    for image in range(len(best.keys)):
        out = io.BytesIO()
        np.savez_compressed(out, indices=best.indices[image].astype(np.uint16), values=best.values[image].astype(np.float16))
        size += out.tell()
    return size


def _safetensors(best: TopK) -> int:
    compressor = zstandard.ZstdCompressor(level=19)
    return sum(len(compressor.compress(safetensors.numpy.save(_columns(best, image)))) for image in range(len(best.keys)))
