"""How far the files are from what an adaptive model of the same symbols could reach: code lengths only, without any coder.

A model may look at everything that a decoder would know by then. Symbols with several thinkable contexts are given the best of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from benchmarks.measure.common import Labels, write_container
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.codec import Codec
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.report import inspect

CODECS = (
    "hard",
    "smoothing",
    "marginal_smoothing:k=5",
    "marginal_smoothing:t=0.02",
    "marginal_smoothing:t=0.1,tail=30",
    "marginal_smoothing:t=0.05,tail=100",
)
PRIORS = 0.5, 0.1, 0.02
FOLLOWER_WEIGHTS = 0.0, 2.0, 8.0
NEW_CLASS_WEIGHTS = 0.25, 1.0, 3.0
COLUMNS = {
    "counts": "counts",
    "remainders": "remainders",
    "indices": "indices",
    "palettes": "indices",
    "values": "values",
    "tails": "tails",
}
Ints = NDArray[np.int64]


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return for each codec the bytes per crop of each column, as they are and as the model could have them."""
    columns = {codec: _columns(labels, folder, codec) for codec in CODECS if labels.possible(codec)}
    return {"columns": columns, "crops": _crops(labels, folder)}


def _columns(labels: Labels, folder: Path, codec: str) -> dict[str, Any]:
    write_container(labels, folder / "labels.slc", codec, derived=True)
    actual: dict[str, float] = {}
    for part in inspect(folder / "labels.slc", sampled_blocks=10**9).budget:
        name = COLUMNS.get(part.name, "the rest")
        actual[name] = actual.get(name, 0.0) + part.bytes_per_crop
    model = {name: bits / 8 / labels.num_crops for name, bits in _model(labels, Codec.parse(codec)).items()}
    together = {"bytes": sum(actual[name] for name in model), "model": sum(model.values())}
    return {
        **{name: {"bytes": actual[name], "model": model[name]} for name in model},
        "together": together,
        "the rest": {"bytes": actual["the rest"]},
    }


def _model(labels: Labels, codec: Codec) -> dict[str, float]:
    """Return the code length in bits of the symbols of each column."""
    quantiser = label_quantiser(codec, labels.num_classes)
    images: list[SparseCodes] = [quantiser.quantise({"probs": probs}, len(probs)) for probs in labels.probs]
    owner = np.repeat(np.arange(len(images)), [len(codes.indices) for codes in images])
    kept = [codes.indices >= 0 for codes in images]
    num = np.concatenate([rows.sum(axis=1) for rows in kept])
    found = {"indices": _indices_bits(images, labels.num_classes)}
    if codec.t is not None:
        found["counts"] = _best_bits(num, [0 * num, owner, _previous(num, owner)])
    if codec.values == "log8":
        last = np.concatenate([codes.values[np.arange(len(rows)), rows.sum(axis=1) - 1] for codes, rows in zip(images, kept, strict=True)])
        above = np.concatenate([codes.remainders for codes in images]) - last
        found["remainders"] = _best_bits(above, [0 * num, num, owner, num + 1000 * owner, num + 1000 * last])
        found["values"] = _values_bits(images, num, owner)
    if codec.tail:
        found["tails"] = _tails_bits(images, labels.num_classes)
    return {name: bits for name, bits in found.items() if name != "values" or (num > 1).any()}


def _best_bits(symbols: Ints, contexts: list[Ints]) -> float:
    """Return the code length of symbols whose frequencies are learnt in each value of a context, with the best context and prior."""
    return min(_adaptive_bits(symbols, context, prior) for context in contexts for prior in PRIORS)


def _adaptive_bits(symbols: Ints, context: Ints, prior: float) -> float:
    """Return the code length in bits if the probability of a symbol is (times seen + prior) / (all seen + prior * alphabet).

    That of a whole sequence has a closed form, whatever its order.
    """
    symbols, alphabet = np.unique(symbols, return_inverse=True)[1], len(np.unique(symbols))
    context = np.unique(context, return_inverse=True)[1]
    counts = np.bincount(context * alphabet + symbols)
    totals = np.bincount(context)
    nats = (gammaln(totals + prior * alphabet) - gammaln(prior * alphabet)).sum()
    nats -= (gammaln(counts[counts > 0] + prior) - gammaln(prior)).sum()
    return float(nats / np.log(2))


def _previous(values: Ints, owner: Ints) -> Ints:
    """Return the value before in the same image, and -1 for the first."""
    before = np.concatenate([[-1], values[:-1]])
    before[np.concatenate([[True], owner[1:] != owner[:-1]])] = -1
    return before


def _values_bits(images: list[SparseCodes], num: Ints, owner: Ints) -> float:
    width = max(codes.values.shape[1] for codes in images)
    steps = np.concatenate([np.pad(np.diff(codes.values, axis=1), ((0, 0), (0, width - codes.values.shape[1]))) for codes in images])
    row, place = np.nonzero(np.arange(1, width) < num[:, None])
    symbols = steps[row, place]
    before = np.where(place > 0, steps[row, place - 1], -1)
    place = np.minimum(place, 9)
    image = 10**6 * owner[row]
    return _best_bits(
        symbols, [place, place + 10 * num[row], place + 10 * before, image, image + place, place + 10 * num[row] + 1000 * before]
    )


