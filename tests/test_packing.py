"""The content of a block, byte for byte (container-v1.md, section 5; sparse-v1.md; dense-v1.md; field-v1.md)."""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections import Counter
from dataclasses import replace

import minimal_reader
import numpy as np
import pytest
from blocks_by_hand import (
    BY_HAND,
    FIELD,
    FIELD_WITHOUT_WIDTH,
    FIELDS,
    FRACTIONS_F16,
    FRACTIONS_F32,
    HARD,
    LOG8,
    NO_WIDTH,
    PALETTES,
    PALETTES_OF_TAILS,
    PLAIN_CROPS,
    SAID_DIFFERENTLY,
    TAIL,
    TAIL_OF_ALL,
    TAIL_WITH_PALETTES,
    THRESHOLD,
    WIDE_FIELD,
    WIDE_LOG8,
    WIDE_THRESHOLD,
    bits,
    planes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_blocks import SAMPLER, block_images, codes_of, content_of, places_of, same_codes

from softlabel_codec import Codec, CorruptError
from softlabel_codec.block.columns import (
    Column,
    exclusive_cumsum,
    from_bits,
    from_planes,
    get_varint,
    grouped,
    much_text,
    put_varint,
    ragged,
    to_bits,
    to_planes,
    width_of,
)
from softlabel_codec.block.crops import CROP_MODES, STORED_CROPS, crop_mode, crops_crc32
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.block.indices import NO_PALETTES, OWN_PALETTES, TAIL_PALETTES, check_distinct, class_bits, pack_indices, unpack_ranks
from softlabel_codec.block.keys import decode_key, pack_keys, unpack_keys
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.block.rows import Fields
from softlabel_codec.block.tail_palettes import TailPalettes, one_palette
from softlabel_codec.block.tails import one_tail, pack_tails
from softlabel_codec.container.zstd_frames import store_columns
from softlabel_codec.padding import Padding
from softlabel_codec.quantise.full_tails import FullTailCodes
from softlabel_codec.quantise.log_vectors import ImageLogs
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.quantise.tails import TailCodes
from softlabel_codec.sampler import crop_stream


def refused(message: str):
    """Expect a CorruptError that says this."""
    return pytest.raises(CorruptError, match="^" + re.escape(message))


# Columns (sections 1 and 5.2)


@pytest.mark.parametrize(("largest", "width"), [(0, 0), (1, 1), (255, 1), (256, 2), (65535, 2), (65536, 3), (2**32 - 1, 4), (2**64 - 1, 8)])
def test_the_fewest_bytes_that_hold_an_integer(largest, width):
    assert width_of(np.uint64(largest)) == width


def test_planes_of_bytes():
    assert to_planes(np.array([0x0102, 0xA0B0, 7]), 3) == [b"\x02\xb0\x07", b"\x01\xa0\x00", b"\x00\x00\x00"]
    assert to_planes(np.array([5]), 0) == []
    assert to_planes(np.array([-1, 0x12345]), 2) == [b"\xff\x45", b"\xff\x23"]
    assert to_planes(np.array([2**64 - 2], np.uint64), 8) == [b"\xfe"] + [b"\xff"] * 7
    every_other = np.arange(6)[::2]
    assert to_planes(every_other, 1) == [b"\x00\x02\x04"]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_planes_come_back(values):
    array = np.array(values, np.uint64)
    width = width_of(max(values))
    planes = to_planes(array, width)
    assert len(planes) == width
    data = np.frombuffer(b"##" + b"".join(planes), np.uint8)
    ones = np.ones(len(values), np.int64)
    found = from_planes(data, 2 * ones, len(values) * ones, width * ones, np.arange(len(values)))
    np.testing.assert_array_equal(found.view(np.uint64), array)


def test_reading_planes():
    data = np.frombuffer(b"##" + planes([0x010203, 0x0A0B0C], 3), np.uint8)
    two, three = np.array([2]), np.array([3])
    assert from_planes(data, two, two, three, np.array([1, 0, 1])).tolist() == [0x0A0B0C, 0x010203, 0x0A0B0C]
    assert from_planes(data, two, two, np.array([0]), np.array([0, 1])).tolist() == [0, 0]
    assert from_planes(data, two, two, three, np.array([], int)).tolist() == []
    assert from_planes(data, two[:, None], two[:, None], three, np.array([[0, 1], [1, 0]])).tolist() == [
        [0x010203, 0x0A0B0C],
        [0x0A0B0C, 0x010203],
    ]


def test_planes_of_different_widths_at_once():
    data = np.frombuffer(bytes([1, 2, 3, 4, 5, 6]), np.uint8)  # 1, 2 in one byte; 3 + 256 * 5, 4 + 256 * 6 in two
    start, count, width = np.array([0, 0, 2, 2, 5]), np.array([2, 2, 2, 2, 1]), np.array([1, 1, 2, 2, 0])
    found = from_planes(data, start, count, width, np.array([0, 1, 0, 1, 0]))
    assert found.tolist() == [1, 2, 3 + 256 * 5, 4 + 256 * 6, 0]


def test_reading_planes_of_different_widths_looks_at_nothing_beyond():
    data = np.frombuffer(planes([0x1234], 2) + b"\x05", np.uint8)
    assert from_planes(data, np.array([0, 2]), np.array([1, 1]), np.array([2, 1]), np.array([0, 0])).tolist() == [0x1234, 5]


def test_columns_of_bits_begin_at_the_lowest():
    assert to_bits(np.array([0b101, 0b001, 0b110]), 3) == bytes([0b10_001_101, 0b1])
    assert to_bits(np.array([], int), 3) == b""
    data = np.frombuffer(b"#" + bits([5, 1, 6], 3), np.uint8)
    assert from_bits(data, np.array([1]), 3 * np.array([2, 0, 1]), 3).tolist() == [6, 5, 1]


@given(st.integers(1, 32), st.integers(0, 9), st.data())
def test_columns_of_bits_of_any_width(width, skipped_bytes, data):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=30))
    written = to_bits(np.array(values), width)
    assert len(written) == (len(values) * width + 7) // 8
    assert int.from_bytes(written, "little") == sum(value << place * width for place, value in enumerate(values))
    array = np.frombuffer(b"#" * skipped_bytes + written, np.uint8)
    start = np.full(len(values), skipped_bytes)
    assert from_bits(array, start, np.arange(len(values)) * width, width).tolist() == values


