"""Valid test vectors: containers of version 1, and what a reader must find in them."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard
from blocks_by_hand import PALETTES, WIDE_FIELD, Written
from dissect import Pieces

from softlabel_codec import AllViews, Padding, SoftLabelReader, SoftLabelWriter
from softlabel_codec.container.framing import HEADER
from softlabel_codec.padding import NO_PADDING
from softlabel_codec.sampler import CropSampler

FOLDER = Path(__file__).parents[2] / "spec" / "vectors" / "valid"
SAMPLER = CropSampler(seed=2**40 + 3, scale=(0.05, 0.9), ratio=(0.5, 2.5), flip_probability=0.25)
SIZES = [(60, 80), (1, 1), (480, 640), (77, 33), (300, 300)]
COUNTS = [3, 1, 40, 150, 7]
MOST_TARGETS = 3000
"""Most classes of files whose targets are in the vectors."""
KEYS = ["n02/tench.JPEG", "n01/größe/猫.png", "n01/a.b.c.JPEG", "z", "n02/tench 2.JPEG"]


@dataclass(frozen=True)
class Case:
    """What a golden file is made of; the defaults are those of most of them."""

    codec: str
    num_classes: int = 1000
    crops: str = "pixels"
    keys: tuple[str, ...] = tuple(KEYS)
    sizes: tuple[tuple[int, int], ...] = tuple(SIZES)
    counts: tuple[int, ...] = tuple(COUNTS)
    labels: str = "usual"
    metadata: bool = True
    known_sizes: bool = True
    skipped_keys: tuple[str, ...] = ()
    image_checksums: bool = False
    crops_of: str = "sampler"
    sampler: CropSampler | AllViews = SAMPLER
    nested: int = 0
    padding: Padding = NO_PADDING


def many(images: int, count: int, reverse: bool = False) -> dict[str, Any]:
    """Return keys, sizes and numbers of crops of many images."""
    keys = [f"class{number // 50:03d}/image-{number:05d}.jpg" for number in range(images)]
    sizes = tuple((48 + number % 5, 64) for number in range(images))
    return {"keys": tuple(reversed(keys) if reverse else keys), "sizes": sizes, "counts": (count,) * images}


FEW: dict[str, Any] = {"keys": ("b/1.jpg", "a/2.jpg", "é.jpg"), "sizes": ((60, 80), (480, 640), (33, 77)), "counts": (2, 5, 1)}
CASES = {
    "hard": Case("hard"),
    "smoothing": Case("smoothing"),
    "smoothing-f32": Case("smoothing:values=f32"),
    "smoothing-f16": Case("smoothing:values=f16"),
    "marginal_smoothing-k5": Case("marginal_smoothing:k=5"),
    "marginal_smoothing-k5-step": Case("marginal_smoothing:k=5,step=0.25"),
    "marginal_smoothing-k5-f32": Case("marginal_smoothing:k=5,values=f32"),
    "marginal_smoothing-k5-f16": Case("marginal_smoothing:k=5,values=f16"),
    "marginal_smoothing-k12-all-classes": Case("marginal_smoothing:k=12", num_classes=12),
    "marginal_smoothing-k20-beyond-look-back": Case("marginal_smoothing:k=20"),
    "marginal_smoothing-t": Case("marginal_smoothing:t=0.02"),
    "marginal_smoothing-t-f16": Case("marginal_smoothing:t=0.05,values=f16"),
    "marginal_smoothing-t-f32-derived-crops": Case("marginal_smoothing:t=0.05,values=f32", crops="derived", **FEW),
    "marginal_renorm-k5": Case("marginal_renorm:k=5"),
    "marginal_renorm-k5-f16-derived-crops": Case("marginal_renorm:k=5,values=f16", crops="derived", **FEW),
    "marginal_renorm-k5-f32-fractions-f16": Case("marginal_renorm:k=5,values=f32", crops="fractions:f16", **FEW),
    "marginal_renorm-t-fractions-f32": Case("marginal_renorm:t=0.1", crops="fractions:f32", **FEW),
    "marginal_renorm-t-f16": Case("marginal_renorm:t=0.1,values=f16", **FEW),
    "marginal_renorm-t-f32": Case("marginal_renorm:t=0.1,values=f32"),
    "two-classes": Case("marginal_smoothing:k=1", num_classes=2),
    "many-classes": Case("marginal_smoothing:k=3", num_classes=2**31, labels="top-k"),
    "many-kept-classes": Case("marginal_smoothing:t=0.0005", labels="flat"),
    "large-palette": Case("marginal_smoothing:k=24", num_classes=900, keys=("a.jpg",), sizes=((300, 400),), counts=(1200,)),
    "many-classes-few-crops": Case("marginal_smoothing:k=3", num_classes=2**31, labels="top-k", **many(40, 1)),
    "million-classes": Case("hard", num_classes=10**6, labels="top-k", **many(40, 1)),
    "one-class-only": Case("hard", num_classes=5, labels="sure", keys=("a.jpg",), sizes=((30, 40),), counts=(20,), crops="derived"),
    "no-palette": Case("marginal_smoothing:k=9", num_classes=3000, labels="flat"),
    "sure-of-everything": Case("marginal_smoothing:t=0.1", labels="sure"),
    "large-images": Case("hard", sizes=((65535, 65535), (1, 65535), (65535, 1), (65535, 2), (3, 3))),
    "long-keys": Case("hard", keys=tuple(f"{place}{'é' * 2000}{place}.jpg" for place in range(5))),
    "skipped-images": Case("hard", skipped_keys=("broken.jpg", "größe.png")),
    "longest-key": Case("hard", keys=("é" * 2046 + ".jpg",), sizes=((7, 9),), counts=(2,)),
    "most-crops": Case("hard", num_classes=3, keys=("a.jpg",), sizes=((2, 3),), counts=(65535,)),
    "most-images-of-a-block": Case("hard", num_classes=3, **many(300, 1)),
    "no-images": Case("hard", keys=(), sizes=(), counts=()),
    "several-blocks-ascending-keys": Case("marginal_smoothing:k=5", **many(600, 1)),
    "several-blocks-other-order": Case("marginal_smoothing:t=0.05", **many(60, 20, reverse=True)),
    "several-order-pages": Case("hard", **many(4200, 1, reverse=True)),
    "fractions-f32": Case("marginal_smoothing:k=5,values=f32", crops="fractions:f32", known_sizes=False),
    "fractions-f16": Case("marginal_smoothing:k=5,values=f16", crops="fractions:f16", known_sizes=False),
    "fractions-of-known-images": Case("hard", crops="fractions:f32"),
    "dense": Case("dense", num_classes=20),
    "dense-f16": Case("dense:values=f16", num_classes=20),
    "dense-logits": Case("dense:content=logits", num_classes=20, labels="vectors"),
    "dense-features-f16": Case("dense:values=f16,content=features", num_classes=20, labels="vectors"),
    "dense-logits-f16-derived-crops": Case("dense:values=f16,content=logits", num_classes=20, labels="vectors", crops="derived", **FEW),
    "dense-features-fractions-f32": Case("dense:content=features", num_classes=20, labels="vectors", crops="fractions:f32", **FEW),
    "dense-log8": Case("dense:values=log8", num_classes=30, labels="together"),
    "dense-log8-fine": Case("dense:values=log8,step=0.04", num_classes=301, labels="together", **FEW),
    "dense-log8-logits-derived-crops": Case(
        "dense:values=log8,step=0.25,content=logits", num_classes=22, labels="vectors", crops="derived", **many(9, 3)
    ),
    "dense-log8-of-two-classes": Case("dense:values=log8", num_classes=2),
    "dense-log8-of-zeros": Case("dense:values=log8,step=2.0", num_classes=20, labels="sure", **FEW),
    "derived-crops": Case("marginal_smoothing:k=5", crops="derived"),
    "derived-crops-several-blocks": Case("marginal_smoothing:t=0.05", crops="derived", **many(30, 50)),
    "tail-k3": Case("marginal_smoothing:k=3,tail=10"),
    "tail-t-derived-crops": Case("marginal_smoothing:t=0.1,tail=30", crops="derived"),
    "tail-no-palette": Case("marginal_smoothing:t=0.05,tail=7", num_classes=3000, labels="flat", **many(9, 2)),
    "tail-of-nothing": Case("marginal_smoothing:k=12,tail=12", num_classes=12),
    "tail-f16-fractions-f16": Case("marginal_smoothing:k=3,values=f16,tail=20", crops="fractions:f16", **FEW),
    "tail-all": Case("marginal_smoothing:t=0.1,tail=all,mean=log", num_classes=300),
    "tail-all-derived-crops": Case("marginal_smoothing:k=3,tail=all,mean=log", num_classes=100, crops="derived", **many(20, 4)),
    "tail-all-f16-fractions-f32": Case("marginal_smoothing:k=2,values=f16,tail=all", num_classes=50, crops="fractions:f32", **FEW),
    "tail-all-of-nothing": Case("marginal_smoothing:k=12,tail=all,mean=log", num_classes=12, **FEW),
    "tail-all-of-most-classes": Case("marginal_smoothing:k=1,tail=all,mean=log", num_classes=65535, labels="one-tail", **many(1, 2)),
    "tail-f32": Case("marginal_smoothing:k=2,values=f32,tail=200", num_classes=300),
    "tail-gain": Case("marginal_smoothing:gain=0.01,tail=30"),
    "tail-gain-of-few-crops": Case("marginal_smoothing:gain=0.005,tail=99", num_classes=100, crops="derived", **many(30, 10)),
    "tail-gain-f16": Case("marginal_smoothing:gain=0.02,values=f16,tail=12", num_classes=300, **FEW),
    "image-checksums": Case("marginal_smoothing:k=5", image_checksums=True),
    "image-checksums-derived-crops": Case("marginal_smoothing:t=0.1,tail=9", crops="derived", image_checksums=True, **FEW),
    "image-checksums-dense-fractions": Case("dense", num_classes=20, crops="fractions:f16", image_checksums=True, **FEW),
    "log8-codes-of-255": Case("marginal_smoothing:k=5,step=0.04", labels="sure"),
    "marginal_smoothing-k12-f32-all-classes": Case("marginal_smoothing:k=12,values=f32", num_classes=12),
    "marginal_smoothing-t-f16-all-classes": Case(
        "marginal_smoothing:t=2^-15,values=f16".replace("2^-15", str(2.0**-15)), num_classes=4, labels="flat"
    ),
    "crops-much-wider-than-high": Case("hard", keys=("a.jpg", "b.jpg"), sizes=((4, 2000), (300, 65535)), counts=(9, 9), crops_of="wide"),
    "crops-of-plain-numbers": Case(
        "marginal_smoothing:k=3", keys=("a.jpg", "b.jpg"), sizes=((65535, 65535), (40000, 50000)), counts=(30, 5)
    ),
    "keys-with-a-byte-order-mark": Case("hard", keys=("\ufeffa.jpg", "a.jpg"), sizes=((5, 6), (7, 8)), counts=(1, 2)),
    "keys-that-utf-16-orders-otherwise": Case("hard", keys=("\uffee.jpg", "\U0001f600.jpg"), sizes=((5, 6), (7, 8)), counts=(1, 2)),
    "keys-that-utf-16-orders-otherwise-descending": Case(
        "hard", keys=("\U0001f600.jpg", "\uffee.jpg"), sizes=((5, 6), (7, 8)), counts=(1, 2)
    ),
    "sampler-that-rounds-ties-to-even": Case(
        "hard",
        keys=("a.jpg", "b.jpg"),
        sizes=((4, 4), (12, 12)),
        counts=(4, 4),
        crops="derived",
        sampler=CropSampler(1, (2.5**2 / 16,) * 2, (1.0, 1.0)),
    ),
    "most-kept-classes": Case(
        "marginal_smoothing:k=65535", num_classes=65535, labels="steps", keys=("a.jpg",), sizes=((5, 6),), counts=(1,)
    ),
    "largest-table-of-kept-classes": Case(
        "marginal_smoothing:t=" + str(2.0**-15), num_classes=32768, labels="one-even", keys=("a.jpg",), sizes=((5, 6),), counts=(128,)
    ),
    "largest-table-of-tails": Case(
        "marginal_smoothing:k=1,tail=32768",
        num_classes=32769,
        labels="one-tail",
        keys=tuple(f"{number:03d}" for number in range(128)),
        sizes=((5, 6),) * 128,
        counts=(1,) * 127 + (2,),
    ),
    "padding-reflect": Case("marginal_smoothing:k=5", padding=Padding(9, "reflect"), **FEW),
    "padding-edge-derived-crops": Case("hard", crops="derived", padding=Padding(4, "edge"), **FEW),
    "padding-symmetric-most": Case(
        "hard", keys=("a.jpg", "b.jpg"), sizes=((65535 - 2048, 1), (1, 1)), counts=(3, 5), padding=Padding(1024, "symmetric")
    ),
    "all-views-padding-constant": Case(
        "dense:values=f16",
        num_classes=5,
        keys=("a.png", "b.png"),
        sizes=((32, 32), (31, 33)),
        counts=(162, 160),
        crops="derived",
        sampler=AllViews(32, 32),
        padding=Padding(4, "constant", (124, 116, 104)),
    ),
    "all-views-without-flips": Case(
        "hard", keys=("a.png", "b.png"), sizes=((5, 6), (7, 4)), counts=(8, 5), crops="derived", sampler=AllViews(4, 3, flips=False)
    ),
    "field": Case("field", labels="smooth"),
    "field-step-and-cost": Case("field:step=0.25,cost=5e-05", num_classes=12, labels="smooth"),
    "field-derived-crops-several-blocks": Case("field", num_classes=300, labels="smooth", crops="derived", **many(70, 12)),
    "field-fractions-f32-beyond-the-image": Case(
        "field", num_classes=50, labels="smooth", crops="fractions:f32", known_sizes=False, crops_of="beyond"
    ),
    "field-fractions-f16-of-known-images": Case("field", num_classes=50, labels="smooth", crops="fractions:f16"),
    "field-two-classes": Case("field", num_classes=2, labels="smooth"),
    "field-many-classes": Case("field", num_classes=70000, labels="smooth", **FEW),
    "field-constant-labels": Case("field", num_classes=20, labels="constant"),
    "field-sure-of-everything": Case("field:step=1.0,cost=1e-07", num_classes=20, labels="sure"),
    "field-one-crop-each": Case("field", num_classes=30, labels="smooth", image_checksums=True, **many(9, 1)),
    "field-padding": Case("field", num_classes=30, labels="smooth", padding=Padding(9, "reflect"), **FEW),
    "field-padding-derived-crops": Case("field", num_classes=30, labels="smooth", crops="derived", padding=Padding(4, "edge"), **FEW),
    "field-all-views": Case(
        "field",
        num_classes=9,
        labels="smooth",
        keys=("a.png", "b.png"),
        sizes=((5, 6), (7, 4)),
        counts=(8, 5),
        crops="derived",
        sampler=AllViews(4, 3, flips=False),
    ),
    "metadata-nested-32-deep": Case("hard", num_classes=2, keys=("a",), sizes=((1, 1),), counts=(1,), nested=29),
    "smallest": Case("hard", num_classes=2, keys=("a",), sizes=((1, 1),), counts=(1,), metadata=False),
}


def _changed(**changes: Any) -> Pieces:
    """Return a sound file with other pieces."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.slc"
        write_case(path, Case("marginal_smoothing:k=3,tail=5", **FEW))
        return replace(Pieces.of(path), **changes)