def _tails_bits(images: list[SparseCodes], num_classes: int) -> float:
    """Return the code length of the tails: which classes they list, their levels in descending order of weight, and the floors."""
    sizes = np.array([int((codes.tails.classes >= 0).sum()) for codes in images])
    which = gammaln(num_classes + 1) - gammaln(sizes + 1) - gammaln(num_classes - sizes + 1)
    levels = np.concatenate([codes.tails.levels[codes.tails.classes >= 0] for codes in images])
    floors = np.concatenate([codes.tails.floor for codes in images])
    return float(which.sum() / np.log(2)) + _best_bits(levels, [0 * levels]) + _best_bits(floors, [0 * floors])


def _indices_bits(images: list[SparseCodes], num_classes: int) -> float:
    """Return the code length of the kept classes, with the best of several weights of what the model knows."""
    seen = [_by_first_occurrence(codes.indices) for codes in images]
    rows = max(len(ranks) for ranks in seen)
    width = max(ranks.shape[1] for ranks in seen)
    ranks = np.stack([np.pad(part, ((0, rows - len(part)), (0, width - part.shape[1])), constant_values=-1) for part in seen])
    weights = [(follower, new) for follower in FOLLOWER_WEIGHTS for new in NEW_CLASS_WEIGHTS]
    return min(_ranks_bits(ranks, num_classes, follower, new) for follower, new in weights)


def _by_first_occurrence(indices: Ints) -> Ints:
    """Return classes (M, K) of an image numbered in the order in which they first occur; -1 stays."""
    kept = indices >= 0
    classes, first, inverse = np.unique(indices[kept], return_index=True, return_inverse=True)
    number = np.empty(len(classes), np.int64)
    number[np.argsort(first)] = np.arange(len(classes))
    ranks = np.full(indices.shape, -1)
    ranks[kept] = number[inverse]
    return ranks


def _ranks_bits(ranks: Ints, num_classes: int, follower_weight: float, new_weight: float) -> float:
    """Return the code length of classes (I, M, K), numbered by first occurrence in their image.

    The probability of a class that was seen in the image is in proportion to how often it was, and how often after the class that
    stands before it in this crop; classes that the crop has already are out. All new classes together have a fixed weight, and
    the same probability each.
    """
    num_images, num_crops, width = ranks.shape
    size = int(ranks.max()) + 1
    image = np.arange(num_images)
    times = np.zeros((num_images, size))
    followers = np.zeros((num_images, size + 1, size))
    num_seen = np.zeros(num_images, np.int64)
    bits = 0.0
    for crop in range(num_crops):
        used = np.zeros((num_images, size), np.bool_)
        before = np.full(num_images, size)
        for place in range(width):
            rank = ranks[:, crop, place]
            there = rank >= 0
            if not there.any():
                break
            weights = np.where(used, 0.0, times + follower_weight * followers[image, before])
            total = weights.sum(axis=1) + new_weight
            new = there & (rank >= num_seen)
            old = there & ~new
            bits -= float(np.log2(weights[image[old], rank[old]] / total[old]).sum())
            bits -= float(np.log2(new_weight / total[new] / (num_classes - num_seen[new])).sum())
            num_seen += new
            times[image[there], rank[there]] += 1
            followers[image[there], before[there], rank[there]] += 1
            used[image[there], rank[there]] = True
            before = np.where(there, rank, before)
    return bits


def _crops(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return bytes per crop of stored crops, and what they are worth if all crops of the same areas and shapes are equally likely."""
    write_container(labels, folder / "crops.slc", "hard", derived=False)
    parts = {part.name: part.bytes_per_crop for part in inspect(folder / "crops.slc", sampled_blocks=10**9).budget}
    height, width = labels.image_sizes[:, 0, None], labels.image_sizes[:, 1, None]
    crop_height, crop_width = labels.crops[:, :, 2], labels.crops[:, :, 3]
    area, ratio = crop_height * crop_width / (height * width), crop_width / crop_height
    bounds = area.min(), area.max(), ratio.min(), ratio.max()
    shapes = np.array([_possible_shapes(tall, wide, bounds) for tall, wide in labels.image_sizes.tolist()])
    places = (height - crop_height + 1) * (width - crop_width + 1)
    bits = (np.log2(shapes)[:, None] + np.log2(places)).sum()
    return {
        "crops": {"bytes": parts["crops"], "model": float(bits / 8 / labels.num_crops)},
        "flips": {"bytes": parts["flips"], "model": 0.125},
    }


def _possible_shapes(height: int, width: int, bounds: tuple[float, ...]) -> int:
    """Return how many heights and widths of a crop lie within bounds of area (as a fraction) and ratio."""
    tall, wide = np.arange(1, height + 1)[:, None], np.arange(1, width + 1)
    area, ratio = tall * wide / (height * width), wide / tall
    return int(((area >= bounds[0]) & (area <= bounds[1]) & (ratio >= bounds[2]) & (ratio <= bounds[3])).sum())