def test_runs_of_different_lengths():
    assert ragged(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ragged(np.array([], int), np.array([], int)).tolist() == []
    assert exclusive_cumsum(np.array([4, 0, 3])).tolist() == [0, 4, 4]
    assert exclusive_cumsum(np.array([], int)).tolist() == []


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (16383, "ff7f"), (16384, "808001"), (2**21 - 1, "ffff7f")]
)
def test_varints(value, data):
    assert put_varint(value).hex() == data
    assert get_varint(b"#" + bytes.fromhex(data) + b"#", 1) == (value, 1 + len(data) // 2)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff", b"\xff\xff\x80", b"\x80\x80\x80\x01"])
def test_varints_that_do_not_end(data):
    with refused("a varint does not end"):
        get_varint(b"#" + data, 1)


def test_small_columns_share_a_group():
    names = [("a", 63), ("b", 63), ("c", 64), ("d", 65), ("e", 1), ("f", 0), ("g", 1)]
    columns = [Column(name, bytes(length)) for name, length in names]
    assert [[column.name for column in group] for group in grouped(columns)] == [["a", "b"], ["c"], ["d"], ["e", "g"]]


def test_neighbouring_noise_shares_a_group():
    columns = [Column("a", b"1"), Column("b", b"2" * 99, noise=True), Column("c", b"3" * 99), Column("d", b"4" * 99), Column("e", b"")]
    assert [[column.name for column in group] for group in grouped(columns)] == [["a", "b"], ["c"], ["d"]]


def test_an_eighth_of_text_is_much():
    assert not much_text([Column("keys", b"k" * 10, text=True), Column("values", b"v" * 70)])
    assert much_text([Column("keys", b"k" * 6, text=True), Column("more", b"k" * 5, text=True), Column("values", b"v" * 70)])
    assert not much_text([])


# Ranks (sparse-v1.md, section 4)


def ranks_of(codes, look_back=8):
    """Return the ranks of one crop by the rule of the specification."""
    ranks = []
    for code in codes:
        rank = code
        for used in sorted(ranks[:look_back]):
            rank += used <= rank
        ranks.append(rank)
    return ranks


@pytest.mark.parametrize(
    "codes", [[0], [0, 0, 0, 0], [3, 1, 1, 0], list(range(12)), [5] * 14, [0] * 9 + [1, 0], [7, 6, 5, 4, 3, 2, 1, 0, 9, 8, 7]]
)
def test_ranks_by_the_rule_of_the_specification(codes):
    assert unpack_ranks(np.array([codes, codes])).tolist() == [ranks_of(codes)] * 2


@given(st.permutations(range(30)).map(lambda ranks: ranks[:12]))
def test_skipping_used_ranks(ranks):
    codes = np.array([[rank - sum(other < rank for other in ranks[: min(place, 8)]) for place, rank in enumerate(ranks)]])
    assert unpack_ranks(codes)[0].tolist() == ranks


@pytest.mark.parametrize(("num_classes", "width"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (2**31, 31)])
def test_bits_of_a_class_in_a_palette(num_classes, width):
    assert class_bits(num_classes) == width


def test_packing_with_palettes():
    """Class 900 in every crop, one of two others beside it: the most frequent class has the lowest rank, equal ones the lower class."""
    images = [[[900, 8], [7, 900]] * 50, [[3, 900], [900, 4], [900, 5]] * 30]
    packed = pack_indices(np.array([*images[0], *images[1]]), np.array([100, 90]), 1000)
    assert packed.sizes.tolist() == [3, 4]
    assert packed.palette.tolist() == [900, 7, 8, 900, 3, 4, 5]
    assert packed.codes.tolist() == [0, 1, 1, 0] * 50 + [1, 0, 0, 1, 0, 2] * 30


def test_packing_crops_that_keep_different_numbers_of_classes():
    indices = np.array([[900, 8, 7], [900, -1, -1], [8, 7, -1]] * 40)
    packed = pack_indices(indices, np.array([120]), 2**20)
    assert packed.sizes.tolist() == [3]
    assert packed.palette.tolist() == [7, 8, 900]
    assert packed.codes.tolist() == [2, 1, 0, 2, 1, 0] * 40


def test_packing_more_classes_than_ranks_look_back():
    indices = np.tile(np.arange(11)[::-1] * 1000, (200, 1))
    packed = pack_indices(indices, np.array([200]), 2**20)
    assert packed.palette.tolist() == list(range(0, 11000, 1000))
    assert packed.codes.reshape(200, 11)[7].tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    upwards = pack_indices(indices[:, ::-1], np.array([200]), 2**20)
    assert upwards.codes.reshape(200, 11)[7].tolist() == [0] * 9 + [1, 2]


def estimated_bits(column):
    """Return what a column takes with an entropy table of 6 bits a symbol for each of its planes."""
    total = 0.0
    for plane in range((max(column).bit_length() + 7) // 8):
        found = Counter(value >> 8 * plane & 255 for value in column)
        total += sum(count * math.log2(len(column) / count) for count in found.values()) + 6 * len(found)
    return total


def ranked(rows):
    """Return the codes of an image's crops, and how many classes its palette has."""
    frequency = Counter(c for row in rows for c in row)
    palette = sorted(frequency, key=lambda c: (-frequency[c], c))
    codes = []
    for row in rows:
        ranks = [palette.index(c) for c in row]
        codes += [rank - sum(used < rank for used in ranks[: min(place, 8)]) for place, rank in enumerate(ranks)]
    return codes, len(palette)


def test_palettes_are_there_if_they_are_estimated_to_pay():
    rng = np.random.default_rng(0)
    choices = Counter()
    for _ in range(150):
        num_classes, k, counts = int(rng.choice([30, 300, 70000])), int(rng.integers(1, 4)), rng.integers(1, 25, rng.integers(1, 4))
        chosen = [rng.choice(num_classes, int(rng.integers(k, 12)), replace=False) for _ in counts]
        images = [
            [rng.choice(classes, k, replace=False).tolist() for _ in range(count)] for classes, count in zip(chosen, counts, strict=True)
        ]
        entries = [c for rows in images for row in rows for c in row]
        codes, sizes = zip(*map(ranked, images), strict=True)
        codes = [code for of_image in codes for code in of_image]
        width = max(1, (num_classes - 1).bit_length())
        pays = estimated_bits(codes) + sum(sizes) * width + 16 * len(images) < estimated_bits(entries)
        packed = pack_indices(np.array([row for rows in images for row in rows]), counts, num_classes)
        assert (packed.palettes == OWN_PALETTES) == pays
        assert packed.codes.tolist() == (codes if pays else entries)
        choices[pays] += 1
    assert min(choices.values()) > 20


def test_packing_without_palettes_where_they_do_not_pay():
    packed = pack_indices(np.array([[5, 900], [7, -1], [8, 3]]), np.array([1, 2]), 1000)
    assert packed.palettes == NO_PALETTES
    assert packed.palette.tolist() == []
    assert packed.codes.tolist() == [5, 900, 7, 8, 3]


def test_a_palette_has_at_most_65535_classes():
    classes = np.random.default_rng(0).choice(2**31, 65536, replace=False)
    for size, has_palettes in ((65535, True), (65536, False)):  # however much a palette would save
        packed = pack_indices(np.tile(classes[:size, None], (6, 1)), np.array([6 * size]), 2**31)
        assert (packed.palettes == OWN_PALETTES) == has_palettes


TAILS = TailCodes(
    np.array([[2, 5, 900, -1], [1, -1, -1, -1], [-1] * 4]), np.array([[3, 0, 0, 0], [9, 0, 0, 0], [0] * 4]), np.array([4, 5, 255])
)
IN_ORDER = [[5, 900, 2, 0, 1, 3, 4, 6], [1, 0, 2, 3], [0, 1, 2, 3]]
"""How the palettes that follow from these tails begin: by level, then by class."""


def test_palettes_that_follow_from_tails():
    palettes = TailPalettes(TAILS)
    for image, classes in enumerate(IN_ORDER):
        ranks = np.arange(len(classes))
        assert palettes.ranks(np.full(len(classes), image), np.array(classes)).tolist() == ranks.tolist()
        assert palettes.classes(np.full(len(classes), image), ranks).tolist() == classes
        listed, levels = [row[image][TAILS.classes[image] >= 0].tolist() for row in TAILS[:2]]
        for longest in range(1, len(classes) + 1):
            assert one_palette(listed, bytes(levels), longest) == classes[:longest]


def test_ranks_and_classes_are_inverse_to_each_other():
    rng = np.random.default_rng(0)
    classes = np.array([np.sort(rng.choice(2000, 30, replace=False)) for _ in range(5)])
    palettes = TailPalettes(TailCodes(classes, rng.integers(0, 6, (5, 30)), np.zeros(5, np.int64)))
    image, wanted = np.repeat(np.arange(5), 2000), np.tile(np.arange(2000), 5)
    ranks = palettes.ranks(image, wanted)
    assert np.array_equal(np.sort(ranks.reshape(5, 2000), axis=1), np.tile(np.arange(2000), (5, 1)))
    assert np.array_equal(palettes.classes(image, ranks), wanted)


def test_packing_with_palettes_that_follow_from_tails():
    """What crops keep is what the tails list early; crops are few, so that a palette would cost more than it saves."""
    indices = np.array([[5, 2], [900, 5], [1, 0], [1, -1]])
    packed = pack_indices(indices, np.array([2, 2, 0]), 1000, TailPalettes(TAILS))
    assert packed.palettes == TAIL_PALETTES
    assert packed.codes.tolist() == [0, 1, 1, 0, 0, 0, 0]


def test_palettes_that_follow_from_tails_are_for_much_fewer_bits():
    """They take a reader longer than palettes that are stored; here they take a little less, or much less."""
    rng = np.random.default_rng(0)
    classes = np.sort(rng.choice(1000, 40, replace=False))
    tails = TailCodes(classes[None], np.arange(40)[None], np.array([50]))
    for places, palettes in ((rng.integers(0, 40, 4000), OWN_PALETTES), (rng.integers(0, 40, 60), TAIL_PALETTES)):
        packed = pack_indices(classes[places][:, None], np.array([len(places)]), 1000, TailPalettes(tails))
        own = pack_indices(classes[places][:, None], np.array([len(places)]), 1000)
        assert estimated_bits(places.tolist()) < estimated_bits(own.codes.tolist()) + len(own.palette) * 10 + 16
        assert packed.palettes == palettes


@pytest.mark.parametrize("row", [[1, 2, 1], [0, 0, 3], [3, -1, 3]])
def test_classes_twice_in_a_crop(row):
    with refused("a class is not below the number of classes, or appears twice in a crop"):
        check_distinct(np.array([[0, 1, 2], row]))


def test_distinct_classes():
    check_distinct(np.array([[1, 2, 0], [1, -1, -1], [3, 0, -1]]))


# Keys (section 5.4)


def test_keys_are_coded_against_the_key_before():
    keys = ["n01/a_12.png", "n01/b_12.png", "n01/b_12.png.png", "x", "größe", "grüße"]
    wanted = [
        (0, 0, b"n01/a_12.png"),
        (4, 7, b"b"),
        (12, 0, b".png"),
        (0, 0, b"x"),
        (0, 0, "größe".encode()),
        (3, 3, b"\xbc"),
    ]
    packed = b"".join(bytes([prefix, suffix, len(middle)]) + middle for prefix, suffix, middle in wanted)
    assert pack_keys(keys) == packed
    assert unpack_keys(packed, 6) == keys


XY = b"\x00\x00\x02xy"


def test_keys_share_no_byte_twice():
    """The key is a prefix and a suffix of the one before, which overlap there."""
    assert pack_keys(["aa", "aaa"]) == b"\x00\x00\x02aa\x02\x00\x01a"
    assert pack_keys(["aaa", "aa"]) == b"\x00\x00\x03aaa\x02\x00\x00"
    assert pack_keys(["aab", "ab"]) == b"\x00\x00\x03aab\x01\x01\x00"
    assert pack_keys([]) == b""
    assert unpack_keys(XY + b"\x01\x01\x01-", 2) == ["xy", "x-y"]
    assert unpack_keys(XY + b"\x01\x01\x00", 2) == ["xy", "xy"]
    assert unpack_keys(b"", 0) == []


def test_keys_of_any_length():
    longest = "k" * 4096
    assert pack_keys([longest]) == b"\x00\x00\x80\x20" + longest.encode()
    assert unpack_keys(pack_keys([longest, "k" * 4095 + "!"]), 2) == [longest, "k" * 4095 + "!"]


@given(st.lists(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()), min_size=1, max_size=10))
def test_keys_come_back(keys):
    assert unpack_keys(pack_keys(keys), len(keys)) == keys


DOES_NOT_FIT = "a key in the block does not fit"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x02\x01\x01a", DOES_NOT_FIT),  # of the two bytes of the key before
        (b"\x00\x03\x01a", DOES_NOT_FIT),
        (b"\x03\x00\x01a", DOES_NOT_FIT),
        (b"\x00\x00\x02a", DOES_NOT_FIT),
        (b"\x00\x00\x00", DOES_NOT_FIT),
        (b"\x01\x01\xff\x1f" + b"k" * 4095, DOES_NOT_FIT),
        (b"\x00\x00\x01a#", "expected the block to end after its keys, got 1 bytes more"),
        (b"\x00\x00\x01a" + b"#" * 20, "expected the block to end after its keys, got 20 bytes more"),
        (b"\x00\x00", "a varint does not end"),
    ],
)
def test_keys_that_are_refused(data, message):
    with refused(message):
        unpack_keys(XY + data, 2)


