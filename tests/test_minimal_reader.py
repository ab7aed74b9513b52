"""The test vectors, read by the second reader, which knows the format from spec/ only."""

import contextlib
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

import minimal_reader
import numpy as np
import pytest
import zstandard

SPEC = Path(__file__).parents[1] / "spec"
FOLDER = SPEC / "vectors" / "valid"
VALID = sorted(FOLDER.glob("*.slc"))
SAMPLER_VECTORS = SPEC / "crop-sampler-v1-vectors.json"

CONTENTS = {"metadata", "summary", "keys", "num_classes", "codec", "sizes", "counts", "crops", "flips"}
MOST_TARGETS = 3000
SPARSE_CONTENTS = {"indices", "values", "remainder"}
OTHER_CONTENTS = {"other_crops", "other_targets"}


@pytest.fixture(params=VALID, ids=lambda path: path.stem)
def vector(request: pytest.FixtureRequest) -> Path:
    return request.param


def expected_of(vector: Path) -> dict[str, np.ndarray]:
    with np.load(vector.with_suffix(".npz")) as arrays:
        return {name: arrays[name] for name in arrays.files}


def rows(images: list[minimal_reader.Image], name: str) -> list:
    """A field of all crops: crop after crop, image after image."""
    return [row for image in images for row in getattr(image, name)]


def padded(lists: list[list], width: int, fill: float, dtype: str) -> np.ndarray:
    return np.array([row + [fill] * (width - len(row)) for row in lists], dtype).reshape(-1, width)


def ulps(a: np.ndarray, b: np.ndarray) -> int:
    """Largest distance of two arrays of numbers of at least 0, in units in the last place of binary32."""
    a, b = (x.astype(np.float32).view(np.uint32).astype(np.int64) for x in (a, b))
    return int(np.abs(a - b).max(initial=0))


def test_there_are_vectors() -> None:
    assert VALID


def test_contents(vector: Path) -> None:
    compare_contents(minimal_reader.read(vector.read_bytes()), vector)


def compare_contents(file: minimal_reader.File, vector: Path) -> None:
    """Check that a file, or a set, has what is in the npz file beside it."""
    expected = expected_of(vector)
    images = file.images
    codec = minimal_reader.parse_codec(file.metadata["codec"], file.metadata["num_classes"])
    labels = (
        {"vectors"}
        if codec.name == "dense"
        else SPARSE_CONTENTS | ({"tails"} if codec.tail else set()) | ({"tail_slopes", "tail_main_class"} if codec.tail == "all" else set())
    )
    checksums = {"image_crc32s"} if "image_checksum" in file.metadata else set()
    targets = {"targets"} if images and codec.content != "features" and file.metadata["num_classes"] <= MOST_TARGETS else set()
    others = OTHER_CONTENTS if codec.name == "field" else set()
    assert set(expected) == CONTENTS | labels | checksums | targets | others  # nothing is left uncompared

    assert file.metadata == json.loads(str(expected["metadata"]))
    assert file.summary == json.loads(str(expected["summary"]))
    assert [image.key for image in images] == expected["keys"].tolist()
    assert file.metadata["num_classes"] == int(expected["num_classes"])
    assert file.metadata["codec"] == str(expected["codec"])
    assert [list(image.size) for image in images] == expected["sizes"].tolist()
    assert [len(image.crops) for image in images] == expected["counts"].tolist()
    assert rows(images, "crops") == expected["crops"].tolist()
    assert rows(images, "flips") == expected["flips"].tolist()
    assert [image.crc32 for image in images] == (expected["image_crc32s"].tolist() if checksums else [None] * len(images))

    if "vectors" in expected:
        found, wanted = np.array(rows(images, "vectors"), np.float64), expected["vectors"].astype(np.float64)
        assert np.abs(found - wanted).max(initial=0) == 0 or (codec.values == "log8" and ulps(np.abs(found), np.abs(wanted)) <= 1)
    else:
        compare_sparse(images, expected, tolerance=1 if codec.values == "log8" or codec.name == "field" else 0)
    if "other_crops" in expected:
        compare_other_crops(images, expected, codec)
    if "tails" in expected:
        np.testing.assert_allclose([image.tail for image in images], expected["tails"], rtol=1e-6, atol=0)
    else:
        assert all(image.tail is None for image in images)
    if "tail_slopes" in expected:
        np.testing.assert_array_equal([image.slopes for image in images], expected["tail_slopes"] / 1.5)
        assert [image.main_class for image in images] == expected["tail_main_class"].tolist()
    else:
        assert all(image.slopes is None for image in images)