def _with_metadata(**values: object) -> bytes:
    pieces = _changed()
    pieces.set_values(**values)
    return pieces.join()


def _with_summary(**values: object) -> bytes:
    pieces = _changed()
    pieces.summary = msgpack.packb({**msgpack.unpackb(pieces.summary), **values})
    return pieces.join()


def _with_zstd_checksums() -> bytes:
    pieces = _changed()
    frames = zstandard.ZstdCompressor(write_checksum=True)
    pieces.payloads = [frames.compress(pieces.content(block)) for block in range(len(pieces.payloads))]
    pieces.pages = [frames.compress(zstandard.decompress(page)) for page in pieces.pages]
    return pieces.join()


def _with_a_block_by_hand(block: Written = PALETTES) -> bytes:
    """Return a file with a block that was written by hand, for one the block that section 15.1 of the container decodes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.slc"
        images: dict[str, Any] = {"keys": ("a", "b"), "sizes": block.sizes, "counts": (2, 1)}
        write_case(path, Case(block.codec, num_classes=block.num_classes, **images))
        pieces = Pieces.of(path)
    pieces.set_content(block.content)
    return pieces.join()


def _with_integers_for_floats() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.slc"
        write_case(path, Case("hard", crops="derived", sampler=CropSampler(3, (1.0, 1.0), (1.0, 1.0), 1.0), **FEW))
        pieces = Pieces.of(path)
    sampler = pieces.values()["crop_sampler"]
    pieces.set_values(crop_sampler={**sampler, "scale": [1, 1], "ratio": [1, 1.0], "log_ratio": [0, 0], "flip_probability": 1})
    return pieces.join()


CHANGED: dict[str, Callable[[], bytes]] = {
    "unknown-compatible-feature": lambda: _changed(header={"compatible_features": 1 << 7}).join(),
    "minor-version-3": lambda: _changed(header={"minor": 3}).join(),
    "unknown-keys-in-the-metadata": lambda: _with_metadata(later_versions={"may": ["add", 1]}, another=None),
    "unknown-keys-in-the-summary": lambda: _with_summary(later_versions={"may": ["add", 1]}),
    "without-writer": lambda: _with_metadata(writer=...),
    "zstd-checksums": _with_zstd_checksums,
    "block-by-hand": _with_a_block_by_hand,
    "field-by-hand": lambda: _with_a_block_by_hand(WIDE_FIELD),
    "crop-sampler-with-integers-for-floats": _with_integers_for_floats,
}
"""Files that our writer does not write."""
NAMES = (*CASES, *CHANGED)


def write_missing() -> None:
    """Write the vectors that are not there yet; what is there stays as it is."""
    for name in NAMES:
        container, expected = FOLDER / f"{name}.slc", FOLDER / f"{name}.npz"
        if not container.exists() and name in CHANGED:
            container.write_bytes(CHANGED[name]())
        elif not container.exists():
            write_case(container, CASES[name])
        if not expected.exists():
            np.savez_compressed(expected, **contents(container))
            print(container.name, container.stat().st_size)


def write_case(path: Path, case: Case) -> None:
    rng = np.random.default_rng(len(path.stem))
    metadata: dict[str, Any] = {"made_by": "the test suite", "nested": {"list": [1, 2.5, None, True, "é"]}} if case.metadata else {}
    if case.nested:
        metadata = {"nested": reduce(lambda inner, _: [inner], range(case.nested), ["in the middle"])}
    sampler = case.sampler if case.crops == "derived" else None
    options = {"crops": case.crops, "sampler": sampler, "image_checksums": case.image_checksums, "padding": case.padding}
    with SoftLabelWriter(path, case.num_classes, case.codec, metadata, **options) as writer:
        for key, size, count in zip(case.keys, case.sizes, case.counts, strict=True):
            geometry, flips = (sampler or CropSampler(seed=5)).sample(key, case.padding.around(size), range(count))
            if case.crops_of == "wide":
                geometry[:, 0], geometry[:, 1], geometry[:, 2], geometry[:, 3] = (
                    1,
                    3,
                    1 + np.arange(count) % 2,
                    size[1] - 3 - np.arange(count),
                )
            edges = geometry / np.tile(case.padding.around(size), 2)
            if case.crops_of == "beyond":
                edges = 3 * edges - 0.7
            if case.crops.startswith("fractions"):
                geometry = edges.astype("f4" if case.crops.endswith("32") else "f2")
            image_size = size if case.known_sizes else None
            labels = make_labels(rng, case, count, edges)
            if case.image_checksums:
                labels["image_crc32"] = zlib.crc32(key.encode())
            writer.add(key, image_size=image_size, crops=geometry, flips=flips, **labels)
        writer.finish(skipped_keys=case.skipped_keys)


def make_labels(rng: np.random.Generator, case: Case, count: int, edges: np.ndarray) -> dict[str, Any]:
    """Return labels of an image's crops, which are these fractions of it: top, left, height, width."""
    if case.labels == "top-k":
        classes = rng.choice(case.num_classes, 12, replace=False)[rng.permuted(np.tile(np.arange(12), (count, 1)), axis=1)[:, :3]]
        return {"indices": classes, "values": rng.dirichlet([1.0] * 4, count)[:, :3].astype(np.float32)}
    if case.labels == "steps":
        values = np.linspace(2, 0, case.num_classes, dtype=np.float32) / case.num_classes
        return {"probs": values[None] / values.sum(dtype=np.float64)}
    if case.labels == "one-even":
        probs = np.zeros((count, case.num_classes), np.float32)
        probs[0], probs[1:, 7] = 2.0**-15, 1
        return {"probs": probs}
    if case.labels == "one-tail":
        probs = np.zeros((count, case.num_classes), np.float32)
        probs[:, 1:] = 0 if count == 1 else 0.5 / (case.num_classes - 1)
        probs[:, 0] = 1 - probs[:, 1:].sum(axis=1)
        return {"probs": probs}
    profile = -1.2 * rng.permutation(case.num_classes) ** 0.4
    if case.labels == "flat":
        profile[:] = 0
    logits = profile + rng.normal(0, 1.5, (count, case.num_classes)) + rng.exponential(2, (count, 1)) * (profile == profile.max())
    if case.labels in ("smooth", "constant"):
        slopes = 6 * rng.normal(0, 1, (4, case.num_classes)) * (case.labels == "smooth")
        logits = 2 * profile + (edges - 0.5) @ slopes
    if case.labels == "sure":
        logits = logits * 100
    if case.labels == "together":
        logits += rng.normal(0, 2, (count, 2)) @ rng.normal(0, 1, (2, case.num_classes))
    if case.labels == "vectors":
        return {"vectors": logits.astype(np.float32)}
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"probs": (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)}