def test_keys_that_are_not_text():
    with pytest.raises(CorruptError, match=r"^a key is not UTF-8: .*0xff"):
        unpack_keys(XY + b"\x01\x01\x01\xff", 2)
    assert decode_key("größe".encode()) == "größe"


# Whole blocks, written by hand


def assert_same_images(found, wanted):
    assert found.keys == wanted.keys
    np.testing.assert_array_equal(found.sizes, wanted.sizes)
    np.testing.assert_array_equal(found.num_crops, wanted.num_crops)
    np.testing.assert_array_equal(found.crops, wanted.crops)
    np.testing.assert_array_equal(found.flips, wanted.flips)
    same_codes(found.codes, wanted.codes, 1)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_block_written_by_hand(name):
    block = BY_HAND[name]
    assert content_of(block.layout, block.images) == block.content
    assert_same_images(block.layout.unpack_all(block.content), block.images)


# Freedoms of a writer: other bytes that say the same


@pytest.mark.parametrize("name", SAID_DIFFERENTLY)
def test_what_a_reader_makes_of_other_bytes(name):
    block = SAID_DIFFERENTLY[name]
    assert_same_images(block.layout.unpack_all(block.content), block.images)


@pytest.mark.parametrize("block", [*BY_HAND.values(), *SAID_DIFFERENTLY.values()], ids=[*BY_HAND, *SAID_DIFFERENTLY])
def test_any_crops_of_a_block(block):
    """Crop 1 and 0 of image a, then crop 0 of image b twice, then all crops of both."""
    whole = block.images
    for slot, crops, wanted in (
        ([0, 1], [[1, 0], [0, 0]], [1, 0, 2, 2]),
        ([1, 0, 1], [[0], [1], [0]], [2, 1, 2]),
        ([1], None, [2]),
        ([1, 0], None, [2, 0, 1]),
    ):
        chosen = None if crops is None else np.array(crops)
        rows, found = block.layout.unpack([block.content], np.zeros(len(slot), int), np.array(slot), chosen)
        sizes, num_rows = found.image_sizes, found.image_rows
        np.testing.assert_array_equal(rows.crops, whole.crops[wanted])
        np.testing.assert_array_equal(rows.flips, whole.flips[wanted])
        np.testing.assert_array_equal(sizes, whole.sizes[slot])
        assert num_rows.tolist() == [whole.num_crops[image] if crops is None else len(crops[0]) for image in slot]
        kept = whole.codes.indices[wanted] >= 0
        found = rows.codes.indices
        np.testing.assert_array_equal(found, whole.codes.indices[wanted][:, : found.shape[1]])
        assert not kept[:, found.shape[1] :].any()
        if block.remainders is not None:
            np.testing.assert_array_equal(rows.codes.remainders, whole.codes.remainders[wanted])
        if block.tails is not None:
            np.testing.assert_array_equal(rows.codes.tail_of, np.repeat(np.arange(len(slot)), num_rows))


ALL_OF_ONE_CLASS = replace(
    THRESHOLD,
    label_fields=struct.pack("<BBBhB", 0, 1, 0, 5, 0),
    label_columns=bytes([9, 8, 7]),
    indices=[[9], [8], [7]],
    values=[[0]] * 3,
    remainders=[5] * 3,
)
WITHOUT_PALETTES = replace(
    PALETTES,
    label_fields=struct.pack("<BBhB", 0, 2, -1, 0),
    label_columns=planes([3, 299, 258, 4, 5, 6, 7, 8, 9], 2) + bytes([1, 4, 2, 5, 3, 6]),
    indices=[[3, 299, 258], [4, 5, 6], [7, 8, 9]],
    values=[[0, 1, 5], [0, 2, 7], [0, 3, 9]],
    remainders=[4, 6, 8],
)


@pytest.mark.parametrize(
    "blocks",
    [
        [ALL_OF_ONE_CLASS, THRESHOLD, WIDE_THRESHOLD],
        [LOG8, WIDE_LOG8, PLAIN_CROPS],
        [PALETTES, WITHOUT_PALETTES],
        [TAIL, TAIL_WITH_PALETTES],
    ],
)
def test_blocks_of_different_widths_at_once(blocks):
    """In any order of the blocks, crop 0 of image b and crops 1 and 0 of image a of each."""
    for order in itertools.permutations(blocks):
        contents = [block.content for block in order]
        block_of, slot = np.repeat(np.arange(len(order)), 3), np.tile([1, 0, 0], len(order))
        rows, _ = order[0].layout.unpack(contents, block_of, slot, np.tile([[0], [1], [0]], (len(order), 1)))
        for place, block in enumerate(order):
            mine = slice(3 * place, 3 * place + 3)
            wanted = block.images
            np.testing.assert_array_equal(rows.crops[mine], wanted.crops[[2, 1, 0]])
            width = wanted.codes.indices.shape[1]
            np.testing.assert_array_equal(rows.codes.indices[mine][:, :width], wanted.codes.indices[[2, 1, 0]])
            kept = wanted.codes.indices[[2, 1, 0]] >= 0
            np.testing.assert_array_equal(rows.codes.values[mine][:, :width][kept], wanted.codes.values[[2, 1, 0]][kept])
            if wanted.codes.remainders is not None:
                np.testing.assert_array_equal(rows.codes.remainders[mine], wanted.codes.remainders[[2, 1, 0]])
            if isinstance(wanted.codes.tails, FullTailCodes):
                for found, array in zip(rows.codes.tails, wanted.codes.tails, strict=True):
                    np.testing.assert_array_equal(found[mine], array[[1, 0, 0]])
            elif wanted.codes.tails is not None:
                listed = [row[row >= 0].tolist() for row in rows.codes.tails.classes[mine]]
                assert listed == [wanted.codes.tails.classes[image][wanted.codes.tails.classes[image] >= 0].tolist() for image in (1, 0, 0)]


@pytest.mark.parametrize("block", [*BY_HAND.values(), *SAID_DIFFERENTLY.values()], ids=[*BY_HAND, *SAID_DIFFERENTLY])
def test_no_crops_of_a_block(block):
    rows, found = block.layout.unpack([block.content], np.zeros(1, int), np.zeros(1, int), np.zeros((1, 0), int))
    sizes, num_rows = found.image_sizes, found.image_rows
    assert (len(rows.crops), len(rows.flips), len(rows.codes.indices)) == (0, 0, 0)
    assert (sizes.tolist(), num_rows.tolist()) == ([list(block.sizes[0])], [0])


# Damage inside a block whose checksum is right (sections 5.2 to 5.4; sparse-v1.md, section 8)

SHORT = "the columns of a block are longer than the block"
OUTSIDE = "a crop is not inside its image"
WIDE = "a column is wider than it may be"
TABLE = "a block has no images, too many, or an incomplete table"
BAD_CLASS = "a class is not below the number of classes, or appears twice in a crop"
BAD_PALETTE = "a class of a palette is not below the number of classes, or appears in it twice"


def crop_fields(height_min=2, height_max=10, ratio_min=383, ratio_max=487, crop_width=2):
    return struct.pack("<HHHHB", height_min, height_max, ratio_min, ratio_max, crop_width)


def one_pixel(**parts):
    """Return a block with one crop that is an image of one pixel: word 0 says so, whatever the fields."""
    return replace(
        NO_WIDTH,
        num_images=1,
        table=struct.pack("<HHH", 0, 1, 1),
        keys=b"\x00\x00\x01a",
        flip_bytes=b"\x00",
        **parts,
    )


BAD_MAIN_CLASS = "the main class of an image is not below the number of classes"
REFUSED = [
    (replace(LOG8, num_images=0), "a block has no images"),
    (replace(LOG8, num_images=257, keys=bytes(2000)), TABLE),
    (replace(LOG8, table=b"\0", flip_bytes=b"", crop_columns=b"", label_columns=b"", keys=b""), TABLE),
    *((replace(LOG8, crop_fields=crop_fields(crop_width=width)), "crop_width is not 0 to 6 or 8") for width in (7, 9, 255)),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 255, 2, 0, 2)), "undefined palette format"),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 0, 255, 0, 2)), WIDE),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 0, 2, 0, 255)), WIDE),
    (replace(THRESHOLD, label_fields=struct.pack("<BBBhB", 0, 1, 255, 0, 1)), WIDE),
    (replace(TAIL, label_fields=b"\x00\x01\xff"), WIDE),
    (replace(LOG8, crop_fields=crop_fields(height_min=11)), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(0, 0, 0, 65535, 0)), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(2, 2, 0, 65535, 0)), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(1, 1, 512, 65535, 0)), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(1, 1, 0, 0, 0)), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(1, 1, 0, 65535, 1), crop_columns=b"\x01"), OUTSIDE),
    (one_pixel(crop_fields=crop_fields(1, 1, 0, 65535, 6), crop_columns=b"\xff" * 6), OUTSIDE),
    *(
        (one_pixel(crop_fields=crop_fields(1, 1, 0, 65535, 8), crop_columns=struct.pack("<4H", *crop)), OUTSIDE)
        for crop in ((0, 0, 0, 1), (0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 1), (0, 0, 2, 1), (0, 0, 1, 2))
    ),
    (replace(LOG8, flip_bytes=b"\x0d"), "unused flip bits are not 0"),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 2, 2, 0, 2)), "undefined palette format"),
    (replace(TAIL, label_fields=b"\x03\x01\x02"), "undefined palette format"),
    (replace(TAIL_OF_ALL, label_fields=b"\x02" + TAIL_OF_ALL.label_fields[1:]), "undefined palette format"),
    (
        replace(
            PALETTES_OF_TAILS, label_fields=b"\x02\x02\x02", label_columns=planes([300, 5, 6], 2) + PALETTES_OF_TAILS.label_columns[3:]
        ),
        "a rank is not in the palette",
    ),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 0, 5, 0, 2)), WIDE),
    (replace(LOG8, label_fields=struct.pack("<BBhB", 0, 2, 0, 3)), WIDE),
    (replace(THRESHOLD, label_fields=struct.pack("<BBBhB", 0, 1, 3, 0, 1)), WIDE),
    (replace(TAIL, label_fields=b"\x00\x01\x05"), WIDE),
    (replace(HARD, label_columns=planes([300, 0, 7], 2)), BAD_CLASS),
    (replace(LOG8, label_columns=bytes(6) + planes([299, 0, 5, 5, 7, 8], 2) + bytes(3)), BAD_CLASS),
    (replace(THRESHOLD, num_classes=2), "a crop keeps more classes than there are"),
    (
        replace(PALETTES, label_columns=PALETTES.label_columns[:3] + bytes([0, 0, 1]) + PALETTES.label_columns[6:]),
        "a rank is not in the palette",
    ),
    (replace(PALETTES, num_classes=299), BAD_PALETTE),
    (replace(PALETTES, label_columns=PALETTES.label_columns[:-7] + bits([7, 299, 7, 1, 299, 5], 9)), BAD_PALETTE),
    (
        replace(PALETTES, label_columns=PALETTES.label_columns[:-1] + bytes([PALETTES.label_columns[-1] | 64])),
        "unused bits of the palettes are not 0",
    ),
    (replace(TAIL, codec="marginal_smoothing:k=1,values=f32,tail=2"), "a tail lists more classes than the codec says"),
    (replace(TAIL, num_classes=299), "a class of a tail is not below the number of classes"),
    (replace(TAIL, label_columns=TAIL.label_columns[:-2] + bytes([0, 44])), "a class appears twice in a tail"),
    (replace(TAIL_OF_ALL, label_columns=TAIL_OF_ALL.label_columns[:-11] + b"\4" + TAIL_OF_ALL.label_columns[-10:]), BAD_MAIN_CLASS),
    (replace(TAIL, label_columns=TAIL.label_columns[:-4] + bytes([255, 2, 253, 44])), "a class of a tail has no level"),
    (replace(FRACTIONS_F16, table=struct.pack("<HH HH HH", 1, 0, 0, 4, 1, 4)), "an image has a height or a width, but not both"),
    (replace(FRACTIONS_F16, table=struct.pack("<HH HH HH", 1, 0, 0, 4, 0, 0)), "an image has a height or a width, but not both"),
    (replace(FRACTIONS_F16, crop_columns=planes([0, 0x7C00, 0], 2) + bytes(18)), "a crop fraction is not finite"),
    (replace(LOG8, keys=b"\x00\x00\x01a\x00\x00\x01"), "a key in the block does not fit"),
    (replace(LOG8, keys=LOG8.keys + b"!"), "expected the block to end after its keys, got 1 bytes more"),
]