def compare_other_crops(images: list[minimal_reader.Image], expected: Mapping[str, np.ndarray], codec: minimal_reader.Codec) -> None:
    """Section 5 of field-v1.md: the label of a crop that is described."""
    num_classes = int(expected["num_classes"])
    for image, crop, targets in zip(images, expected["other_crops"].tolist(), expected["other_targets"], strict=True):
        classes, values, remainder = minimal_reader.field_label(image.of_places, crop, (1, 1), codec, num_classes)
        found = np.full(num_classes, remainder / (num_classes - len(classes)))
        found[classes] = values
        assert ulps(found, targets) <= 2


def compare_sparse(images: list[minimal_reader.Image], expected: Mapping[str, np.ndarray], tolerance: int) -> None:
    width = expected["indices"].shape[1]
    assert [len(row) for row in rows(images, "values")] == (expected["indices"] >= 0).sum(1).tolist()
    assert np.array_equal(padded(rows(images, "indices"), width, -1, "int64"), expected["indices"])
    assert ulps(padded(rows(images, "values"), width, 0, "float32"), expected["values"]) <= tolerance
    assert ulps(np.array(rows(images, "remainder"), np.float32), expected["remainder"]) <= tolerance


def wanted_targets(expected: Mapping[str, np.ndarray], row: int, image: int, policy: str) -> np.ndarray:
    """Targets of a crop for all classes, from the expected contents: section 7 of sparse-v1.md in another way."""
    num_classes = int(expected["num_classes"])
    kept = expected["indices"][row] >= 0
    classes, values = expected["indices"][row][kept], expected["values"][row][kept].astype(np.float64)
    share = np.zeros(num_classes)
    if policy != "renorm":
        share[:] = expected["tails"][image] if policy == "tail" else 1
        if policy == "tail" and "tail_slopes" in expected:
            x = values[classes == expected["tail_main_class"][image]].sum()
            share *= np.exp(expected["tail_slopes"][image].astype(np.float64) * x)
        share[classes] = 0
        if not share.any():
            share[:] = 1
            share[classes] = 0
        share *= float(expected["remainder"][row]) / max(share.sum(), 1e-300)
    share[classes] = values / values.sum() if policy == "renorm" else values
    return share


def test_targets(vector: Path) -> None:
    """The first crop of each image: as the vector says, and under all policies that its file offers."""
    file = minimal_reader.read(vector.read_bytes())
    expected = expected_of(vector)
    num_classes = file.metadata["num_classes"]
    codec = minimal_reader.parse_codec(file.metadata["codec"], num_classes)
    row = 0
    for i, image in enumerate(file.images[:50] if "targets" in expected else []):
        if codec.name == "dense":
            found = minimal_reader.dense_targets(image.vectors[0], codec)
            np.testing.assert_allclose(found, expected["targets"][i], rtol=2e-6, atol=0)
            continue
        policies = ["uniform"] + ["renorm"] * (codec.name != "field") + ["tail"] * ("tails" in expected)
        for policy in policies:
            target = minimal_reader.target(image, 0, num_classes, policy)
            found = [target(c) for c in range(num_classes)]
            np.testing.assert_allclose(found, wanted_targets(expected, row, i, policy), rtol=2e-6, atol=0)
            if policy == minimal_reader.policy_of(codec):
                np.testing.assert_allclose(found, expected["targets"][i], rtol=2e-6, atol=1e-9)
            assert sum(found) == pytest.approx(1, abs=1e-3 if codec.values == "f16" else 1e-5)
        row += len(image.crops)


def test_targets_of_many_classes() -> None:
    file = minimal_reader.read((FOLDER / "many-classes.slc").read_bytes())
    image, num_classes = file.images[0], file.metadata["num_classes"]
    kept = dict(zip(image.indices[0], image.values[0], strict=True))
    target = minimal_reader.target(image, 0, num_classes, "uniform")
    others = [c for c in range(100) if c not in kept]
    assert [target(c) for c in kept] == list(kept.values())
    assert {target(c) for c in others} == {image.remainder[0] / (num_classes - len(kept))}


def test_policies() -> None:
    for codec, policy in {
        "hard": "uniform",
        "smoothing:values=f16": "uniform",
        "marginal_smoothing:k=5": "uniform",
        "marginal_renorm:t=0.1": "renorm",
        "marginal_smoothing:k=5,tail=3": "tail",
        "field:step=0.25": "uniform",
    }.items():
        assert minimal_reader.policy_of(minimal_reader.parse_codec(codec, 1000)) == policy


