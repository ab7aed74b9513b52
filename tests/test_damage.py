"""Damaged files: every flipped bit and every truncation raises the right error or changes nothing."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import zlib

import damage
import msgpack
import numpy as np
import pytest
import zstandard
from conftest import write_labels
from dissect import compressed
from vectors import invalid

from softlabel_codec import (
    ArgumentError,
    Codec,
    CorruptError,
    LimitError,
    NewerVersionError,
    NotAContainerError,
    SoftLabelReader,
    TruncatedError,
    UnknownFeatureError,
    recover,
)
from softlabel_codec.block.layout import Layout
from softlabel_codec.block.one_image import FewCropsReader
from softlabel_codec.container.framing import HEADER, Header, pack_block
from softlabel_codec.container.msgpack_maps import _distinct_keys, pack_map, unpack_map
from softlabel_codec.container.whole_files import write_text
from softlabel_codec.container.zstd_frames import compress_columns, decompress
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler

SAMPLER = CropSampler().describe()
CODECS = ["marginal_smoothing:k=3", "marginal_smoothing:t=0.1,values=f16", "hard", "dense:f16"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return damage.write_corpus(tmp_path_factory.mktemp("corpus"))


def test_every_flipped_bit_of_every_third_byte_is_detected(corpus, tmp_path):
    report = damage.flip_bits(corpus[:1], tmp_path, every=3)
    assert report.damaged == report.found_by_verify >= 8 * (report.total_bytes // 3)
    assert report.images_beside > 0


@pytest.mark.parametrize("number", range(1, len(damage.CORPUS)))
def test_a_flipped_bit_of_every_third_byte_is_detected(corpus, tmp_path, number):
    report = damage.flip_bits([corpus[number]], tmp_path, bits=[0, 5, 2, 7, 4, 1, 6, 3], every=3)
    assert report.damaged == report.found_by_verify >= report.total_bytes // 3


def test_every_truncation_is_detected(corpus, tmp_path):
    report = damage.truncate(corpus, tmp_path)
    assert report.damaged == report.refused == report.found_by_verify == report.total_bytes


def test_splices_are_detected(corpus, tmp_path):
    report = damage.splice(corpus, tmp_path, count=100)
    assert report.damaged == report.found_by_verify == 100 * len(corpus)


def test_swapped_repeated_and_foreign_blocks_are_detected(corpus, tmp_path):
    report = damage.rearrange_blocks(corpus[1], corpus[2], tmp_path)
    assert report.damaged == report.refused == report.found_by_verify == 15


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", TruncatedError, "the file ends within its header: expected 32 bytes, got 0"),
        (b"PK\x03\x04" + bytes(100), NotAContainerError, "expected a softlabel container to begin with"),
        (b"\x89SLC\r\n\x1a\n", TruncatedError, "the file ends within its header"),
        (b"\x89SLC\n\x1a\n" + bytes(100), NotAContainerError, "expected a softlabel container"),
        (Header(5, 0, major=2).pack() + bytes(100), NewerVersionError, r"format version 2: expected 1. Update"),
        (Header(5, 0, major=2).pack()[:10], NewerVersionError, r"format version 2"),
        (Header(5, 0).pack()[:10], TruncatedError, r"the file ends within its header: expected 32 bytes, got 10"),
        (Header(5, 0, incompatible_features=0b1010).pack() + bytes(100), UnknownFeatureError, "unknown feature bit 1, 3"),
        (Header(0, 0).pack() + bytes(100), LimitError, "metadata_length: expected 1 to 16777216, got 0"),
        (Header(2**24 + 1, 0).pack() + bytes(100), LimitError, "metadata_length"),
        (Header(500, 0).pack() + bytes(100), TruncatedError, "the file ends within its metadata"),
        (Header(5, 0).pack() + bytes(100), CorruptError, "checksum of the metadata differs"),
        (Header(5, 0).pack()[:-1] + bytes(101), CorruptError, "checksum of the header differs"),
    ],
)
def test_what_is_no_sound_beginning(tmp_path, data, error, message):
    (tmp_path / "a.slc").write_bytes(data)
    with pytest.raises(error, match=message):
        SoftLabelReader(tmp_path / "a.slc")


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({}, CorruptError, "the metadata section has no 'num_classes'"),
        ({"num_classes": 5}, CorruptError, "the metadata section has no 'codec'"),
        ({"codec": "soft"}, UnknownFeatureError, "unknown strategy 'soft'"),
        ({"codec": "marginal_smoothing:k=5,tails=30"}, UnknownFeatureError, "has no option 'tails=30'"),
        ({"crops": "circles"}, UnknownFeatureError, "crops: expected one of pixels"),
        ({"crops": "derived"}, CorruptError, "has no 'crop_sampler'"),
        (
            {"crops": "derived", "crop_sampler": {"name": "x"}},
            UnknownFeatureError,
            "expected 'random_resized_crop/1' or 'all_views/1', got 'x'",
        ),
        ({"crops": "derived", "crop_sampler": []}, CorruptError, "crop_sampler: expected a map with a name"),
        ({"crops": "derived", "crop_sampler": {"name": "random_resized_crop/1"}}, CorruptError, "crop_sampler: 'seed' is missing"),
        ({"crops": "derived", "crop_sampler": {**SAMPLER, "scale": ["2", 1]}}, CorruptError, "scale: expected two floats, got .'2', 1."),
        ({"crops": "derived", "crop_sampler": {**SAMPLER, "log_ratio": [0.0, 0.0]}}, CorruptError, "expected the logarithms of"),
        ({"num_classes": 1}, LimitError, "num_classes: expected 2 to"),
        ({"num_classes": "5"}, CorruptError, "num_classes: expected int, got str"),
        ({"num_classes": True}, CorruptError, "num_classes: expected int, got bool"),
        ({"codec": 5}, CorruptError, "codec: expected str, got int"),
        ({"metadata": [1]}, CorruptError, "metadata: expected dict, got list"),
    ],
)
def test_metadata_that_describe_no_labels(tmp_path, metadata, error, message):
    values = {"num_classes": 10, "codec": "hard", "crops": "pixels", "metadata": {}}
    if message.startswith("the metadata section has no"):
        values = metadata
    packed = pack_map({**values, **metadata}, 10**6)
    (tmp_path / "a.slc").write_bytes(Header(len(packed), zlib.crc32(packed)).pack() + packed + bytes(100))
    with pytest.raises(error, match=message):
        SoftLabelReader(tmp_path / "a.slc")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x82\xa1a\x01\xa1a\x02", "a key twice"),
        (b"\x81\x01\x01", "expected a msgpack map"),
        (b"\x80\x80", "expected a msgpack map"),
        (b"\x93\x01\x02\x03", "expected a msgpack map, got list"),
        (b"\x81\xa1a\xc4\x01x", "expected None, bool"),
        (b"\x81\xa1a\xd4\x05x", "extension type 5 is not allowed"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "expected None, bool"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "expected a msgpack map"),
        (b"\x81\xa1a\xa1\xff", "expected a msgpack map"),
        (b"", "expected a msgpack map"),
    ],
)
def test_msgpack_that_is_refused(data, message):
    with pytest.raises(CorruptError, match=message):
        unpack_map(data)


def test_msgpack_without_its_extension_reads_the_same(tmp_path):
    write_labels(tmp_path / "a.slc", metadata={"nested": {"list": [1, 2.5, None]}})
    code = "import sys; from softlabel_codec import SoftLabelReader; print(SoftLabelReader(sys.argv[1]).metadata)"
    command = [sys.executable, "-c", code, str(tmp_path / "a.slc")]
    for pure in ("", "1"):
        done = subprocess.run(command, env={**os.environ, "MSGPACK_PUREPYTHON": pure}, check=True, capture_output=True, text=True)
        assert done.stdout == "{'nested': {'list': [1, 2.5, None]}}\n"
    assert _distinct_keys(iter([("a", 1), ("b", 2)])) == {"a": 1, "b": 2}  # as its pure Python up to 1.1 calls it


def test_msgpack_nested_too_deep():
    assert unpack_map(b"\x81\xa1a" + b"\x91" * 31 + b"\x01")
    for depth in (32, 5000):  # the second is more than msgpack itself goes into
        with pytest.raises(CorruptError, match="nested deeper than 32"):
            unpack_map(b"\x81\xa1a" + b"\x91" * depth + b"\x01")
    deep = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(LimitError, match="nested deeper than 32"):
        pack_map({"a": deep}, 10**6)


def test_zstd_frames_that_are_refused():
    frame = compress_columns([b"a" * 1000])
    assert decompress(frame, 1000) == b"a" * 1000
    with pytest.raises(LimitError, match="holds 1000 bytes: expected at most 999"):
        decompress(frame, 999)
    with pytest.raises(CorruptError, match="does not decompress"):
        decompress(frame + b"x", 1000)
    with pytest.raises(CorruptError, match="does not decompress"):
        decompress(frame[:-1], 1000)
    with pytest.raises(CorruptError, match="expected a zstd frame"):
        decompress(b"not zstd", 1000)
    empty = compress_columns([])
    assert decompress(empty, 0) == b""
    for wrong in (empty + b"x", b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"):
        with pytest.raises(CorruptError, match="zstd frame"):
            decompress(wrong, 0)
    without_size = bytes.fromhex("28b52ffd0058190000") + b"abc"
    with pytest.raises(CorruptError, match="does not state its content size"):
        decompress(without_size, 1000)


def test_damage_in_one_block_leaves_the_others(tmp_path):
    written = write_labels(tmp_path / "a.slc", counts=[200] * 4)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        starts = reader.container.index.starts.tolist()
    data = bytearray((tmp_path / "a.slc").read_bytes())
    data[starts[2] + 50] ^= 4
    (tmp_path / "a.slc").write_bytes(data)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for number in (0, 1, 3):
            np.testing.assert_array_equal(reader[number].crops, list(written.values())[number][0])
        with pytest.raises(CorruptError, match=rf"a\.slc: block 2 at byte {starts[2]}, image 2: checksum of block 2 differs"):
            reader[2]
        with pytest.raises(CorruptError, match="block 2 at byte"):
            reader.read_batch([0, 2], [[1], [1]])
    report = verify(tmp_path / "a.slc", deep=True)
    assert [problem.error for problem in report.problems] == ["CorruptError", "CorruptError"]
    assert "block 2 at byte" in report.problems[0].message
    assert "SHA-256" in report.problems[1].message


def test_a_defect_of_any_image_of_a_block_is_found_where_it_is(tmp_path):
    """A batch that meets labels which no checksum shows to be wrong names the block, whichever of its images they are of."""
    pieces = invalid.base("f32")
    content = invalid.Content(pieces)
    values = content.images.codes.values.copy()
    values[-1, 0] = (0x3F800000 - 0x7FC00000) % 2**32  # NaN, in the last image
    (tmp_path / "a.slc").write_bytes(content.set_codes(values=values).join())
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        with pytest.raises(CorruptError, match=r"a\.slc: block 0 at byte \d+, images 0 to 2: the values of a crop are not finite"):
            reader.read_batch([0, 1, 2])
        assert len(reader.read_batch([0, 1]).num_crops) == 2


@pytest.fixture
def damaged_file(tmp_path):
    """Eight images in four blocks, of which the second is damaged; and what was written."""
    written = write_labels(tmp_path / "damaged.slc", counts=[12, 16] * 4)
    with SoftLabelReader(tmp_path / "damaged.slc") as reader:
        starts, first_images = reader.container.index.starts.tolist(), reader.container.index.first_images.tolist()
    assert first_images == [0, 2, 4, 6, 8]
    data = bytearray((tmp_path / "damaged.slc").read_bytes())
    data[starts[1] + 50] ^= 4
    (tmp_path / "damaged.slc").write_bytes(data)
    return tmp_path / "damaged.slc", written


def test_damaged_images_are_skipped_if_asked(damaged_file):
    path, written = damaged_file
    keys = list(written)
    with SoftLabelReader(path, on_corrupt="skip") as reader:
        batch = reader.read_batch([7, 2, "class0/image0.png", 3, -3], [[0, 1]] * 5)
        assert batch.images.tolist() == [7, 0, 5]
        assert reader.damaged_images == [2, 3]
        for image, number in zip(batch, batch.images.tolist(), strict=True):
            np.testing.assert_array_equal(image.crops, written[keys[number]][0][:2])
        assert [image.num_crops for image in reader] == [12, 16] * 3
        with pytest.raises(CorruptError, match="block 1 at byte"):
            reader.read_batch([2, 3])
        with pytest.raises(CorruptError, match="block 1 at byte"):
            reader[2]
        copy = pickle.loads(pickle.dumps(reader))
        assert copy.read_batch([1, 2]).images.tolist() == [1]
        assert copy.damaged_images == [2]
        copy.close()
    with SoftLabelReader(path) as reader:
        with pytest.raises(CorruptError, match="block 1 at byte"):
            reader.read_batch([0, 2])
        with pytest.raises(CorruptError, match="block 1 at byte"):
            list(reader)
        assert reader.damaged_images == []
    with pytest.raises(ArgumentError, match="on_corrupt: expected one of raise, skip, got 'ignore'"):
        SoftLabelReader(path, on_corrupt="ignore")


def test_a_sampler_that_differs_is_not_skipped_over(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.slc", counts=[100] * 3, crops="derived", sampler=CropSampler(seed=0))
    monkeypatch.setattr("softlabel_codec.block.layout.crops_crc32", lambda crops, flips: 0)
    with SoftLabelReader(tmp_path / "a.slc", on_corrupt="skip") as reader, pytest.raises(CorruptError, match="the crops that the sampler"):
        reader.read_batch([0, 1, 2])


def test_numbers_of_crops_that_differ_from_the_index_are_noticed():
    path = invalid.VERIFIER_FOLDER / "CorruptError-crops-of-images-are-not-those-of-the-index.slc"
    with SoftLabelReader(path) as reader:
        assert reader.num_crops.tolist() == [2, 2, 3]
        assert reader[2].num_crops == 3
        for number in (0, 1):
            with pytest.raises(CorruptError, match="block 0 at byte .* another number of crops in its block than the index says"):
                reader[number]
        with pytest.raises(CorruptError, match="numbers of crops are not those of the index"):
            reader.read_batch([0, 2])


def test_recovering_all_but_the_damaged_blocks(damaged_file, tmp_path):
    path, written = damaged_file
    keys = list(written)
    result = recover(path, tmp_path / "kept.slc")
    with SoftLabelReader(path) as reader:
        lengths = np.diff(reader.container.index.starts).tolist()
    assert (result.num_images, result.num_blocks, result.lost_keys, result.unused_bytes) == (6, 3, keys[2:4], lengths[1])
    with SoftLabelReader(tmp_path / "kept.slc") as reader:
        assert list(reader.keys) == keys[:2] + keys[4:]
        assert reader.summary["skipped_keys"] == keys[2:4]
        for key in reader.keys:
            np.testing.assert_array_equal(reader[key].crops, written[key][0])
    assert verify(tmp_path / "kept.slc", deep=True).ok


def test_recovering_without_a_sound_index(damaged_file, tmp_path):
    path, written = damaged_file
    data = bytearray(path.read_bytes())
    with SoftLabelReader(path) as reader:
        parts = {"index": reader.container.trailer.index_offset, "keys": reader.container.trailer.keys_offset}
    for offset in parts.values():
        changed = data.copy()
        changed[offset + 20] ^= 1
        path.write_bytes(changed)
        result = recover(path, tmp_path / "kept.slc", overwrite=True)
        lost = None if offset == parts["keys"] else list(written)[2:4]
        assert (result.num_images, result.num_blocks, result.lost_keys) == (6, 3, lost)
        with SoftLabelReader(tmp_path / "kept.slc") as reader:
            assert list(reader.keys) == list(written)[:2] + list(written)[4:]
            assert reader.summary.get("skipped_keys", []) == (lost or [])


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\x01\x00" + bytes(40), b"\x00\x00" + bytes(60), b"\xff" * 400, b"\x01\x00" + b"\xff" * 60]
)
@pytest.mark.parametrize("codec", CODECS)
def test_blocks_with_a_sound_checksum_and_nonsense_inside(content, codec):
    parsed = Codec.parse(codec)
    layout = Layout(parsed, 6)
    with pytest.raises((CorruptError, IndexError), match="block|crop"):
        layout.unpack([content], np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[0]]))
    if FewCropsReader.serves(layout):
        with pytest.raises((CorruptError, IndexError), match="block|crop"):
            FewCropsReader(layout, parsed.policy).read(content, 0, [0], 0)
    with pytest.raises(CorruptError, match="block|crop"):
        layout.unpack_all(content)


def test_a_block_is_not_longer_than_it_may_be():
    with pytest.raises(LimitError, match="payload of at most 1073741824 bytes"):
        pack_block(_Long(), 0, 0)
    assert HEADER.size == 32


class _Long(bytes):
    def __len__(self):
        return 2**30 + 1


def test_damage_that_only_a_batch_meets_is_skipped_too():
    """Single images are decoded in a way that need not look at all bits of a block: what is skipped is decided by the way of batches."""
    path = invalid.VERIFIER_FOLDER / "CorruptError-unused-bit-of-the-palettes.slc"
    with SoftLabelReader(path, on_corrupt="skip") as reader:
        with pytest.raises(CorruptError, match="unused bits of the palettes are not 0"):
            reader.read_batch([0, 0], [[0], [0]])
        assert reader.damaged_images == [0]


def test_a_batch_keeps_the_images_beside_damage_that_only_it_meets(tmp_path):
    pieces = invalid.base("palettes")
    content, sound = invalid.Content(pieces), pieces.payloads[0]
    bits = content.columns[content.places("palettes")[2]].data
    content.set_bytes("palettes", 2, len(bits) - 1, bytes([bits[-1] | 128])).join()
    other = zstandard.decompress(sound)
    assert other.endswith(b"\x00\x00\x01a")
    pieces.payloads = [pieces.payloads[0], compressed(other[:-1] + b"b")]
    pieces.block_images, pieces.crops_minus_1 = [1, 1], pieces.crops_minus_1 * 2
    pieces.pages = [compressed(invalid.key_page([b"a", b"b"]))]
    pieces.summary = msgpack.packb({"keys_sha256": invalid.sha256_of([b"a", b"b"])})
    (tmp_path / "a.slc").write_bytes(pieces.join())
    with SoftLabelReader(tmp_path / "a.slc", on_corrupt="skip") as reader:
        found = reader.read_batch([0, 1], [[0], [0]])
        assert (found.images.tolist(), reader.damaged_images) == ([1], [0])


def test_an_open_file_is_not_copied(tmp_path):
    """Whoever dropped the copy would close the file of the reader."""
    write_labels(tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        with pytest.raises(TypeError, match="an open file cannot be copied"):
            copy.deepcopy(reader.container.source)
        with pytest.raises(TypeError):
            copy.deepcopy(reader.container)
        gc.collect()
        assert reader.read(0).num_crops > 0


def test_files_that_are_written_whole_leave_other_files_alone(tmp_path):
    for name in ("maps.npz.partial", "victim"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "maps.npz.unfinished").symlink_to("victim")
    write_text(tmp_path / "maps.npz", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "maps.npz": "whole",
        "maps.npz.partial": "mine",
        "victim": "mine",
    }
    assert not (tmp_path / "maps.npz").is_symlink()