@pytest.mark.parametrize(("block", "message"), REFUSED)
def test_blocks_that_are_refused(block, message):
    with refused(message):
        block.layout.unpack_all(block.content)


@pytest.mark.parametrize("size", range(1, 9))
def test_unused_bits_of_palettes_are_0(size):
    """Palettes of classes of 9 bits leave 7, 6, ... 0 bits of their last byte."""
    palette = bits([299, *range(size - 1)], 9)
    block = one_pixel(codec="hard", label_fields=b"\1\0", label_columns=planes([size], 2) + palette)
    assert block.layout.unpack_all(block.content).codes.indices.tolist() == [[299]]
    for bit in range(9 * size % 8, 8 if size < 8 else 0):
        damaged = planes([size], 2) + palette[:-1] + bytes([palette[-1] | 1 << bit])
        with refused("unused bits of the palettes are not 0"):
            block.layout.unpack_all(replace(block, label_columns=damaged).content)


@pytest.mark.parametrize("name", [*BY_HAND, *SAID_DIFFERENTLY])
def test_blocks_that_are_cut_off(name):
    block = {**BY_HAND, **SAID_DIFFERENTLY}[name]
    content = block.content
    for length in range(len(content)):
        with pytest.raises(
            CorruptError,
            match=r"^(a block (has no images|is shorter than its fields)|a block has no images, too many|the columns of|a varint|a key)",
        ):
            block.layout.unpack_all(content[:length])


def test_what_the_index_says_and_a_block_does_not_hold():
    def read(slot, crop):
        LOG8.layout.unpack([LOG8.content], np.zeros(1, int), np.array([slot]), np.array([[crop]]))

    read(0, 1)
    read(1, 0)
    with refused("a block holds fewer images than the index says"):
        read(2, 0)
    with refused("an image has fewer crops in its block than the index says"):
        read(0, 2)
    with refused("an image has fewer crops in its block than the index says"):
        read(1, 1)


def test_a_block_that_is_shorter_than_its_fields():
    head = LOG8.layout.fields.dtype.itemsize
    assert head == 2 + 9 + 5
    for length, message in ((0, "a block is shorter than its fields"), (head - 1, "a block is shorter than its fields"), (head, TABLE)):
        with refused(message):
            LOG8.layout.unpack([LOG8.content[:length]], np.zeros(1, int), np.zeros(1, int), None)


# Limits (section 13)


