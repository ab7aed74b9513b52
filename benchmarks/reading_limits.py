"""What limits reading, and what a compiled helper would bring, measured before it is decided: python -m benchmarks.reading_limits.

Reads 4 of the crops of random images (`marginal_smoothing:k=5`, stored crops) as `benchmarks.measure.reading` does, with the parts that are
the same for everybody (`pread`, checksum, zstd) alone, with the package, and with everything after these parts compiled by numba. The
compiled part decodes what files of that codec hold and builds the same objects; what it returns is compared with the package. It checks
less: a real one would have to find damage that a checksum does not show. Blocks of several sizes, and derived crops, are read, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.measure.common import RESULTS, Labels, circumstances, shared_labels, spread, time_side_by_side, top_k, write_container
from benchmarks.measure.demo_labels import demo_labels
from benchmarks.measure.peers import FkdFiles, Lmdb
from benchmarks.measure.reading import BATCH, CODEC, CROPS, KEPT, READS, REPEATED
from softlabel_codec import SoftLabelReader, writer
from softlabel_codec.block.indices import LOOK_BACK, OWN_PALETTES, class_bits
from softlabel_codec.container.gathering import GatheredBlocks, gather
from softlabel_codec.labels import BatchLabels, ImageLabels, SparseLabels
from softlabel_codec.quantise.values import Log8, value_encoding

RESULT = RESULTS / "reading-limits.json"
ROUNDS = 9
BLOCK_BYTES = (writer.TARGET_BYTES_PER_BLOCK, 4096, 1)
"""Packed bytes after which a block ends; 1: one image in each block."""


class CompiledReader:
    """Reads chosen crops with compiled code, of files of one codec: the package's `read` and `read_batch`, as far as they are measured.

    Parameters
    ----------
    reader : SoftLabelReader
        A file of `CODEC` with stored crops.
    """

    def __init__(self, reader: SoftLabelReader) -> None:
        layout, self._container = reader.container.layout, reader.container
        encoding = value_encoding(layout.codec, layout.num_classes)
        assert isinstance(encoding, Log8)
        assert layout.codec.kept_classes is not None
        assert layout.codec.kept_classes <= LOOK_BACK
        offsets = {name: layout.fields.dtype.fields[name][1] for name in layout.fields.names}
        self._places = np.array([offsets[name] for name in _FIELDS] + [layout.fields.dtype.itemsize], np.int64)
        self._powers, self._rest_powers, self._lowest = encoding.powers, encoding.rest_powers, encoding.lowest
        self._k, self._num_classes, self._policy = layout.codec.kept_classes, layout.num_classes, layout.codec.policy

    def read(self, image: int, crops: NDArray[np.int64]) -> ImageLabels:
        """Return chosen crops (N,) of an image."""
        block, slot = self._container.index.locate(image)
        content = self._container.blocks.content(block)
        found = self._unpack(GatheredBlocks([content], np.zeros(1, np.int64), np.array([slot]), None), crops[None])
        height, width = found[5][0].tolist()
        return ImageLabels(found[0], found[1], (height, width), self._labels(*found[2:5]), None)

    def read_batch(self, images: NDArray[np.int64], crops: NDArray[np.int64]) -> BatchLabels:
        """Return chosen crops (B, N) of images (B,)."""
        found = self._unpack(gather(self._container, images), crops)
        num_crops = np.full(len(images), crops.shape[1])
        return BatchLabels(found[0], found[1], self._labels(*found[2:5]), found[5], num_crops, images)

    def _labels(self, indices: NDArray[np.int32], values: NDArray[np.float32], remainder: NDArray[np.float32]) -> SparseLabels:
        return SparseLabels(indices, values, remainder, self._num_classes, self._policy)

    def _unpack(self, blocks: GatheredBlocks, crops: NDArray[np.int64]) -> tuple[Any, ...]:
        rows = crops.size
        found = (
            np.empty((rows, 4), np.int32),
            np.empty(rows, np.bool_),
            np.empty((rows, self._k), np.int32),
            np.empty((rows, self._k), np.float32),
            np.empty(rows, np.float32),
            np.empty((len(crops), 2), np.int64),
        )
        lengths = np.array([len(content) for content in blocks.contents])
        data = np.frombuffer(b"".join(blocks.contents), np.uint8)
        bits = class_bits(self._num_classes)
        starts = np.cumsum(lengths) - lengths
        encoding = self._powers, self._rest_powers, self._lowest
        if _unpack(data, starts, blocks.block, blocks.slot, crops, self._places, *encoding, bits, *found):
            raise ValueError("not a block of this codec")
        return found


_FIELDS = (
    "height_min",
    "height_max",
    "ratio_min",
    "ratio_max",
    "crop_width",
    "remainder_base",
    "remainder_width",
    "index_width",
    "palettes",
)
"""Fields of a block in the order in which compiled code gets their offsets; the length of all comes last."""


@njit
def _word(data: Any, at: int, width: int, stride: int) -> int:
    value = 0
    for plane in range(width):
        value |= np.int64(data[at + plane * stride]) << (8 * plane)
    return value


@njit
def _unpack(
    data: Any,
    starts: Any,
    blocks: Any,
    slots: Any,
    chosen: Any,
    places: Any,
    powers: Any,
    rest_powers: Any,
    lowest: int,
    bits: int,
    crops: Any,
    flips: Any,
    indices: Any,
    values: Any,
    remainder: Any,
    sizes: Any,
) -> bool:
    """Decode chosen crops of images (B, N) into arrays; return whether something is not as expected."""
    k, each = indices.shape[1], chosen.shape[1]
    unused = np.empty(LOOK_BACK, np.int64)
    row_powers = np.empty(k)
    for image in range(len(blocks)):
        start, slot = starts[blocks[image]], slots[image]
        field = start + places
        num_images = _word(data, start, 2, 1)
        table = field[-1]
        before = num_crops = 0
        for place in range(num_images):
            before += (_word(data, table + 2 * place, 2, 1) + 1) * (place < slot)
            num_crops += _word(data, table + 2 * place, 2, 1) + 1
        height = _word(data, table + 2 * (num_images + slot), 2, 1)
        width = _word(data, table + 2 * (2 * num_images + slot), 2, 1)
        sizes[image, 0], sizes[image, 1] = height, width
        height_min, height_max = _word(data, field[0], 2, 1), _word(data, field[1], 2, 1)
        ratio_min, ratio_max = _word(data, field[2], 2, 1), _word(data, field[3], 2, 1)
        crop_width, rest_width, index_width = data[field[4]], data[field[6]], data[field[7]]
        base = (_word(data, field[5], 2, 1) ^ 0x8000) - 0x8000
        flips_at = table + 6 * num_images
        crops_at = flips_at + ((num_crops + 7) >> 3)
        rests_at = crops_at + num_crops * crop_width
        codes_at = rests_at + num_crops * rest_width
        steps_at = codes_at + num_crops * k * index_width
        palettes_at = steps_at + num_crops * (k - 1)
        palette = first = 0
        if data[field[8]] == OWN_PALETTES:
            for place in range(slot):
                first += _word(data, palettes_at + place, 2, num_images)
            palette = palettes_at + 2 * num_images
        elif data[field[8]]:
            return True
        for number in range(each):
            row, out = before + chosen[image, number], image * each + number
            flips[out] = data[flips_at + (row >> 3)] >> (row & 7) & 1
            word = _word(data, crops_at + row, crop_width, num_crops)
            span = height_max - height_min + 1
            crop_height = word % span + height_min
            word //= span
            low = max(1, crop_height * ratio_min >> 8)
            high = width if ratio_max == 65535 else min(width, (crop_height * ratio_max + 255) >> 8)
            span = high - low + 1
            crop_wide = word % span + low
            word //= span
            span = height - crop_height + 1
            crops[out, 0], crops[out, 1], crops[out, 2], crops[out, 3] = word % span, word // span, crop_height, crop_wide
            for entry in range(k):
                code = _word(data, codes_at + row * k + entry, index_width, num_crops * k)
                if palette:
                    code = _rank(code, unused, entry)
                    bit = (first + code) * bits
                    code = _word(data, palette + (bit >> 3), (bits + 14) >> 3, 1) >> (bit & 7) & ((1 << bits) - 1)
                indices[out, entry] = code
            level, total = 0, 1.0
            row_powers[0] = 1.0
            for entry in range(1, k):
                level += data[steps_at + row * (k - 1) + entry - 1]
                row_powers[entry] = powers[level]
                total += row_powers[entry]
            rest = rest_powers[_word(data, rests_at + row, rest_width, num_crops) + base + level - lowest]
            total += rest
            for entry in range(k):
                values[out, entry] = row_powers[entry] / total
            remainder[out] = rest / total
    return False


@njit
def _rank(code: int, used: Any, count: int) -> int:
    """Return which place of the palette a code means, of which `count` places, kept in ascending order, were used before; note it."""
    place = code
    at = 0
    while at < count and used[at] <= place:
        place += 1
        at += 1
    for later in range(count, at, -1):
        used[later] = used[later - 1]
    used[at] = place
    return place


def measure(labels: Labels, folder: Path) -> dict[str, Any]:
    """Return microseconds per image of each way, and bytes per crop of each size of blocks."""
    topk = top_k(labels, KEPT).repeated(REPEATED)
    rng = np.random.default_rng(0)
    images, chosen = rng.integers(0, len(topk.keys), READS), rng.integers(0, topk.flips.shape[1], (READS, CROPS))
    fkd, lmdb = FkdFiles(topk, folder / "fkd"), Lmdb(topk, folder / "lmdb")
    ways: dict[str, Callable[[], object]] = {
        "FKD .tar, f16": lambda: [fkd.read(image, crops) for image, crops in zip(images.tolist(), chosen, strict=True)],
        "LMDB + zstd-3": lambda: [lmdb.read(image, crops) for image, crops in zip(images.tolist(), chosen, strict=True)],
    }
    sizes = {}
    for target in BLOCK_BYTES:
        name = f"blocks of {target}"
        for crops in ("stored", "derived"):
            path = folder / f"{target}-{crops}.slc"
            with patch.object(writer, "TARGET_BYTES_PER_BLOCK", target):
                size = write_container(topk, path, CODEC, derived=crops == "derived")
            reader = SoftLabelReader(path)
            blocks = reader.container.trailer.num_blocks
            sizes[f"{name}, {crops}"] = {"bytes_per_crop": size / topk.num_crops, "images_per_block": len(topk.keys) / blocks}
            ways |= {f"{name}, {crops}: {way}": read for way, read in _ways(reader, images, chosen).items()}
    seconds = time_side_by_side(ways, ROUNDS)
    return {
        **circumstances(("softlabel_codec", "numpy", "zstandard", "lmdb", "torch", "numba")),
        "labels": labels.source,
        "images": len(topk.keys),
        "blocks": sizes,
        "microseconds_per_image": {name: spread(times / READS * 1e6) for name, times in seconds.items()},
        "times_faster_than_fkd": {name: spread(seconds["FKD .tar, f16"] / times) for name, times in seconds.items()},
        "times_faster_than_lmdb": {name: spread(seconds["LMDB + zstd-3"] / times) for name, times in seconds.items()},
    }


def _ways(reader: SoftLabelReader, images: NDArray[np.int64], chosen: NDArray[np.int64]) -> dict[str, Callable[[], object]]:
    container = reader.container
    batches = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
    one_by_one = list(zip(images.tolist(), chosen, strict=True))
    ways: dict[str, Callable[[], object]] = {
        "read": lambda: [reader.read(image, crops) for image, crops in one_by_one],
        "read, block alone": lambda: [container.blocks.content(container.index.locate(image)[0]) for image, _ in one_by_one],
        "read_batch": lambda: [reader.read_batch(images[batch], chosen[batch]) for batch in batches],
        "read_batch, blocks alone": lambda: [gather(container, images[batch]) for batch in batches],
    }
    if reader.crops == "derived":
        return ways
    compiled = CompiledReader(reader)
    _check(reader, compiled, images[:BATCH], chosen[:BATCH])
    return {
        **ways,
        "read, compiled": lambda: [compiled.read(image, crops) for image, crops in one_by_one],
        "read_batch, compiled": lambda: [compiled.read_batch(images[batch], chosen[batch]) for batch in batches],
    }


def _check(reader: SoftLabelReader, compiled: CompiledReader, images: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
    """Raise AssertionError unless compiled code returns what the package does."""
    pairs = [(compiled.read_batch(images, chosen), reader.read_batch(images, chosen))]
    for image, crops in zip(images.tolist(), chosen, strict=True):
        found, expected = compiled.read(image, crops), reader.read(image, crops)
        assert found.image_size == expected.image_size
        pairs.append((found, expected))  # type: ignore[arg-type]
    for found, expected in pairs:
        assert np.array_equal(found.crops, expected.crops)
        assert np.array_equal(found.flips, expected.flips)
        for name, limit in (("indices", 0), ("values", 1e-7), ("remainder", 1e-7)):
            ours, theirs = getattr(found.labels, name), getattr(expected.labels, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)


def main() -> None:
    """Measure, and write the result."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        labels = shared_labels() or demo_labels(Path(folder) / "pieces")
        RESULT.write_text(json.dumps(measure(labels, Path(folder)), indent=1) + "\n")
    print(RESULT, file=sys.stderr)


if __name__ == "__main__":
    main()