@pytest.mark.parametrize(
    "codec",
    ["hard:tail=3", "marginal_renorm:k=5,tail=3", "marginal_smoothing:k=5,tail=0", "marginal_smoothing:tail=3"]
    + ["field:values=f32", "field:step=0.05", "field:step=1.1", "field:cost=0", "field:cost=0.2", "field:k=3", "hard:cost=0.1"],
)
def test_refused_codecs(codec: str) -> None:
    with pytest.raises(minimal_reader.UnknownFeatureError):
        minimal_reader.parse_codec(codec, 1000)


def test_philox() -> None:
    """The table in section 2 of crop-sampler-v1.md."""
    for counter, key, words in (
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ):
        numbers = [tuple(int(word, 16) for word in text.split()) for text in (counter, key, words)]
        assert minimal_reader.philox(*numbers[:2]) == numbers[2]


@pytest.mark.parametrize("case", json.loads(SAMPLER_VECTORS.read_text(encoding="utf-8"))["cases"], ids=lambda case: case["key"])
def test_sampler_vectors(case: dict) -> None:
    sampler = minimal_reader.parse_sampler({"name": "random_resized_crop/1", **case})
    sampled = [minimal_reader.sample(sampler, case["key"], tuple(case["image_size"]), m) for m in range(len(case["crops"]))]
    assert [crop for crop, _ in sampled] == case["crops"]
    assert [flip for _, flip in sampled] == case["flips"]


def first_block(name: str) -> tuple[bytes, dict]:
    """The content of block 0 of a vector, and the metadata."""
    data = (FOLDER / f"{name}.slc").read_bytes()
    metadata, crc32, at = minimal_reader.read_metadata(data)
    (length,) = struct.unpack_from("<I", data, at + 8)
    payload = minimal_reader.read_payload(data[at : at + 16 + length], 0, crc32)
    return minimal_reader.decompress(payload, 2**30), metadata


def read_content(content: bytes, metadata: dict) -> list[minimal_reader.Image]:
    return minimal_reader.read_block(zstandard.compress(content), metadata)


@pytest.mark.parametrize("name", ["derived-crops", "derived-crops-several-blocks", "tail-t-derived-crops"])
def test_a_sampler_that_differs_is_found(name: str) -> None:
    content, metadata = first_block(name)
    sampler = metadata["crop_sampler"]
    for change in ({"seed": sampler["seed"] + 1}, {"flip_probability": 0.26}, {"scale": [0.05, 0.91]}):
        with pytest.raises(minimal_reader.CorruptError, match="crops_crc32"):
            read_content(content, metadata | {"crop_sampler": sampler | change})
    for change in (
        {"seed": -1},
        {"scale": [0.0, 1.0]},
        {"ratio": [2.0, 1.0]},
        {"log_ratio": [0.0]},
        {"flip_probability": True},
        {"name": 1},
    ):
        with pytest.raises(minimal_reader.CorruptError, match="crop_sampler"):
            read_content(content, metadata | {"crop_sampler": sampler | change})
    with pytest.raises(minimal_reader.UnknownFeatureError):
        read_content(content, metadata | {"crop_sampler": sampler | {"name": "random_resized_crop/2"}})


@pytest.mark.parametrize(
    ("name", "offset", "value", "what"),
    [
        ("derived-crops", 2, None, "crops_crc32"),
        ("derived-crops", 6, 2, "palettes"),
        ("tail-k3", 11, 3, "palettes"),
        ("tail-k3", 12, 5, "index_width"),
        ("tail-k3", 15, 3, "remainder_width"),
        ("tail-k3", 16, 5, "tail_width"),
        ("tail-t-derived-crops", 8, 3, "count_width"),
    ],
)
def test_refused_fields(name: str, offset: int, value: int | None, what: str) -> None:
    content, metadata = first_block(name)
    changed = bytearray(content)
    changed[offset] = changed[offset] ^ 1 if value is None else value
    with pytest.raises(minimal_reader.CorruptError, match=what):
        read_content(bytes(changed), metadata)


def test_bits() -> None:
    fields = minimal_reader.Fields(bytes([0b11_001_010, 0b0_0000_100]))
    assert fields.bits(4, 3) == [0b010, 0b001, 0b011, 0b010]
    fields.end()
    with pytest.raises(minimal_reader.CorruptError, match="unused bits"):
        minimal_reader.Fields(bytes([0b1000_0000])).bits(7, 1)
    assert minimal_reader.Fields(b"").bits(0, 10) == []
    assert minimal_reader.Fields(b"ab").bits(2, 8) == [97, 98]