def pixels_of_one_class(counts):
    """Return the content of a block of codec `hard` whose images have one pixel, and these numbers of crops."""
    num_images, num_crops = len(counts), sum(counts)
    fields = struct.pack("<H", num_images) + crop_fields(1, 1, 0, 65535, 0) + b"\0\0"
    table = struct.pack(f"<{num_images}H", *(count - 1 for count in counts)) + b"\1\0" * 2 * num_images
    return fields + table + bytes((num_crops + 7) // 8) + b"".join(b"\0\0\1" + bytes([65 + number % 26]) for number in range(num_images))


@pytest.mark.parametrize("counts", [[65535], [65534, 1], [1] * 256])
def test_the_largest_blocks(counts):
    found = HARD.layout.unpack_all(pixels_of_one_class(counts))
    assert found.num_crops.tolist() == counts
    assert len(found.crops) == sum(counts)


@pytest.mark.parametrize("counts", [[65535, 1], [256] * 256])
def test_too_many_crops_in_a_block(counts):
    with refused("a block has more crops than it may have"):
        HARD.layout.unpack_all(pixels_of_one_class(counts))


def test_too_many_images_in_a_block():
    with refused(TABLE):
        HARD.layout.unpack_all(pixels_of_one_class([1] * 257))


def content_of_thresholds(counts):
    """Return the content of a block with one image of one pixel whose crops keep so many classes each; their labels are zeros."""
    fields = struct.pack("<H", 1) + crop_fields(1, 1, 0, 65535, 0) + b"\0\1\2"
    table = struct.pack("<HHH", len(counts) - 1, 1, 1)
    return fields + table + bytes((len(counts) + 7) // 8) + planes([n - 1 for n in counts], 2) + bytes(3 * sum(counts))


def thresholds_of(counts, num_classes=70000):
    """Return the classes of the last crop of such a block."""
    layout = Layout(Codec.parse("marginal_smoothing:t=0.001,values=f16"), num_classes)
    rows, _ = layout.unpack([content_of_thresholds(counts)], np.zeros(1, int), np.zeros(1, int), np.array([[len(counts) - 1]]))
    return rows.codes.indices


def test_how_large_the_table_of_a_block_may_be():
    assert thresholds_of([2048] + [1] * 2047).tolist() == [[0]]
    with refused("a crop keeps too many classes for the number of crops in its block"):
        thresholds_of([2049] + [1] * 2047)


def test_each_block_has_a_table_of_its_own():
    """The widest crop of one block and the number of crops of another do not count together."""
    layout = Layout(Codec.parse("marginal_smoothing:t=0.001,values=f16"), 70000)
    full, many, wasteful = [2048] + [1] * 2047, [1] * 5000, [2049] + [1] * 2047
    block = np.arange(3)
    rows, _ = layout.unpack([content_of_thresholds(counts) for counts in (many, full, many)], block, 0 * block, np.full((3, 1), 1))
    assert rows.codes.indices.tolist() == [[0]] * 3
    for order in itertools.permutations([many, full, wasteful]):
        with refused("a crop keeps too many classes for the number of crops in its block"):
            layout.unpack([content_of_thresholds(counts) for counts in order], block, 0 * block, np.full((3, 1), 1))


def test_a_full_table_may_be_larger():
    assert thresholds_of([65535] * 65).shape == (1, 65535)
    with refused("a crop keeps too many classes for the number of crops in its block"):
        thresholds_of([65535] * 64 + [65534])


def test_a_crop_keeps_at_most_65535_classes_and_no_more_than_there_are():
    assert thresholds_of([65535]).shape == (1, 65535)
    assert thresholds_of([300], 300).shape == (1, 300)
    for counts, num_classes in (([65536], 70000), ([301], 300), ([1, 301, 1], 300)):
        with refused("a crop keeps more classes than there are"):
            thresholds_of(counts, num_classes)


@pytest.mark.parametrize(("k", "fits"), [(9, True), (10, False)])
def test_no_more_than_9_classes_without_bytes(k, fits):
    fields = struct.pack("<H", 1) + crop_fields(1, 1, 0, 65535, 0) + b"\1\0" + struct.pack("<HHH", 0, 1, 1) + b"\0"
    content = fields + bytes(2 * k) + struct.pack("<H", k) + bits(range(k), 4) + b"\0\0\1a"
    layout = Layout(Codec.parse(f"marginal_smoothing:k={k},values=f16"), 12)
    if fits:
        assert layout.unpack_all(content).codes.indices.tolist() == [list(range(9))]
    else:
        with refused(BAD_CLASS):
            layout.unpack([content], np.zeros(1, int), np.zeros(1, int), None)


# Crops (section 5.3)


def bounds_of(crops, sizes):
    """Pack crops and return their fields."""
    crops, sizes = np.array(crops), np.array(sizes)
    return crop_mode("pixels", None).pack(crops, np.zeros(len(crops), bool), sizes[:, 0], sizes[:, 1])[0]


@pytest.mark.parametrize(
    ("crops", "sizes"),
    [
        ([(2, 3, 4, 5), (0, 0, 10, 20)], [(10, 20), (10, 20)]),
        ([(0, 0, 7, 3), (1, 1, 100, 65), (5, 0, 33, 200)], [(500, 300)] * 3),
        ([(0, 0, 1, 1)], [(1, 1)]),
        ([(0, 0, 300, 1)], [(300, 9)]),
        ([(0, 0, 1, 255), (0, 0, 255, 255)], [(300, 300)] * 2),
    ],
)
def test_bounds_of_ratios_are_as_close_as_they_can_be(crops, sizes):
    fields = bounds_of(crops, sizes)
    shapes = [(height, width) for _, _, height, width in crops]
    assert fields["height_min"] == min(height for height, _ in shapes)
    assert fields["height_max"] == max(height for height, _ in shapes)
    assert fields["ratio_max"] == min(r for r in range(65535) if all(width <= -(-height * r // 256) for height, width in shapes))
    closest = max(r for r in range(65535) if all(width >= height * r // 256 for height, width in shapes))
    assert fields["ratio_min"] == min(closest, fields["ratio_max"])


def test_crops_that_are_too_wide_for_a_bound():
    assert bounds_of([(0, 0, 1, 256)], [(9, 300)])["ratio_max"] == 65281
    assert bounds_of([(0, 0, 1, 257)], [(9, 300)]) == {
        "height_min": 1,
        "height_max": 1,
        "ratio_min": 65535,
        "ratio_max": 65535,
        "crop_width": 1,
    }


@pytest.mark.parametrize(("size", "crop_width"), [((1, 1), 0), ((16, 16), 1), ((16, 17), 2), ((65535, 65535), 4)])
def test_crop_words_take_the_fewest_bytes(size, crop_width):
    height, width = size
    assert bounds_of([(height - 1, width - 1, 1, 1)], [size])["crop_width"] == crop_width


def content_of_crops(crops, size, mode="pixels"):
    """Return a layout, and the content of a block that holds one image with these crops."""
    codes = SparseCodes(np.zeros((len(crops), 1), int), None, None)
    images = BlockImages(["a"], np.array([size]), np.array([len(crops)]), np.array(crops), np.zeros(len(crops), bool), codes)
    layout = Layout(Codec.parse("hard"), 2, mode)
    return layout, content_of(layout, images)


@pytest.mark.parametrize(
    ("crops", "size"),
    [
        ([(0, 0, 40000, 60000), (5, 6, 50000, 40000)], (60000, 65535)),
        ([(0, 3, 1, 300), (2, 7, 1, 280)], (9, 2000)),  # too wide for a bound: any width to that of the image is possible
        ([(3, 5, 128, 32768), (0, 9, 128, 32000)], (200, 65535)),  # the bound that stands for none
        ([(5, 7, 256, 100), (6, 8, 256, 99)], (300, 300)),  # a bound without rounding
        ([(1, 2, 3 + number, 4) for number in range(8)], (50, 40)),
        ([(1, 2, 3 + number, 4) for number in range(16)], (50, 40)),
    ],
)
def test_crops_come_back(crops, size):
    for array in (np.array(crops), np.array(crops, np.int32), np.array(crops, np.uint16)):
        layout, content = content_of_crops(array, size)
        np.testing.assert_array_equal(layout.unpack_all(content).crops, crops)
        (found,) = minimal_reader.read_block(store_columns([content]), {"codec": "hard", "num_classes": 2, "crops": "pixels"})
        np.testing.assert_array_equal(found.crops, crops)


@pytest.mark.parametrize("mode", ["fractions:f16", "fractions:f32"])
def test_fractions_of_8_crops_come_back(mode):
    crops = np.arange(32).reshape(8, 4) / 32
    layout, content = content_of_crops(crops, (0, 0), mode)
    np.testing.assert_array_equal(layout.unpack_all(content).crops, crops)
    with refused(SHORT):
        layout.unpack([content[: -len("...a") - 1]], np.zeros(1, int), np.zeros(1, int), np.array([[0]]))


def test_crop_words_of_8_bytes():
    """Crops of every height and width of the largest image: the word does not fit into 63 bits."""
    crops = [(0, 0, 1, 65535), (0, 0, 65535, 1), (32767, 32767, 32768, 32768), (32000, 40000, 20000, 25535)]
    for dtype in (np.int64, np.int32, np.uint16):
        layout, content = content_of_crops(np.array(crops, dtype), (65535, 65535))
        assert layout.fields.struct.unpack_from(content)[5] == 8
        np.testing.assert_array_equal(layout.unpack_all(content).crops, crops)


@pytest.mark.parametrize("num_crops", [1, 7, 8, 9, 16, 17])
def test_unused_flip_bits_are_0(num_crops):
    """Behind the flips stands a column of classes 255, none of whose bits is taken for one of a flip."""
    fields = struct.pack("<H", 1) + crop_fields(1, 1, 0, 65535, 0) + b"\0\1" + struct.pack("<HHH", num_crops - 1, 1, 1)
    flips, rest = bits([1] * num_crops, 1), b"\xff" * num_crops + b"\0\0\1a"
    assert HARD.layout.unpack_all(fields + flips + rest).flips.tolist() == [True] * num_crops
    for bit in range(num_crops % 8, 8 if num_crops % 8 else 0):
        with refused("unused flip bits are not 0"):
            HARD.layout.unpack_all(fields + flips[:-1] + bytes([flips[-1] | 1 << bit]) + rest)


def test_modes_of_crops():
    assert CROP_MODES == ("pixels", "fractions:f32", "fractions:f16", "derived")
    for name in CROP_MODES[:3]:
        assert crop_mode(name, None) is STORED_CROPS[name]
    assert crop_mode("derived", SAMPLER).sampler is SAMPLER
    types = [STORED_CROPS["pixels"].dtype, STORED_CROPS["fractions:f32"].dtype, STORED_CROPS["fractions:f16"].dtype]
    assert [*types, crop_mode("derived", SAMPLER).dtype] == [np.dtype(name) for name in ("<i4", "<f4", "<f2", "<i4")]
    for block in (LOG8, FRACTIONS_F16, FRACTIONS_F32):
        assert block.layout.unpack_all(block.content).crops.dtype == STORED_CROPS[block.crop_mode].dtype
        assert block.layout.unpack_all(block.content).flips.dtype == np.bool_
        assert not block.layout.derived


def derived_block():
    """Return a block of derived crops, and those crops and flips."""
    sampled = [SAMPLER.sample("a", (100, 80), range(9)), SAMPLER.sample("größe", (1, 1), range(2))]
    crops, flips = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
    words = crops.astype("<u2").tobytes() + bits(flips.astype(int).tolist(), 1)
    block = replace(
        HARD,
        crop_mode="derived",
        crop_fields=struct.pack("<I", zlib.crc32(words)),
        table=struct.pack("<HH HH HH", 8, 1, 100, 1, 80, 1),
        crop_columns=b"",
        flip_bytes=b"",
        label_fields=b"\0\0",
        label_columns=b"",
        keys=b"\0\0\1a" + b"\0\0\7" + "größe".encode(),
    )
    return block, crops, flips


def test_derived_crops():
    block, crops, flips = derived_block()
    assert block.layout.derived
    found = block.layout.unpack_all(block.content)
    np.testing.assert_array_equal(found.crops, crops)
    np.testing.assert_array_equal(found.flips, flips)
    assert found.crops.dtype == np.int32
    assert content_of(block.layout, found) == block.content
    assert crops_crc32(crops, flips) == struct.unpack("<I", block.crop_fields)[0]
    streams = np.array([crop_stream("größe"), crop_stream("a")])
    rows, _ = block.layout.unpack([block.content], np.zeros(2, int), np.array([1, 0]), np.array([[1], [8]]), streams)
    np.testing.assert_array_equal(rows.crops, crops[[10, 8]])
    np.testing.assert_array_equal(rows.flips, flips[[10, 8]])


def test_a_reader_needs_no_keys():
    block, crops, _ = derived_block()
    content = block.content[: -len(block.keys)]
    rows, _ = block.layout.unpack([content], np.zeros(1, int), np.zeros(1, int), np.array([[3]]), np.array([crop_stream("a")]))
    np.testing.assert_array_equal(rows.crops, crops[[3]])


def test_one_derived_crop():
    crops, flips = SAMPLER.sample("a", (100, 80), range(1))
    checksum = struct.pack("<I", crops_crc32(crops, flips))
    content = struct.pack("<H", 1) + checksum + b"\0\0" + struct.pack("<HHH", 0, 100, 80) + b"\0\0\1a"
    np.testing.assert_array_equal(derived_block()[0].layout.unpack_all(content).crops, crops)


def test_derived_crops_that_are_refused():
    block, _, _ = derived_block()
    with refused("the crops that the sampler gives are not those that were labelled"):
        block.layout.unpack_all(replace(block, crop_fields=bytes(4)).content)
    for sides in ((100, 0, 80, 1), (100, 1, 80, 0)):
        no_pixels = replace(block, table=struct.pack("<6H", 8, 1, *sides))
        with refused(OUTSIDE):
            no_pixels.layout.unpack_all(no_pixels.content)


# Fields (field-v1.md, sections 2 and 6)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_written_by_hand(name):
    block = FIELDS[name]
    assert_same_images(block.layout.unpack_all(block.content), block.images)
    if block is not WIDE_FIELD:
        assert content_of(block.layout, block.images) == block.content


def field_of(codes, image):
    """Return the field of an image as plain numbers, without padding."""
    listed = codes.classes[image] >= 0
    numbers = codes.classes[image, listed], codes.levels[image, listed], codes.slopes[image][:, listed].T
    return [array.tolist() for array in numbers] + [codes.fitted[image].tolist(), codes.unseen[image].tolist()]


@pytest.mark.parametrize("name", FIELDS)
def test_any_crops_of_fields(name):
    """Each image has its field, whichever of its crops are wanted, and these have their places."""
    block = FIELDS[name]
    whole = block.images
    for slot, crops, wanted in (
        ([0, 1], [[1, 0], [0, 0]], [1, 0, 2, 2]),
        ([1, 0, 1], [[0], [1], [0]], [2, 1, 2]),
        ([1, 0], None, [2, 0, 1]),
    ):
        chosen = None if crops is None else np.array(crops)
        rows, found = block.layout.unpack([block.content], np.zeros(len(slot), int), np.array(slot), chosen)
        assert [field_of(rows.codes, place) for place in range(len(slot))] == [field_of(whole.codes, image) for image in slot]
        np.testing.assert_array_equal(rows.codes.edges, whole.codes.edges[wanted])
        np.testing.assert_array_equal(rows.codes.field_of, np.repeat(np.arange(len(slot)), found.image_rows))
        np.testing.assert_array_equal(rows.crops, whole.crops[wanted])


def test_fields_of_several_blocks_at_once():
    """Of different widths and lengths, in any order, image b before image a."""
    for order in itertools.permutations([FIELD, WIDE_FIELD, FIELD_WITHOUT_WIDTH]):
        contents = [block.content for block in order]
        block_of, slot = np.repeat(np.arange(3), 2), np.tile([1, 0], 3)
        rows, _ = FIELD.layout.unpack(contents, block_of, slot, np.zeros((6, 1), int))
        wanted = [field_of(block.images.codes, image) for block in order for image in (1, 0)]
        assert [field_of(rows.codes, place) for place in range(6)] == wanted


def test_fields_without_the_crops_that_are_stored():
    """Rows for crops that a caller has: as many as it likes, of any images."""
    codes, rows = FIELD.layout.unpack_at([WIDE_FIELD.content, FIELD.content], np.array([1, 0]), np.array([0, 1]), 5)
    assert [field_of(codes, place) for place in (0, 1)] == [field_of(FIELD.images.codes, image) for image in (0, 1)]
    assert (rows.owner.tolist(), rows.image_sizes.tolist()) == ([0] * 5 + [1] * 5, [[10, 20], [4, 4]])


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_cut_off(name):
    block = FIELDS[name]
    for length in range(len(block.content)):
        with pytest.raises(
            CorruptError, match=r"^(a block (has no images|is shorter)|a block has no images, too many|the columns of|a varint|a key)"
        ):
            block.layout.unpack_all(block.content[:length])


BAD_FIELD = "the classes of a field do not ascend below the number of classes"
NONE_OR_ALL = "a field lists no class, or all"


def with_field(first, end, data):
    """Return the block of fields with other bytes in its label columns."""
    columns = FIELD.label_columns
    return replace(FIELD, label_columns=columns[:first] + data + columns[end:])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (replace(FIELD, label_fields=b"\x05"), WIDE),
        (replace(FIELD, num_classes=299), BAD_FIELD),
        (with_field(8, 14, planes([7, 0, 5], 2)), BAD_FIELD),  # 7 twice
        (with_field(8, 14, planes([7, 292, 300], 2)), BAD_FIELD),
        (with_field(17, 20, bytes([1, 0b1000010, 128])), "bit 7 of a mask of slopes is set"),
        (with_field(20, 23, b"\x01\x00\x01"), "a stored slope is 0"),
        (with_field(17, 20, bytes([1, 127, 127])), SHORT),
        (with_field(0, 14, planes([3, 0], 2) + bytes(4) + planes([7, 1, 1], 2)), NONE_OR_ALL),
        (replace(FIELD, label_columns=bytes(8), keys=b"\0\0\1a\0\0\1b"), NONE_OR_ALL),
        (replace(FIELD_WITHOUT_WIDTH, num_classes=1), NONE_OR_ALL),
    ],
)
def test_fields_that_are_refused(block, message):
    with refused(message):
        block.layout.unpack_all(block.content)
    with refused(message):
        block.layout.unpack([block.content], np.zeros(2, int), np.array([0, 1]), None)


def test_a_field_of_all_classes():
    """Three classes, of which image a lists two, and image b one; of two classes, image a may list one."""
    three = replace(FIELD, num_classes=3, label_columns=FIELD.label_columns[:8] + planes([1, 1, 2], 2) + FIELD.label_columns[14:])
    assert field_of(three.layout.unpack_all(three.content).codes, 0)[0] == [1, 2]
    with refused(BAD_FIELD):
        replace(three, num_classes=2).layout.unpack_all(three.content)
    two = replace(three, num_classes=2, label_columns=three.label_columns[:8] + planes([0, 1, 1], 2) + three.label_columns[14:])
    with refused(NONE_OR_ALL):
        two.layout.unpack_all(two.content)


def content_of_fields(counts, listed):
    """Return the content of a block of images of one pixel with so many crops and listed classes each; all classes have level 1."""
    num_images, total = len(counts), sum(listed)
    fields = struct.pack("<H", num_images) + crop_fields(1, 1, 0, 65535, 0) + b"\1"
    table = struct.pack(f"<{num_images}H", *(count - 1 for count in counts)) + b"\1\0" * 2 * num_images
    steps = b"".join(b"\0" + b"\1" * (count - 1) for count in listed)
    columns = planes(listed, 2) + bytes(2 * num_images) + steps + b"\1" * total + bytes(total)
    keys = b"".join(b"\0\0\1" + bytes([65 + number % 26]) for number in range(num_images))
    return fields + table + bytes((sum(counts) + 7) // 8) + columns + keys


def test_how_large_the_tables_of_fields_may_be():
    """Images times eight times the most classes, or crops times these, are 2^22 at most: each block by itself."""
    layout = Layout(Codec.parse("field"), 70000)
    zero = np.zeros(1, int)

    def listed_by_the_last(blocks):
        contents = [content_of_fields(*block) for block in blocks]
        codes, _ = layout.unpack_at(contents, np.arange(len(blocks)), np.array([len(counts) - 1 for counts, _ in blocks]), 1)
        return (codes.classes >= 0).sum(axis=1).tolist()

    by_images, by_crops = ([1] * 128, [4096] + [1] * 127), ([1024, 3072], [1024, 1])
    assert listed_by_the_last([by_images, by_crops, ([1], [65535])]) == [1, 1, 65535]
    for wasteful in (
        ([1] * 128, [4097] + [1] * 127),
        ([1024, 3072], [1025, 1]),
        ([1024, 3073], [1024, 1]),
        ([1] * 129, [4096] + [1] * 128),
    ):
        with refused("a block has too many images or crops for the longest of its fields"):
            layout.unpack([content_of_fields(*wasteful)], zero, zero, np.zeros((1, 1), int))
        for order in itertools.permutations([by_images, wasteful]):
            with refused("a block has too many images or crops for the longest of its fields"):
                listed_by_the_last(order)


def test_columns_of_fields_say_what_they_are():
    columns = FIELD.layout.pack(FIELD.images)
    names = ["counts", "counts", "fit", "fit", "classes", "classes", "levels", "masks", "slopes", "keys"]
    assert [column.name for column in columns][-len(names) :] == names
    fields = FIELD.layout.labels.pack(FIELD_WITHOUT_WIDTH.codes, np.array([2, 1]))[0]
    assert fields == {"class_width": 0}
    wide = FIELD.codes._replace(classes=np.array([[7, 70000], [5, -1]]))
    assert FIELD.layout.labels.pack(wide, np.array([2, 1]))[0] == {"class_width": 3}


# Dense labels (dense-v1.md)


@pytest.mark.parametrize(("codec", "width"), [("dense", 4), ("dense:f16", 2)])
def test_dense_labels(codec, width):
    vectors = [[1, 2**8 * width, 2 ** (8 * width) - 1], [4, 5, 6], [7, 8, 0xABCD]]
    block = replace(
        HARD, codec=codec, num_classes=3, label_fields=b"", label_columns=planes([number for vector in vectors for number in vector], width)
    )
    codes = np.array(vectors, f"<u{width}")
    assert content_of(block.layout, replace(HARD.images, codes=codes)) == block.content
    found = block.layout.unpack_all(block.content)
    np.testing.assert_array_equal(found.codes, codes)
    assert found.codes.dtype == codes.dtype
    rows, _ = block.layout.unpack([block.content] * 2, np.array([1, 0]), np.array([1, 0]), np.array([[0, 0], [1, 0]]))
    np.testing.assert_array_equal(rows.codes, codes[[2, 2, 1, 0]])
    with refused(SHORT):
        block.layout.unpack([block.content[: -len(block.keys) - 1]], np.zeros(1, int), np.zeros(1, int), None)


def log_images(profile, shift, components, coefficients, digits, exceptions, refinements):
    """Return the codes of an image; digits as text, one for each class."""
    rows = [[int(digit) for digit in row] for row in digits]
    packed = [[sum(digit << 2 * i for i, digit in enumerate(row[at : at + 4])) for at in range(0, len(row), 4)] for row in rows]
    counts = np.array([row.count(3) for row in rows])
    arrays = np.int16(profile), shift, np.int8(components).reshape(-1, len(profile)), np.int8(coefficients).reshape(len(rows), -1)
    return ImageLogs(*arrays, np.uint8(packed), counts, np.array(exceptions, int), np.int8(refinements))


LOGS = (
    log_images(
        [0, -4, 100, 7, 300], 2, [[1, -2, 3, -4, 127]], [[5], [-128]], ["01230", "33000"], [7, 0, 256], [[1, 2, 3, 4], [0, -1, 0, 0]]
    ),
    log_images([-300, 0, 0, 1, 2], 0, [], [], ["00020"], [], [[0, 0, 0, -128]]),
)
LOG_COLUMNS = (
    bytes([1, 0, 2, 0])
    + planes([0, -4 % 65536, 100, 7, 300, -300 % 65536, 0, 0, 1, 2], 2)
    + bytes([1, 254, 3, 252, 127, 5, 128])
    + bytes([0b11100100, 0, 0b00001111, 0, 0b10000000, 0])
    + bytes([1, 2, 0])
    + planes([7, 0, 256], 2)
    + bytes([1, 2, 3, 4, 0, 255, 0, 0, 0, 0, 0, 128])
)


def log_block(fields=(2, 1, 2), columns=LOG_COLUMNS):
    return replace(HARD, codec="dense:log8", num_classes=5, label_fields=bytes(fields), label_columns=columns)


def test_dense_labels_as_logarithms():
    block = log_block()
    assert content_of(block.layout, replace(HARD.images, codes=LOGS)) == block.content
    same_codes(block.layout.unpack_all(block.content).codes, LOGS, 1)
    quantiser = label_quantiser(Codec.parse("dense:log8,step=0.25,content=logits"), 5)
    v = np.array([[0, 1, -1, -5, 0], [2, 130, 0, 0, 0], [0, 0, 0, -1, 0]])
    v = v + np.array([[0, -1, 25, 1.75, 75], [0, -1, 25, 1.75, 75], [-300, 0, 0, 1, 2]])
    v = v + np.array([[5], [-128], [0]]) * np.array([1, -2, 3, -4, 127]) / 256
    v[0, [4, 2, 0, 1]] += np.array([1, 2, 3, 4]) / 8
    v[1, 2] -= 1 / 8
    v[2, 3] -= 128 / 8
    np.testing.assert_array_equal(quantiser.dequantise(LOGS, "uniform").vectors, np.float32(0.25 * v))


def test_dense_labels_as_logarithms_that_are_refused():
    for fields in ((0, 1, 2), (3, 1, 2), (2, 5, 2), (2, 1, 0), (2, 1, 3)):
        block = log_block(fields)
        with refused("a column is wider or narrower than it may be"):
            block.layout.unpack_all(block.content)
    block = log_block(columns=LOG_COLUMNS[:3] + b"\x09" + LOG_COLUMNS[4:])
    with refused("a profile is finer than 2^-8 steps"):
        block.layout.unpack_all(block.content)
    at = LOG_COLUMNS.index(bytes([1, 2, 0]), 30)
    block = log_block(columns=LOG_COLUMNS[:at] + bytes([6]) + LOG_COLUMNS[at + 1 :])
    with refused("a crop has more exceptions than classes"):
        block.layout.unpack_all(block.content)
    block = log_block(columns=LOG_COLUMNS[:at] + bytes([2, 1, 0]) + LOG_COLUMNS[at + 3 :])
    with refused("a crop has more or fewer exceptions than its digits say"):
        label_quantiser(Codec.parse("dense:log8"), 5).dequantise(block.layout.unpack_all(block.content).codes, "uniform")
    block = log_block(columns=LOG_COLUMNS[: at - 1] + bytes([4]) + LOG_COLUMNS[at:])
    with refused("unused digits of a crop are not 0"):
        block.layout.unpack_all(block.content)
    block.layout.unpack([block.content], np.zeros(1, int), np.zeros(1, int), None)
    block = log_block()
    with refused(SHORT):
        block.layout.unpack([block.content[: -len(block.keys) - 1]], np.zeros(1, int), np.zeros(1, int), None)


def test_more_dense_logarithms_than_a_block_may_have_are_refused_before_they_take_memory():
    block = replace(log_block(), num_classes=2**28 // 3 + 1)
    with refused("a block has more than 268435456 numbers"):
        block.layout.unpack_all(block.content)
    block = replace(log_block(), num_classes=2**28 // 3)
    with refused(SHORT):
        block.layout.unpack_all(block.content)


# What the columns are called, and how they compress


def test_columns_say_what_they_are():
    columns = LOG8.layout.pack(LOG8.images)
    names = ["fields", "images", "flips", "crops", "crops", "remainders", "remainders", "indices", "indices", "values", "keys"]
    assert [column.name for column in columns if column.data] == names
    assert {column.name for column in columns if column.noise} == {"flips", "crops"}
    assert [column.noise for column in columns if column.name == "crops"] == [True, False]
    assert [column.name for column in columns if column.text] == ["keys"]
    names = ["counts", "remainders", "indices", "values", "keys"]
    assert [column.name for column in THRESHOLD.layout.pack(THRESHOLD.images)][5:] == names
    names = ["values", "values", "tails", "tails", "tails", "tails", "tails", "keys"]
    assert [column.name for column in TAIL.layout.pack(TAIL.images) if column.data][-len(names) :] == names
    dense = Layout(Codec.parse("dense:f16"), 3).pack(replace(HARD.images, codes=np.zeros((3, 3), "<u2")))
    assert [column.name for column in dense if column.data] == ["fields", "images", "flips", "crops", "crops", "values", "values", "keys"]
    assert [column.name for column in FRACTIONS_F16.layout.pack(FRACTIONS_F16.images)][2:11] == ["flips"] + ["crops"] * 8


def test_palettes_are_noise():
    indices = np.tile(np.array([[900, 70000]]), (100, 1))
    codes = SparseCodes(indices, np.zeros((100, 2), int), np.zeros(100, int))
    images = BlockImages(["a"], np.array([[1, 1]]), np.array([100]), np.tile([0, 0, 1, 1], (100, 1)), np.zeros(100, bool), codes)
    columns = Layout(Codec.parse("marginal_smoothing:k=2"), 2**31).pack(images)
    palettes = [column for column in columns if column.name == "palettes"]
    assert [column.data for column in palettes] == [b"\2", b"\0", bits([900, 70000], 31)]
    assert [column.noise for column in palettes] == [False, False, True]


def test_fields_are_packed_without_gaps():
    fields = Fields(("a", "b", "c"), "BhI")
    assert fields.struct.pack(1, -2, 3) == b"\x01\xfe\xff\x03\x00\x00\x00"
    assert np.frombuffer(b"\x01\xfe\xff\x03\x00\x00\x00", fields.dtype).tolist() == [(1, -2, 3)]


# Tails (sparse-v1.md, section 6)


def test_packing_tails():
    fields, columns = pack_tails(TailCodes(np.array([[9, 299], [5, -1]]), np.array([[3, 4], [6, 0]]), np.array([7, 8])))
    assert fields == {"tail_width": 2}
    assert {column.name for column in columns} == {"tails"}
    assert b"".join(column.data for column in columns) == planes([2, 1], 2) + bytes([7, 8, 3, 4, 6]) + planes([9, 290, 5], 2)
    fields, columns = pack_tails(TailCodes(np.array([[-1]]), np.array([[0]]), np.array([255])))
    assert (fields, b"".join(column.data for column in columns)) == ({"tail_width": 0}, bytes([0, 0, 255]))


def test_one_tail():
    found = one_tail([3, 4, 258], bytes([5, 0, 254]), 12, 4, 259)
    assert [array.tolist() for array in found] == [[[3, 4, 258]], [[5, 0, 254]], [12]]
    nothing = one_tail([], b"", 255, 4, 259)
    assert [array.tolist() for array in nothing] == [[[-1]], [[0]], [255]]


def test_tails_that_are_refused_one_by_one():
    one_tail([3, 258], bytes([1, 2]), 0, 2, 259)
    for classes, levels, most, num_classes, message in (
        ([3, 258], [1, 2], 2, 258, "a class of a tail is not below the number of classes"),
        ([3, 258], [1, 2], 1, 259, "a tail lists more classes than the codec says"),
        ([3, 3], [1, 2], 2, 259, "a class appears twice in a tail"),
        ([3, 258], [1, 255], 2, 259, "a class of a tail has no level"),
    ):
        with refused(message):
            one_tail(classes, bytes(levels), 0, most, num_classes)


# Any images, crops and labels

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
    "marginal_smoothing:t=0.3,tail=all,mean=log",
    "marginal_smoothing:k=2,tail=all,values=f16",
    "marginal_smoothing:gain=0.01,tail=40",
    "dense:f32",
    "dense:f16",
    "dense:log8",
    "field",
]
SPARSE_CODECS = [codec for codec in CODECS if "dense" not in codec and codec != "field"] + [
    "marginal_smoothing:k=12",
    "marginal_smoothing:t=0.02,tail=40",
]


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
    if "tail=all" in codec:
        num_classes = min(num_classes, 300)
    elif "tail" in codec or codec == "field":
        num_classes = 12
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
    codec=st.sampled_from(SPARSE_CODECS),
    num_images=st.integers(1, 5),
    mode=st.sampled_from(["pixels", "derived"]),
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
    found = the_short_way(layout, content, slot, crops.tolist(), stream)
    assert found[2] == tuple(images.sizes[slot])
    assert found[4] == (int(images.image_crc32s[slot]) if checksums else None)
    assert_the_same(found, the_long_way(layout, content, slot, crops, stream))


def the_short_way(layout, content, slot, crops, stream):
    return FewCropsReader(layout, layout.codec.policy).read(content, slot, crops, stream)


def the_long_way(layout, content, slot, crops, stream):
    rows, found = layout.unpack([content], np.zeros(1, np.int64), np.array([slot]), np.array([crops]), np.array([stream]))
    labels = label_quantiser(layout.codec, layout.num_classes).dequantise(rows.codes, layout.codec.policy)
    crc32 = None if found.image_crc32s is None else int(found.image_crc32s[0])
    return rows.crops, rows.flips, tuple(found.image_sizes[0]), labels, crc32


def assert_the_same(found, wanted):
    crops, flips, size, labels, crc32 = found
    assert (size, crc32) == (wanted[2], wanted[4])
    for mine, theirs in ((crops, wanted[0]), (flips, wanted[1])):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    for name in ("indices", "values", "remainder", "tail_of"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(wanted[3], name))
    if labels.tails is not None:
        for name in ("classes", "weights", "floor", "slopes", "main_class"):
            np.testing.assert_array_equal(getattr(labels.tails, name), getattr(wanted[3].tails, name))


BY_THE_SHORT_WAY = {name: block for name, block in {**BY_HAND, **SAID_DIFFERENTLY}.items() if FewCropsReader.serves(block.layout)}
FEW = ((0, [0]), (0, [1]), (0, [1, 0, 1]), (1, [0]))
"""Images of a block written by hand, and some of their crops."""
STREAM = crop_stream("a")


def test_the_short_way_is_for_sparse_labels_of_crops_in_pixels():
    assert not any(FewCropsReader.serves(Layout(Codec.parse(codec), 9, "pixels", None, False)) for codec in ("dense:f32", "field"))
    assert {block.crop_mode for block in BY_THE_SHORT_WAY.values()} == {"pixels"}
    assert FewCropsReader.serves(derived_block()[0].layout)
    assert len(BY_THE_SHORT_WAY) == 18


@pytest.mark.parametrize("name", BY_THE_SHORT_WAY)
def test_the_short_way_reads_blocks_written_by_hand(name):
    block = BY_THE_SHORT_WAY[name]
    for slot, crops in FEW:
        try:
            wanted = the_long_way(block.layout, block.content, slot, crops, STREAM)
        except CorruptError as error:  # it is packed rightly, but the numbers of one crop are no values
            assert "threshold" in name
            with refused(str(error)):
                the_short_way(block.layout, block.content, slot, crops, STREAM)
            continue
        assert_the_same(the_short_way(block.layout, block.content, slot, crops, STREAM), wanted)


NOT_LOOKED_AT = {
    "unused flip bits are not 0",
    "unused bits of the palettes are not 0",
    "a key in the block does not fit",
    "expected the block to end after its keys, got 1 bytes more",
    BAD_PALETTE,  # if that class is not read
}
NO_SUCH_IMAGE = "a block holds no images, too many, or fewer than the index says"
NO_TABLE = "a block is shorter than its fields and its table"
NO_SUCH_CROP = "an image has fewer crops in its block than the index says"
LOG8_OUT_OF_RANGE = "log8 code out of range"
NO_VALUES = "the values of a crop are not finite, positive and descending"
TOO_MUCH = "the values of a crop add up to more than 1.00391"
CUT_OFF = "the columns of a block are longer than the block"
SHORT_WAY_SAYS = {
    "a block has no images": {NO_SUCH_IMAGE},
    TABLE: {NO_SUCH_IMAGE, NO_TABLE},
    BAD_CLASS: {BAD_CLASS, LOG8_OUT_OF_RANGE},  # the same crop, looked at in another order
}


@pytest.mark.parametrize(("block", "message"), [(block, message) for block, message in REFUSED if FewCropsReader.serves(block.layout)])
def test_the_short_way_refuses_what_it_looks_at(block, message):
    said = set()
    for slot, crops in FEW:
        try:
            the_short_way(block.layout, block.content, slot, crops, STREAM)
        except CorruptError as error:
            said.add(str(error))
    if said or message not in NOT_LOOKED_AT:
        assert said & SHORT_WAY_SAYS.get(message, {message})


@pytest.mark.parametrize("name", BY_THE_SHORT_WAY)
def test_the_short_way_refuses_blocks_that_are_cut_off(name):
    block = BY_THE_SHORT_WAY[name]
    content = block.content
    for length in range(len(content) - len(block.keys)):
        for slot, crops in FEW:
            with pytest.raises(CorruptError, match=rf"^({NO_TABLE}|the columns of a block are longer than the block)$"):
                the_short_way(block.layout, content[:length], slot, crops, STREAM)


@pytest.mark.parametrize("name", BY_THE_SHORT_WAY)
def test_the_short_way_never_finds_something_else(name):
    """Whatever a byte is changed to, it finds what the long way finds, or nothing; and it refuses nothing that is right."""
    block, said = BY_THE_SHORT_WAY[name], set()
    layout, content = block.layout, block.content
    for place, byte in enumerate(content):
        for value in {0, 1, 255, byte ^ 1, byte ^ 128} - {byte}:
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            for slot, crops in FEW:
                try:
                    found = the_short_way(layout, changed, slot, crops, STREAM)
                except CorruptError as error:
                    said.add(str(error))
                    with pytest.raises(CorruptError):
                        label_quantiser(layout.codec, layout.num_classes).dequantise(layout.unpack_all(changed).codes, "uniform")
                    continue
                try:
                    wanted = the_long_way(layout, changed, slot, crops, STREAM)
                except CorruptError:
                    continue
                assert_the_same(found, wanted)
    assert said <= {message for _, message in REFUSED} | {
        NO_SUCH_IMAGE,
        NO_TABLE,
        NO_SUCH_CROP,
        LOG8_OUT_OF_RANGE,
        NO_VALUES,
        TOO_MUCH,
        CUT_OFF,
    }


def test_crops_of_padded_images_and_checksums_of_files():
    layout = Layout(Codec.parse("hard"), 9, "pixels", None, True, Padding(4))
    rng = np.random.default_rng(0)
    blocks = []
    for sizes, counts in (([(20, 30)], [3]), ([(5, 7), (64, 64), (1, 1)], [4, 1, 2])):
        images = block_images(rng, layout.codec, 9, [(height + 8, width + 8) for height, width in sizes], counts, checksums=True)
        crops = images.crops.copy()
        crops[0] = [0, 0, sizes[0][0] + 8, sizes[0][1] + 8]
        blocks.append(replace(images, sizes=np.array(sizes), crops=crops))
    contents = [content_of(layout, images) for images in blocks]
    for images, content in zip(blocks, contents, strict=True):
        found = layout.unpack_all(content)
        np.testing.assert_array_equal(found.crops, images.crops)
        np.testing.assert_array_equal(found.sizes, images.sizes)
        np.testing.assert_array_equal(found.image_crc32s, images.image_crc32s)
    rows, found = layout.unpack(contents, np.array([1, 0, 1]), np.array([2, 0, 0]), None, None)
    whole = blocks[1].crops
    np.testing.assert_array_equal(rows.crops, np.concatenate([whole[5:], blocks[0].crops, whole[:4]]))
    np.testing.assert_array_equal(found.image_sizes, [(1, 1), (20, 30), (5, 7)])
    crc32s = blocks[1].image_crc32s
    np.testing.assert_array_equal(found.image_crc32s, [crc32s[2], blocks[0].image_crc32s[0], crc32s[0]])


# Many blocks at once, against the independent reader

SHAPES = [([(1, 1)], [1]), ([(375, 500), (7, 3), (64, 64)], [90, 1, 60]), ([(65535, 65535), (40, 30)], [11, 8])]


def images_alike(rng, codec, num_classes, sizes, counts, mode):
    """Return images whose crops have much the same probable classes, so that palettes pay."""
    images = block_images(rng, codec, num_classes, sizes, counts, mode)
    probs = []
    for count in counts:
        logits = rng.normal(0, 3, num_classes) + rng.normal(0, 0.7, (count, num_classes))
        probs.append((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype("f4"))
    return replace(images, codes=codes_of(codec, num_classes, probs, places_of(images.crops, sizes, counts)))


@pytest.mark.parametrize("mode", ["pixels", "fractions:f32", "derived"])
@pytest.mark.parametrize("codec", CODECS)
def test_many_blocks_at_once(codec, mode):
    rng = np.random.default_rng(len(codec))
    parsed = Codec.parse(codec)
    num_classes = 20 if parsed.family == "dense" else 300
    layout = Layout(parsed, num_classes, mode, SAMPLER if mode == "derived" else None)
    blocks = [images_alike(rng, parsed, num_classes, sizes, counts, mode) for sizes, counts in SHAPES]
    contents = [content_of(layout, images) for images in blocks]
    assert_agreement(blocks, contents, layout)
    block, slot = np.array([2, 1, 1, 0, 1]), np.array([1, 0, 2, 0, 0])
    streams = np.array([crop_stream(blocks[b].keys[s]) for b, s in zip(block, slot, strict=True)])
    for crops in (np.array([[7, 0], [89, 45], [59, 3], [0, 0], [1, 2]]), None):
        rows, found = layout.unpack(contents, block, slot, crops, streams)
        sizes, num_rows = found.image_sizes, found.image_rows
        first = [np.concatenate([[0], np.cumsum(images.num_crops)]) for images in blocks]
        chosen = [
            np.arange(blocks[b].num_crops[s]) if crops is None else crops[i] for i, (b, s) in enumerate(zip(block, slot, strict=True))
        ]
        wanted = [(b, first[b][s] + part) for b, s, part in zip(block, slot, chosen, strict=True)]
        assert num_rows.tolist() == [len(part) for part in chosen]
        np.testing.assert_array_equal(sizes, [blocks[b].sizes[s] for b, s in zip(block, slot, strict=True)])
        np.testing.assert_array_equal(rows.crops, np.concatenate([blocks[b].crops[part] for b, part in wanted]))
        np.testing.assert_array_equal(rows.flips, np.concatenate([blocks[b].flips[part] for b, part in wanted]))
        quantiser = label_quantiser(parsed, num_classes)
        found = quantiser.dequantise(rows.codes, parsed.policy).dense()
        whole = [quantiser.dequantise(images.codes, parsed.policy).dense() for images in blocks]
        np.testing.assert_array_equal(found, np.concatenate([whole[b][part] for b, part in wanted]))


def assert_agreement(blocks, contents, layout):
    """The independent reader finds in the contents what was packed."""
    metadata = {"codec": str(layout.codec), "num_classes": layout.num_classes, "crops": layout.crops, "crop_sampler": SAMPLER.describe()}
    for images, content in zip(blocks, contents, strict=True):
        found = minimal_reader.read_block(store_columns([content]), metadata)
        assert [image.key for image in found] == images.keys
        assert [list(image.size) for image in found] == images.sizes.tolist()
        assert [crop for image in found for crop in image.crops] == images.crops.tolist()
        assert [flip for image in found for flip in image.flips] == images.flips.tolist()
        labels = label_quantiser(layout.codec, layout.num_classes).dequantise(images.codes, layout.codec.policy)
        if layout.codec.family == "dense":
            tolerance = 2.0**-23 if layout.codec.values == "log8" else 0
            np.testing.assert_allclose([vector for image in found for vector in image.vectors], labels.vectors, tolerance)
            continue
        kept = [row for image in found for row in image.indices]
        assert kept == [[c for c in row if c >= 0] for row in labels.indices.tolist()]
        np.testing.assert_allclose(
            [value for image in found for row in image.values for value in row], labels.values[labels.indices >= 0], 1e-6
        )
        np.testing.assert_allclose([rest for image in found for rest in image.remainder], labels.remainder, 1e-6)
        if layout.codec.tail:
            np.testing.assert_allclose([image.tail for image in found], labels.tails.dense(layout.num_classes), 1e-6)
