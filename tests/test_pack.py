"""Codes to bytes of a block and back, for any images, crops and labels."""

import numpy as np
import pytest
from conftest import random_probs
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabel_codec import Codec, CorruptError
from softlabel_codec.block.columns import Column, from_bits, from_planes, get_varint, grouped, put_varint, to_bits, to_planes, width_of
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.block.indices import pack_indices, unpack_ranks
from softlabel_codec.block.keys import pack_keys, unpack_keys
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.sampler import CropSampler, crop_stream

CODECS = [
    "hard",
    "smoothing",
    "marginal_smoothing:k=3",
    "marginal_smoothing:k=12,values=f32",
    "marginal_renorm:k=5,values=f16",
    "marginal_smoothing:t=0.05",
    "marginal_smoothing:t=0.01,values=f16",
    "marginal_smoothing:k=2,tail=9",
    "marginal_smoothing:t=0.3,tail=12,values=f32",
    "dense:f32",
    "dense:f16",
]


SHORT = [codec for codec in CODECS if "dense" not in codec] + ["marginal_smoothing:k=12", "marginal_smoothing:t=0.02,tail=40"]
MODES = ["pixels", "derived"]
SAMPLER = CropSampler(seed=2**50 + 1, ratio=(0.1, 10.0))


def pixel_crops(rng, size, count):
    """Return crops of every shape, whole images and single pixels among them."""
    height, width = size
    crop_height, crop_width = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    top, left = rng.integers(0, height - crop_height + 1), rng.integers(0, width - crop_width + 1)
    return np.stack([top, left, crop_height, crop_width], axis=1)


def block_images(rng, codec, num_classes, sizes, counts, mode="pixels", checksums=False):
    total = sum(counts)
    probs = random_probs(rng, total, num_classes)
    crops = np.concatenate([pixel_crops(rng, size, count) for size, count in zip(sizes, counts, strict=True)])
    flips = rng.random(total) < 0.5
    keys = [f"n{number}/image-{rng.integers(10**6)}.JPEG" for number in range(len(sizes))]
    if mode == "derived":
        sampled = [SAMPLER.sample(key, size, range(count)) for key, size, count in zip(keys, sizes, counts, strict=True)]
        crops, flips = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    elif mode != "pixels":
        crops = rng.uniform(0, 1, (total, 4)).astype("f4" if mode.endswith("32") else "f2")
    quantiser = label_quantiser(codec, num_classes)
    codes = quantiser.concatenate([quantiser.quantise({"probs": part}, len(part)) for part in np.split(probs, np.cumsum(counts)[:-1])])
    crc32s = rng.integers(0, 2**32, len(sizes)) if checksums else None
    return BlockImages(keys, np.array(sizes), np.array(counts), crops, flips, codes, crc32s)


def content_of(layout, images):
    return b"".join(column.data for column in layout.pack(images))


def same_codes(mine, theirs, values_width):
    if not isinstance(mine, SparseCodes):
        np.testing.assert_array_equal(mine, theirs)
        return
    np.testing.assert_array_equal(mine.indices, theirs.indices)
    if mine.values is not None:
        kept = mine.indices >= 0
        np.testing.assert_array_equal((mine.values - theirs.values)[kept] % values_width, 0)
    if mine.remainders is not None:
        np.testing.assert_array_equal(mine.remainders, theirs.remainders)
    if theirs.tails is not None:
        listed = theirs.tails.classes >= 0
        np.testing.assert_array_equal(mine.tails.classes, theirs.tails.classes)
        np.testing.assert_array_equal(mine.tails.levels[listed], theirs.tails.levels[listed])
        np.testing.assert_array_equal(mine.tails.floor, theirs.tails.floor)
        np.testing.assert_array_equal(mine.tail_of, theirs.tail_of)