def test_listed_classes() -> None:
    """Section 6 of sparse-v1.md: a level of 255 in a palette is no level, and the class has the weight of the floor."""
    assert minimal_reader.tail_weights({}, 255, 3) == [0, 0, 0]
    assert minimal_reader.tail_weights({1: 0}, 255, 3) == [0, 1, 0]
    assert minimal_reader.tail_weights({}, 254, 4) == [0.25] * 4


def test_a_tail_of_kept_classes_only() -> None:
    """Section 7 of sparse-v1.md: where the tail has nothing for the classes that are not kept, the remainder is spread evenly."""
    tail = minimal_reader.tail_weights({1: 0}, 255, 3)
    image = minimal_reader.Image("a", (1, 1), None, tail, indices=[[1], [0]], values=[[0.75], [0.75]], remainder=[0.25, 0.25])
    assert [minimal_reader.target(image, 0, 3, "tail")(c) for c in range(3)] == [0.125, 0.75, 0.125]
    assert [minimal_reader.target(image, 1, 3, "tail")(c) for c in range(3)] == [0.75, 0.25, 0]


@pytest.mark.parametrize("palettes", [0, 1])
@pytest.mark.parametrize("index_width", [2, 3, 4])
def test_wide_indices(palettes: int, index_width: int) -> None:
    """Columns that no vector has: 300 crops of one image, all of different classes."""
    num_classes, classes = 2**31, [7919 * i % 2**16 for i in range(300)]
    column = np.array(range(300) if palettes else classes, "<u4").view(np.uint8).reshape(-1, 4).T[:index_width].tobytes()
    bits = sum(c << 31 * i for i, c in enumerate(classes)).to_bytes((31 * 300 + 7) // 8, "little")
    content = bytes([palettes, index_width]) + column + (struct.pack("<H", 300) + bits if palettes else b"")
    fields, codec = minimal_reader.Fields(content), minimal_reader.parse_codec("hard", num_classes)
    found = minimal_reader.read_label_fields(fields, codec)
    labels, tails, changes = minimal_reader.read_label_columns(fields, codec, found, num_classes, [300])
    fields.end()
    assert labels["indices"] == [[c] for c in classes]
    assert (tails, changes) == ([None], [(None, None)])


@pytest.mark.parametrize(
    "name", ["tail-k3", "tail-no-palette", "tail-f32", "derived-crops", "marginal_smoothing-t", "two-classes", "dense-f16"]
)
def test_changed_contents_raise_nothing_else(name: str) -> None:
    """What passes all checksums and is wrong nevertheless is decoded or refused, not stumbled over."""
    content, metadata = first_block(name)
    rng = random.Random(name)
    for position in [*range(20), *(rng.randrange(len(content)) for _ in range(60))]:
        changed = bytearray(content)
        changed[position] ^= rng.randrange(1, 256)
        with contextlib.suppress(minimal_reader.CorruptError):
            read_content(bytes(changed), metadata)


def test_recover(vector: Path) -> None:
    """Cut anywhere, a file gives back some first images; cut after the last block or not at all, every image."""
    data = vector.read_bytes()
    images = minimal_reader.read(data).images
    assert minimal_reader.recover(data) == images
    _, _, blocks_offset = minimal_reader.read_metadata(data)
    keys_offset = minimal_reader.read_trailer(data, blocks_offset).keys_offset
    assert minimal_reader.recover(data[:keys_offset]) == images
    if images:
        assert len(minimal_reader.recover(data[: keys_offset - 1])) < len(images)
    for length in np.linspace(blocks_offset, keys_offset, 5).astype(int):
        found = minimal_reader.recover(data[:length])
        assert found == images[: len(found)]


def test_truncated(vector: Path) -> None:
    data = vector.read_bytes()
    for length in np.unique(np.linspace(0, len(data) - 1, 200).astype(int)):
        with pytest.raises(minimal_reader.TruncatedError):
            minimal_reader.read(data[:length])
    with pytest.raises(minimal_reader.NotAContainerError):
        minimal_reader.read(data[1:])


@pytest.mark.parametrize(
    "name", ["smallest", "several-blocks-other-order", "marginal_smoothing-t", "tail-k3", "tail-t-derived-crops", "dense-f16"]
)
def test_no_changed_byte_passes(name: str) -> None:
    data = (FOLDER / f"{name}.slc").read_bytes()
    rng = random.Random(name)
    for position in sorted({*rng.sample(range(len(data)), min(len(data), 300)), *range(32), *range(len(data) - 112, len(data))}):
        changed = bytearray(data)
        changed[position] ^= rng.randrange(1, 256)
        with pytest.raises(minimal_reader.FormatError):
            minimal_reader.read(bytes(changed))