def contents(path: Path) -> dict[str, Any]:
    """Return everything that a reader must find in a file or a set, as arrays."""
    with SoftLabelReader(path) as reader:
        file = reader.container.shards[0] if path.is_dir() else reader.container
        section = json.dumps(msgpack.unpackb(file.beginning.data[HEADER.size :]), sort_keys=True)
        described = {"metadata": section, "summary": json.dumps(reader.summary, sort_keys=True)}
        if not len(reader):
            return described | {
                "keys": np.array([], str),
                "num_classes": reader.num_classes,
                "codec": reader.codec,
                "sizes": np.zeros((0, 2), np.int64),
                "counts": np.zeros(0, np.int64),
                "crops": np.zeros((0, 4), np.int32),
                "flips": np.zeros(0, np.bool_),
                "indices": np.zeros((0, 1), np.int32),
                "values": np.zeros((0, 1), np.float32),
                "remainder": np.zeros(0, np.float32),
            }
        batch = reader.read_batch(range(len(reader)))
        found: dict[str, Any] = described | {
            "keys": np.array(list(reader.keys)),
            "num_classes": reader.num_classes,
            "codec": reader.codec,
            "sizes": batch.image_sizes,
            "counts": batch.num_crops,
            "crops": batch.crops,
            "flips": batch.flips,
        }
        if batch.image_crc32s is not None:
            found["image_crc32s"] = batch.image_crc32s
        if reader.codec.startswith("dense"):
            found["vectors"] = batch.labels.vectors
        else:
            found |= {"indices": batch.labels.indices, "values": batch.labels.values, "remainder": batch.labels.remainder}
            if batch.labels.tails is not None:
                found["tails"] = batch.labels.tails.dense(reader.num_classes)
                if batch.labels.tails.slopes is not None:
                    found["tail_slopes"] = batch.labels.tails.slopes
                    found["tail_main_class"] = batch.labels.tails.main_class
        if reader.codec.startswith("field"):
            found |= labels_of_other_crops(reader)
        if "features" not in reader.codec and reader.num_classes <= MOST_TARGETS:
            found["targets"] = np.concatenate([reader.read(number, [0]).labels.dense() for number in range(len(reader))])
        return found


def labels_of_other_crops(reader: SoftLabelReader) -> dict[str, Any]:
    """Return a crop of each image, as fractions of it, that need not be one of those that are stored; and its label."""
    place = np.arange(len(reader))
    boxes = np.stack([place % 3 / 8, place % 5 / 16, 1 / 2 - place % 2 / 4, 5 / 8 - place % 7 / 16], axis=1)
    return {"other_crops": boxes, "other_targets": reader.labels_at(place, boxes[:, None]).labels.dense()}