@given(
    seed=st.integers(0, 2**32),
    codec=st.sampled_from(CODECS),
    num_classes=st.sampled_from([12, 300, 70000]),
    sizes=st.lists(st.sampled_from([(1, 1), (1, 65535), (65535, 65535), (375, 500), (7, 3)]), min_size=1, max_size=4),
    count=st.integers(1, 60),
    mode=st.sampled_from(["pixels", "pixels", "derived", "fractions:f32", "fractions:f16"]),
    checksums=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_block_comes_back_as_it_went_in(seed, codec, num_classes, sizes, count, mode, checksums):
    rng = np.random.default_rng(seed)
    num_classes = min(num_classes, 300) if codec.startswith("dense") or "t=" in codec else num_classes
    num_classes = 12 if "tail" in codec else num_classes
    layout = Layout(Codec.parse(codec), num_classes, mode, SAMPLER if mode == "derived" else None, checksums)
    counts = [int(rng.integers(1, count + 1)) for _ in sizes]
    images = block_images(rng, layout.codec, num_classes, sizes, counts, mode, checksums)
    content = content_of(layout, images)
    found = layout.unpack_all(content)
    assert found.keys == images.keys
    np.testing.assert_array_equal(found.image_crc32s, images.image_crc32s)
    np.testing.assert_array_equal(found.sizes, images.sizes)
    np.testing.assert_array_equal(found.num_crops, images.num_crops)
    np.testing.assert_array_equal(found.crops, images.crops)
    np.testing.assert_array_equal(found.flips, images.flips)
    same_codes(found.codes, images.codes, 2**16 if "f16" in codec else 2**32)


@given(
    seed=st.integers(0, 2**32),
    codec=st.sampled_from(SHORT),
    num_images=st.integers(1, 5),
    mode=st.sampled_from(MODES),
    checksums=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_short_way_for_a_few_crops_finds_the_same(seed, codec, num_images, mode, checksums):
    rng = np.random.default_rng(seed)
    parsed = Codec.parse(codec)
    num_classes = int(rng.choice([40, 300, 3000]))
    layout = Layout(parsed, num_classes, mode, SAMPLER if mode == "derived" else None, checksums)
    sizes = [(int(rng.integers(1, 400)), int(rng.integers(1, 400))) for _ in range(num_images)]
    images = block_images(rng, parsed, num_classes, sizes, [int(rng.integers(1, 90)) for _ in sizes], mode, checksums)
    stream = crop_stream(images.keys[0])
    content = content_of(layout, images)
    slot = int(rng.integers(num_images))
    crops = rng.integers(0, images.num_crops[slot], 5)
    rows, found = layout.unpack([content], np.zeros(1, np.int64), np.array([slot]), crops[None], np.array([stream]))
    wanted = label_quantiser(parsed, num_classes).dequantise(rows.codes, parsed.policy)
    geometry, flips, size, labels, crc32 = FewCropsReader(layout, parsed.policy).read(content, slot, crops.tolist(), stream)
    assert size == tuple(found.image_sizes[0])
    assert crc32 == (int(images.image_crc32s[slot]) if checksums else None)
    np.testing.assert_array_equal(geometry, rows.crops)
    np.testing.assert_array_equal(flips, rows.flips)
    for name in ("indices", "values", "remainder", "tail_of"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(wanted, name))
    if parsed.tail:
        for name in ("classes", "weights", "floor"):
            np.testing.assert_array_equal(getattr(labels.tails, name), getattr(wanted.tails, name))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_planes(values):
    array = np.array(values, np.uint64)
    width = width_of(max(values))
    planes = to_planes(array, width)
    assert len(planes) == width
    data = np.frombuffer(b"##" + b"".join(planes), np.uint8)
    ones = np.ones(len(values), np.int64)
    found = from_planes(data, 2 * ones, len(values) * ones, width * ones, np.arange(len(values)))
    np.testing.assert_array_equal(found.view(np.uint64), array)


def test_planes_of_different_widths_at_once():
    data = np.frombuffer(bytes([1, 2, 3, 4, 5, 6]), np.uint8)  # 1, 2 in one byte; 3 + 256 * 5, 4 + 256 * 6 in two
    start, count, width = np.array([0, 0, 2, 2, 5]), np.array([2, 2, 2, 2, 1]), np.array([1, 1, 2, 2, 0])
    found = from_planes(data, start, count, width, np.array([0, 1, 0, 1, 0]))
    assert found.tolist() == [1, 2, 3 + 256 * 5, 4 + 256 * 6, 0]


@given(st.integers(0, 2**21 - 1))
def test_varints(value):
    assert get_varint(put_varint(value) + b"rest", 0) == (value, len(put_varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x80\x80\x01"])
def test_varints_that_do_not_end(data):
    with pytest.raises(CorruptError, match="varint"):
        get_varint(data, 0)


@given(st.permutations(range(30)).map(lambda ranks: ranks[:12]))
def test_skipping_used_ranks(ranks):
    codes = np.array([[rank - sum(other < rank for other in ranks[: min(place, 8)]) for place, rank in enumerate(ranks)]])
    assert unpack_ranks(codes)[0].tolist() == ranks


def test_frequent_classes_get_small_ranks():
    classes = np.array([[900, 3]] * 30 + [[900, 500]] * 3 + [[7, 8]])
    packed = pack_indices(np.tile(classes, (20, 1)), np.array([len(classes)] * 20), 1000)
    assert packed.sizes.tolist() == [5] * 20
    assert packed.palette[:5].tolist() == [900, 3, 500, 7, 8]
    assert set(packed.codes[:60].tolist()) == {0}  # rank 0, then rank 1 with rank 0 used up
    assert pack_indices(np.arange(20)[:, None], np.array([20]), 1000).sizes is None


@given(st.integers(1, 31), st.integers(0, 9), st.data())
def test_columns_of_bits(width, skipped_bytes, data):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=30))
    packed = to_bits(np.array(values), width)
    assert len(packed) == (len(values) * width + 7) // 8
    assert int.from_bytes(packed, "little") == sum(value << place * width for place, value in enumerate(values))
    array = np.frombuffer(b"#" * skipped_bytes + packed, np.uint8)
    start = np.full(len(values), skipped_bytes)
    assert from_bits(array, start, np.arange(len(values)) * width, width).tolist() == values


def test_neighbouring_noise_shares_a_group():
    columns = [Column("a", b"1"), Column("b", b"2" * 99, noise=True), Column("c", b"3" * 99), Column("d", b"4" * 99), Column("e", b"")]
    assert [[column.name for column in group] for group in grouped(columns)] == [["a", "b"], ["c"], ["d"]]


@given(st.lists(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()), min_size=1, max_size=10))
def test_keys_of_a_block(keys):
    assert unpack_keys(pack_keys(keys), len(keys)) == keys


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00\x01", "does not fit"),
        (b"\x07\x00\x00", "does not fit"),
        (b"\x00\x00\x00", "does not fit"),
        (b"\x00\x00\x01\xff", "not UTF-8"),
        (b"\x00\x00\x01ab", "1 bytes more"),
        (b"\x00", "varint"),
    ],
)
def test_broken_keys_of_a_block(data, message):
    with pytest.raises(CorruptError, match=message):
        unpack_keys(data, 1)
