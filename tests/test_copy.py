"""Copies of label files and sets: merged, split, chosen from, stored in another codec."""

import json
import shutil
import subprocess
import sys
import time
import zlib
from fnmatch import fnmatchcase

import numpy as np
import pytest
from click.testing import CliRunner
from copies import CODECS, LAYOUTS, NUM_CLASSES, contents, files_of, metadata_of, same, write
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabel_codec import (
    AllViews,
    ArgumentError,
    CorruptError,
    CropSampler,
    MismatchError,
    Padding,
    SoftLabelReader,
    SoftLabelWriter,
    StateError,
    TruncatedError,
    copy_labels,
)
from softlabel_codec.cli.main import main
from softlabel_codec.container import joined
from softlabel_codec.container.adjacent_blocks import AdjacentBlocks
from softlabel_codec.container.builder import Ending, write_ending
from softlabel_codec.container.crc32 import crc32_of_words, difference_after
from softlabel_codec.container.files import PartialFile
from softlabel_codec.container.framing import Index, pack_block, pack_key_pages
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.summary import keys_sha256, pack_summary
from softlabel_codec.copying import output
from softlabel_codec.copying.selection import place_in_sample


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


# What a copy holds


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unchanged_copy_has_the_same_bytes(tmp_path, codec, layout):
    keys = [f"k{number}" for number in range(1200)]  # more than two pages of them, not in order
    source = write(tmp_path / "a.slc", keys, codec, counts=[1] * 1200, skipped=["broken"], **layout)
    report = copy_labels(source, tmp_path / "b.slc")
    assert (tmp_path / "b.slc").read_bytes() == source.read_bytes()
    assert (report.num_images, report.num_crops, report.num_files, report.decoded_blocks) == (1200, 1200, 1, 0)
    assert (report.path, report.codec) == (str(tmp_path / "b.slc"), codec)
    assert report.num_bytes == source.stat().st_size
    with SoftLabelReader(source) as reader:
        assert report.copied_blocks == reader.container.trailer.num_blocks


def test_keys_in_no_order_and_blocks_a_few_at_a_time(tmp_path, monkeypatch):
    one, other = (write(tmp_path / f"{name}.slc", [f"{name}{n}" for n in range(600)], "dense", counts=[16] * 600) for name in "ab")
    for some, how in (([one], {}), ([one, other], {}), ([other], {"shards": 2}), ([one, other], {"match": ["a*", "b1*"]})):
        files = []
        for num_bytes in (2**22, 50_000):
            monkeypatch.setattr(joined, "COPIED_BYTES", num_bytes)
            copy_labels(some, tmp_path / "copy", overwrite=True, **how)
            files.append([file.read_bytes() for file in files_of(tmp_path / "copy")])  # they are sound: each key is found
            shutil.rmtree(tmp_path / "copy") if how.get("shards") else (tmp_path / "copy").unlink()
        assert files[0] == files[1]


def test_an_empty_file_is_copied(tmp_path):
    source = write(tmp_path / "a.slc", "")
    copy_labels(source, tmp_path / "b.slc")
    assert (tmp_path / "b.slc").read_bytes() == source.read_bytes()
    assert copy_labels(source, tmp_path / "set", shards=2).num_images == 0
    assert contents(tmp_path / "set") == {}


@pytest.mark.parametrize("codec", CODECS)
def test_split_and_merged_again(tmp_path, codec):
    source = write(tmp_path / "a.slc", [f"k{number:04d}" for number in range(700)], codec)
    report = copy_labels([source], tmp_path / "set", shards=4)
    files = files_of(tmp_path / "set")
    assert [file.name for file in files] == [f"set-{number:05d}-of-00004.slc" for number in range(4)]
    assert report.num_files == 4
    assert report.decoded_blocks == 0  # files end between blocks
    assert report.num_bytes == sum(file.stat().st_size for file in files)
    numbers = [len(contents(file)) for file in files]
    assert sum(numbers) == 700
    assert max(numbers) - min(numbers) <= 700 / 4 / 4
    same(contents(tmp_path / "set"), contents(source))
    copy_labels(tmp_path / "set", tmp_path / "again.slc")
    assert (tmp_path / "again.slc").read_bytes() == source.read_bytes()
    copy_labels(tmp_path / "set" / "set.slc.index.json", tmp_path / "by-index.slc")
    copy_labels(files, tmp_path / "by-files.slc")
    for name in ("by-index.slc", "by-files.slc"):
        assert (tmp_path / name).read_bytes() == source.read_bytes()


def test_a_file_that_ends_within_a_block(tmp_path):
    source = write(tmp_path / "a.slc", "abcdefghij", "hard", counts=[1] * 10)  # all in one block
    report = copy_labels(source, tmp_path / "set", shards=3)
    assert [list(contents(file)) for file in files_of(tmp_path / "set")] == [list("abc"), list("def"), list("ghij")]
    assert (report.copied_blocks, report.decoded_blocks) == (0, 1)
    same(contents(tmp_path / "set"), contents(source))


@pytest.mark.parametrize("limit", [1, 3000, 8000, 10**6])
@pytest.mark.parametrize("change", [{}, {"crops": 3}])
def test_shards_of_a_size(tmp_path, limit, change):
    source = write(tmp_path / "a.slc", [f"k{number:04d}" for number in range(300)])
    report = copy_labels(source, tmp_path / "set", shard_bytes=limit, **change)
    sizes = [file.stat().st_size for file in files_of(tmp_path / "set")]
    same(contents(tmp_path / "set"), contents(source), **change)
    assert report.num_files == len(sizes)
    if limit == 1:
        blocks = report.copied_blocks if not change else len(sizes)
        assert len(sizes) == blocks  # as at least one block is in each
    elif limit == 10**6:
        assert len(sizes) == 1
    else:
        assert max(sizes) <= limit
        assert min(sizes[:-1]) > 0.6 * limit


@settings(max_examples=20)
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("codec", CODECS)
@given(data=st.data())
def test_random_splits_and_merges_keep_the_labels(tmp_path_factory, codec, layout, data):
    folder = tmp_path_factory.mktemp("random")
    keys = data.draw(st.lists(st.text("abc/é", min_size=1, max_size=4), unique=True, max_size=30))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(keys)), max_size=3)))
    parts = [keys[start:end] for start, end in zip([0, *cuts], [*cuts, len(keys)], strict=True)]
    sources = [write(folder / f"{number}.slc", part, codec, **layout) for number, part in enumerate(parts)]
    number, size = st.integers(1, 9), st.integers(1, 4000)
    how = data.draw(st.just({}) | st.builds(lambda n: {"shards": n}, number) | st.builds(lambda n: {"shard_bytes": n}, size))
    chosen = data.draw(st.none() | st.lists(st.sampled_from(keys), unique=True, min_size=1)) if keys else None
    crops = data.draw(st.none() | st.integers(1, 9))
    report = copy_labels(sources, folder / "copy", keys=chosen, crops=crops, **how)
    found = contents(folder / "copy")
    same(found, {key: image for key, image in contents(*sources).items() if chosen is None or key in chosen}, crops)
    assert report.num_images == len(found)
    assert report.num_crops == sum(image.num_crops for image in found.values())
    assert report.num_files == how.get("shards", report.num_files)


def test_only_blocks_that_change_are_decoded(tmp_path):
    source = write(tmp_path / "a.slc", [f"k{number:03d}" for number in range(100)], counts=[10, 20] * 50)
    with SoftLabelReader(source) as reader:
        blocks = reader.container.index.first_images.tolist()
    assert len(blocks) > 20
    wanted = [f"k{number:03d}" for number in range(blocks[3], blocks[9] + 1)]  # six blocks, and an image of one more
    report = copy_labels(source, tmp_path / "b.slc", keys=wanted)
    assert (report.copied_blocks, report.decoded_blocks) == (6, 1)
    assert list(contents(tmp_path / "b.slc")) == wanted
    assert copy_labels(source, tmp_path / "c.slc", crops=20).decoded_blocks == 0


def test_blocks_that_are_made_anew_are_those_of_a_writer(tmp_path):
    counts = [12] * 30
    source = write(tmp_path / "a.slc", [f"k{number:03d}" for number in range(30)], "marginal_smoothing:k=5,values=f32", counts=counts)
    copy_labels(source, tmp_path / "b.slc", crops=7)
    with SoftLabelReader(source) as reader, SoftLabelWriter(tmp_path / "c.slc", NUM_CLASSES, reader.codec, reader.metadata) as writer:
        for key, image in zip(reader.keys, reader, strict=True):
            labels = {"indices": image.labels.indices[:7], "values": image.labels.values[:7]}
            writer.add(key, crops=image.crops[:7], flips=image.flips[:7], image_size=image.image_size, **labels)
    assert (tmp_path / "b.slc").read_bytes() == (tmp_path / "c.slc").read_bytes()


@pytest.mark.parametrize("number", [1, 511, 512, 600])
def test_keys_of_large_images_are_packed_fast(tmp_path, number):
    """Pages of keys are made anew where these move to other pages: less compressed than a writer's, if images are large."""
    parts = [[f"n{part}/{place:05d}" for place in range(number)] for part in range(3)]
    counts = [16] * number  # of 20 classes in 4 bytes
    sources = [write(tmp_path / f"{place}.slc", part, "dense", counts=counts) for place, part in enumerate(parts)]
    copy_labels(sources, tmp_path / "all.slc")
    assert list(contents(tmp_path / "all.slc")) == [key for part in parts for key in part]
    direct = write(tmp_path / "direct.slc", [key for part in parts for key in part], "dense", counts=counts * 3)
    assert (tmp_path / "all.slc").stat().st_size < 1.01 * direct.stat().st_size


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=9),
    old=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31)),
    new=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**31)),
    data=st.data(),
)
def test_moved_blocks_are_those_that_are_made_there(payloads, old, new, data):
    def blocks(crc32, first):
        return [pack_block(payload, crc32, first + place) for place, payload in enumerate(payloads)]

    there = bytearray(b"".join(blocks(*old)))
    lengths = np.array([len(block) for block in blocks(*old)])
    moved = AdjacentBlocks(memoryview(there), lengths, *old)
    assert moved.first_damaged() is None
    moved.move(*new)
    assert there == b"".join(blocks(*new))
    assert moved.first_damaged() is None
    place = data.draw(st.integers(0, len(there) - 1))
    there[place] ^= data.draw(st.integers(1, 255))
    assert AdjacentBlocks(memoryview(there), lengths, *new).first_damaged() == lengths.cumsum().searchsorted(place, side="right")


@pytest.mark.parametrize("num_bytes", [0, 1, 5, 4096, 70_001])
def test_checksums_of_other_beginnings(num_bytes):
    rng = np.random.default_rng(num_bytes)
    rest, starts = rng.bytes(num_bytes), rng.integers(0, 2**32, (50, 3), dtype=np.uint32)
    found = crc32_of_words(starts, 77)
    assert found.tolist() == [zlib.crc32(words.astype("<u4").tobytes(), 77) for words in starts]
    differences = difference_after(found ^ found[0], np.full(50, num_bytes))
    assert differences.tolist() == [zlib.crc32(rest, int(crc32)) ^ zlib.crc32(rest, int(found[0])) for crc32 in found]


# Which images


def test_images_by_pattern(tmp_path):
    keys = ["n01/a.png", "n01/b.png", "n02/a.png", "m/[1].png"]
    source = write(tmp_path / "a.slc", keys)
    for patterns in ("n01*", ["n02*", "*b.png"], "m/[[]1].png", "*/?.png"):
        every = [patterns] if isinstance(patterns, str) else patterns
        copy_labels(source, tmp_path / "b.slc", match=patterns, overwrite=True)
        assert list(contents(tmp_path / "b.slc")) == [key for key in keys if any(fnmatchcase(key, pattern) for pattern in every)]
    with pytest.raises(MismatchError, match="expected a selection of 4 images, got one that no image fits"):
        copy_labels(source, tmp_path / "c.slc", match="N01*")


def test_a_sample_depends_on_keys_and_seed_only(tmp_path):
    keys = [f"k{number}" for number in range(500)]
    forwards, backwards = write(tmp_path / "a.slc", keys, "hard"), write(tmp_path / "b.slc", keys[::-1], "hard")
    chosen = {}
    for name, source, share, seed in (
        ("f", forwards, 0.3, 0),
        ("b", backwards, 0.3, 0),
        ("more", forwards, 0.6, 0),
        ("other", forwards, 0.3, 1),
    ):
        copy_labels(source, tmp_path / f"{name}-chosen.slc", sample=share, seed=seed)
        chosen[name] = set(contents(tmp_path / f"{name}-chosen.slc"))
    assert chosen["f"] == chosen["b"] == {key for key in keys if place_in_sample(key.encode(), 0) < 0.3 * 2**64}
    assert chosen["f"] < chosen["more"]
    assert chosen["f"] != chosen["other"]
    assert 100 < len(chosen["f"]) < 200
    assert copy_labels(forwards, tmp_path / "all.slc", sample=1.0).num_images == 500


def test_what_chooses_images_works_together(tmp_path):
    source = write(tmp_path / "a.slc", ["a1", "a2", "b1", "b2"])
    copy_labels(source, tmp_path / "b.slc", keys=["b1", "a1"], match="a*")
    assert list(contents(tmp_path / "b.slc")) == ["a1"]


def test_keys_that_are_nowhere(tmp_path):
    source = write(tmp_path / "a.slc", "abc", skipped=["broken"])
    with pytest.raises(MismatchError, match="got 2 of 3 keys that are none. 'x' is in no source"):
        copy_labels(source, tmp_path / "b.slc", keys=["a", "x", "y"])
    with pytest.raises(MismatchError, match="'broken' could not be labelled"):
        copy_labels(source, tmp_path / "b.slc", keys=["broken"])
    assert not (tmp_path / "b.slc").exists()


def test_skipped_images_are_remembered(tmp_path):
    one = write(tmp_path / "a.slc", "abc", skipped=["x1", "f"])
    other = write(tmp_path / "b.slc", "def", skipped=["y1", "x1"])
    copy_labels([one, other], tmp_path / "c.slc")
    with SoftLabelReader(tmp_path / "c.slc") as reader:
        assert reader.summary["skipped_keys"] == ["x1", "y1"]  # f was labelled after all
    copy_labels(tmp_path / "c.slc", tmp_path / "d.slc", match=["a", "y*"])
    with SoftLabelReader(tmp_path / "d.slc") as reader:
        assert reader.summary["skipped_keys"] == ["y1"]
    copy_labels(tmp_path / "c.slc", tmp_path / "set", shards=2)
    copy_labels(tmp_path / "set", tmp_path / "e.slc")
    with SoftLabelReader(tmp_path / "e.slc") as reader:
        assert reader.summary["skipped_keys"] == ["x1", "y1"]


@pytest.mark.parametrize("derived", [False, True])
def test_the_first_of_all_views_make_no_sense(tmp_path, derived):
    views = AllViews(38, 38)
    how = {"crops": "derived", "sampler": views} if derived else {"metadata": {"crop_sampler": views.describe()}}
    source = write(tmp_path / "a.slc", "ab", counts=[3, 4], **how)
    with pytest.raises(ArgumentError, match="row by row: the first of them are those at its upper edge.*sample"):
        copy_labels(source, tmp_path / "b.slc", crops=2)
    copy_labels(source, tmp_path / "b.slc", keys=["b"])


def test_a_tail_stays_that_of_the_image(tmp_path):
    source = write(tmp_path / "a.slc", "ab", "marginal_smoothing:t=0.1,tail=6", counts=[30, 20])
    copy_labels(source, tmp_path / "b.slc", crops=2)
    for key, image in contents(tmp_path / "b.slc").items():
        tails = contents(source)[key].labels.tails
        np.testing.assert_array_equal(image.labels.tails.dense(NUM_CLASSES), tails.dense(NUM_CLASSES))


# What belongs together

TEACHER = {"name": "resnet50", "source": "timm", "weights_sha256": "00"}
SAID = {
    "teacher": TEACHER,
    "temperature": 1.0,
    "preprocessing": {"size": 224},
    "crops_per_image": 3,
    "images": {"count": 4, "keys_sha256": "of all"},
    "package": "softlabel_codec 0.1",
    "note": "first",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 30}, "num_classes: expected 20, as in .*a.slc, got 30"),
        ({"codec": "marginal_smoothing:k=4"}, r"codec: expected .*k=5.*got .*k=4.* Pass codec \(--codec\)"),
        ({"codec": "marginal_renorm:k=5"}, "codec: expected marginal_smoothing:k=5, as in .*a.slc, got marginal_renorm:k=5"),
        ({"crops": "derived", "sampler": CropSampler(3)}, "crops: expected pixels, as in .*, got derived"),
        ({"image_checksums": True}, "image_checksums: expected False, as in .*, got True"),
        ({"padding": Padding(4)}, "padding: expected none, as in .*, got 4 pixels on each side"),
        ({"metadata": {**SAID, "temperature": 4.0}}, "temperature: expected 1.0, as in .*, got 4.0"),
        ({"metadata": {**SAID, "teacher": {"name": "vit"}}}, r"teacher: expected .*resnet50.*got .*vit.* Pass force=True \(--force\)"),
        ({"metadata": {**SAID, "preprocessing": {"size": 288}}}, r"preprocessing: expected .*224.*got .*288.* Pass force=True \(--force\)"),
        ({"metadata": {**SAID, "note": "second"}}, r"note: expected first, as in .*, got second. Pass metadata .*\(--drop-metadata NAME\)"),
        ({"metadata": {name: SAID[name] for name in SAID if name != "note"}}, "note: expected first, as in .*, got nothing"),
    ],
)
def test_sources_that_do_not_belong_together(tmp_path, change, message):
    one = write(tmp_path / "a.slc", "abc", metadata=SAID)
    other = write(tmp_path / "b.slc", "def", **{"metadata": SAID, **change})
    with pytest.raises(MismatchError, match=f"b.slc: {message}"):
        copy_labels([one, other], tmp_path / "c.slc")
    if "force" in message:
        copy_labels([one, other], tmp_path / "c.slc", force=True)
        (tmp_path / "c.slc").unlink()
    else:
        with pytest.raises(MismatchError, match=f"b.slc: {message}"):
            copy_labels([one, other], tmp_path / "c.slc", force=True)
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_samplers_differ(tmp_path):
    sources = [write(tmp_path / f"{key}.slc", key, crops="derived", sampler=CropSampler(seed)) for seed, key in enumerate("ab")]
    with pytest.raises(MismatchError, match="sampler: expected .*seed=0.*, got .*seed=1"):
        copy_labels(sources, tmp_path / "c.slc", force=True)


def test_versions_and_numbers_of_images_may_differ(tmp_path):
    one = write(tmp_path / "a.slc", "abc", metadata=SAID)
    changed = {"package": "softlabel_codec 0.2", "images": {"count": 9, "keys_sha256": "other"}, "crops_per_image": 8}
    other = write(tmp_path / "b.slc", "def", metadata=SAID | changed)
    copy_labels([one, other], tmp_path / "c.slc")
    same(contents(tmp_path / "c.slc"), contents(one, other))
    expected = {name: value for name, value in SAID.items() if name != "crops_per_image"}  # they have different numbers
    expected["images"] = {"count": 6, "keys_sha256": keys_sha256([key.encode() for key in "abcdef"])}
    expected["merged_from"] = [{"package": "softlabel_codec 0.1"}, {"package": "softlabel_codec 0.2"}]
    assert metadata_of(tmp_path / "c.slc") == expected


def test_labels_of_different_teachers_put_together_say_so(tmp_path):
    sources = [
        write(tmp_path / f"{key}.slc", key, metadata={"temperature": 1.0, **({"teacher": {"name": name}} if name else {})})
        for key, name in zip("abc", ("one", "two", None), strict=True)
    ]
    copy_labels(sources[:2], tmp_path / "ab.slc", force=True)
    both = [{"teacher": {"name": "one"}}, {"teacher": {"name": "two"}}]
    assert metadata_of(tmp_path / "ab.slc") == {"temperature": 1.0, "teacher": {"name": "one"}, "merged_from": both}
    with pytest.raises(MismatchError, match="teacher: expected .*one.*got nothing"):
        copy_labels([tmp_path / "ab.slc", sources[2]], tmp_path / "abc.slc")
    copy_labels([tmp_path / "ab.slc", sources[2]], tmp_path / "abc.slc", force=True)
    assert metadata_of(tmp_path / "abc.slc")["merged_from"] == [*both, {"teacher": None}]
    copy_labels(tmp_path / "abc.slc", tmp_path / "part.slc", match="a")
    assert metadata_of(tmp_path / "part.slc") == metadata_of(tmp_path / "abc.slc")
    copy_labels(tmp_path / "abc.slc", tmp_path / "set.slc", metadata={"teacher": "several"})
    assert metadata_of(tmp_path / "set.slc") == {"temperature": 1.0, "teacher": "several"}


def test_a_key_in_two_sources(tmp_path):
    one, other = write(tmp_path / "a.slc", "adz"), write(tmp_path / "b.slc", "bcd")
    with pytest.raises(MismatchError, match=r"key 'd': expected it once, got it in .*a.slc and .*b.slc"):
        copy_labels([one, other], tmp_path / "c.slc")
    with pytest.raises(MismatchError, match=r"key 'a': expected it once, got it in .*a.slc and .*a.slc"):
        copy_labels([one, one], tmp_path / "set", shards=2)
    assert sorted(tmp_path.iterdir()) == [one, other]
    copy_labels([one, other], tmp_path / "c.slc", match="[a-c]")  # the key is not wanted
    assert list(contents(tmp_path / "c.slc")) == ["a", "b", "c"]


def test_provenance_that_is_changed(tmp_path):
    source = write(tmp_path / "a.slc", "abc", metadata=SAID)
    report = copy_labels(source, tmp_path / "b.slc", metadata={"note": [1, {"x": None}], "licence": "CC0"}, drop_metadata=["package"])
    assert report.decoded_blocks == 0  # their checksums change, what they hold does not
    expected = {name: value for name, value in SAID.items() if name != "package"} | {"note": [1, {"x": None}], "licence": "CC0"}
    assert metadata_of(tmp_path / "b.slc") == expected
    same(contents(tmp_path / "b.slc"), contents(source))
    with pytest.raises(ArgumentError, match="drop_metadata: expected one of crops_per_image, images, note, .*, got 'nots'"):
        copy_labels(source, tmp_path / "c.slc", drop_metadata="nots")
    with pytest.raises(ArgumentError, match="'images' is what a copy says itself"):
        copy_labels(source, tmp_path / "c.slc", metadata={"images": 5})
    with pytest.raises(ArgumentError, match="'note' is both set and dropped"):
        copy_labels(source, tmp_path / "c.slc", metadata={"note": 5}, drop_metadata=["note"])
    with pytest.raises(ArgumentError, match="metadata: note: expected None, bool, int.*got set"):
        copy_labels(source, tmp_path / "c.slc", metadata={"note": {1}})


def test_numbers_in_the_metadata_do_not_lie(tmp_path):
    source = write(tmp_path / "a.slc", "abcd", counts=[3] * 4, metadata=SAID)
    copy_labels(source, tmp_path / "b.slc", keys=["b", "d"], crops=2)
    found = metadata_of(tmp_path / "b.slc")
    assert found["images"] == {"count": 2, "keys_sha256": keys_sha256([b"b", b"d"])}
    assert found["crops_per_image"] == 2
    copy_labels(source, tmp_path / "set", shards=2)
    assert metadata_of(tmp_path / "set") == SAID  # they are those of the set


def test_unknown_keys_of_the_metadata_section_are_kept(tmp_path, monkeypatch):
    import softlabel_codec.writer as module

    original, sources = module.Description, []
    for key in "ab":
        with monkeypatch.context() as patch:
            patch.setattr(module, "Description", lambda *rest, own=key: original(*rest[:4], {**rest[4], "later": own}, *rest[5:]))
            sources.append(write(tmp_path / f"{key}.slc", key))
    copy_labels(sources[0], tmp_path / "c.slc", metadata={"x": 1})
    with SoftLabelReader(tmp_path / "c.slc") as reader:
        assert reader.container.description.other["later"] == "a"
    with pytest.raises(MismatchError, match="later: expected a, as in .*, got b"):
        copy_labels(sources, tmp_path / "d.slc", force=True)


# Damage, interruptions, and what is there already


def damaged(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("change", [{}, {"metadata": {"x": 1}}, {"crops": 1}, {"shards": 2}, {"codec": "hard"}])
@pytest.mark.parametrize("where", [4, 13, 40])
def test_damage_is_named_and_never_copied(tmp_path, change, where):
    source = write(tmp_path / "a.slc", [f"k{number:02d}" for number in range(60)], counts=[5] * 60)
    with SoftLabelReader(source) as reader:
        index = reader.container.index
        start, first, last = int(index.starts[7]), int(index.first_images[7]), int(index.first_images[8]) - 1
    damaged(source, start + where)
    message = rf"a.slc: block 7 at byte {start}, images {first} to {last}: (checksum of block 7 differs|block 7: expected this number)"
    with pytest.raises(CorruptError, match=message):
        copy_labels(source, tmp_path / "out", **change)
    assert list(tmp_path.iterdir()) == [source]


def test_damaged_keys_are_named(tmp_path):
    source = write(tmp_path / "a.slc", [f"k{number:02d}" for number in range(60)])
    with SoftLabelReader(source) as reader:
        offset = reader.container.trailer.keys_offset
    damaged(source, offset + 20)
    with pytest.raises(CorruptError, match=f"a.slc: keys at byte {offset}: checksum"):
        copy_labels(source, tmp_path / "b.slc")


def test_unfinished_sources(tmp_path):
    writer = SoftLabelWriter(tmp_path / "a.slc", 4, "hard")
    writer.close()
    with pytest.raises(TruncatedError, match="an unfinished file.*slcodec recover"):
        copy_labels(tmp_path / "a.slc.partial", tmp_path / "b.slc")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "set-00000-of-00002.slc", "ab")
    with pytest.raises(StateError, match=r"set: expected the index of a set \(NAME.slc.index.json\), got none: .* is not finished"):
        copy_labels(tmp_path / "set", tmp_path / "b.slc")
    with pytest.raises(FileNotFoundError):
        copy_labels(tmp_path / "nowhere.slc", tmp_path / "b.slc")


@pytest.fixture
def label_set(tmp_path):
    copy_labels(write(tmp_path / "a.slc", [f"k{number:02d}" for number in range(60)], counts=[3] * 60), tmp_path / "set", shards=3)
    return tmp_path / "set"


def test_sets_that_are_not_whole(tmp_path, label_set):
    files = files_of(label_set)
    moved = files[1].rename(tmp_path / "x.slc")
    with pytest.raises(FileNotFoundError, match="this shard of the set is missing.*set-00001-of-00003.slc"):
        copy_labels(label_set, tmp_path / "b.slc")
    write(files[1], "ab")
    with pytest.raises(MismatchError, match="set-00001-of-00003.slc: expected the shard that the index of its set lists"):
        copy_labels(label_set, tmp_path / "b.slc")
    moved.rename(files[1])
    index = label_set / "set.slc.index.json"
    (label_set / "other.slc.index.json").write_bytes(index.read_bytes())
    with pytest.raises(ArgumentError, match="expected the index of one set, got 2 indices: other.slc.index.json, set.slc.index.json"):
        copy_labels(label_set, tmp_path / "b.slc")
    copy_labels(index, tmp_path / "b.slc")
    index.write_text("{}")
    with pytest.raises(Exception, match="set.slc.index.json: format: expected 'softlabel set'"):
        copy_labels(index, tmp_path / "c.slc")


@pytest.mark.parametrize("how", [{}, {"shards": 3}, {"shard_bytes": 2000}, {"crops": 1, "shards": 2}])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_copy_leaves_nothing(tmp_path, how, error, monkeypatch):
    source = write(tmp_path / "a.slc", [f"k{number:03d}" for number in range(200)], counts=[4] * 200)
    monkeypatch.setattr(joined, "COPIED_BYTES", 500)

    def interrupt(done, total):
        if done >= 150:
            raise error("at 150")

    with pytest.raises(error, match="Nothing was written" if error is KeyboardInterrupt else "at 150"):
        copy_labels(source, tmp_path / "copy", progress=interrupt, **how)
    assert list(tmp_path.iterdir()) == [source]
    copy_labels(source, tmp_path / "copy", **how)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        copy_labels(source, tmp_path / "copy", progress=interrupt, overwrite=True, **how)
    assert sorted(tmp_path.rglob("*")) == there  # what was there before stays
    same(contents(tmp_path / "copy"), contents(source), how.get("crops"))


@pytest.mark.parametrize("step", ["write", "finish"])
def test_a_full_disk_is_reported(tmp_path, step, monkeypatch):
    source = write(tmp_path / "a.slc", [f"k{number:03d}" for number in range(200)])
    original, calls = getattr(PartialFile, step), []

    def fail(self, *arguments):
        calls.append(0)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(self.partial))
        return original(self, *arguments)

    monkeypatch.setattr(PartialFile, step, fail)
    with pytest.raises(OSError, match="No space left on device; nothing was written: .*partial"):
        copy_labels(source, tmp_path / "set", shards=2)
    assert list(tmp_path.iterdir()) == [source]


def test_a_killed_copy_does_not_look_finished(tmp_path):
    source = write(tmp_path / "a.slc", [f"k{number:03d}" for number in range(300)])
    code = """
import os, sys
from softlabel_codec import copy_labels
copy_labels(sys.argv[1], sys.argv[2], crops=2, progress=lambda done, total: os._exit(9) if done == 200 else None, **eval(sys.argv[3]))
"""
    for name, how in (("b.slc", {}), ("set", {"shards": 5})):
        done = subprocess.run([sys.executable, "-c", code, source, tmp_path / name, str(how)], check=False)
        assert done.returncode == 9
        assert not (tmp_path / "b.slc").exists()
        assert not list(tmp_path.glob("set/*.json"))
        assert all(file.name.endswith(".partial") for file in tmp_path.glob("set/*"))
    with pytest.raises(StateError, match="an unfinished file is there"):
        copy_labels(source, tmp_path / "b.slc")
    copy_labels(source, tmp_path / "b.slc", overwrite=True)
    copy_labels(source, tmp_path / "set", shards=2)
    same(contents(tmp_path / "b.slc"), contents(source))
    same(contents(tmp_path / "set"), contents(source))


def test_what_is_there_is_not_replaced_unasked(tmp_path, label_set):
    source = write(tmp_path / "b.slc", "xyz")
    before = {file: file.read_bytes() for file in (*label_set.iterdir(), source)}
    for sources, path, how in (([source], label_set, {"shards": 2}), ([label_set], source, {})):
        with pytest.raises(FileExistsError, match=r"the file exists; pass overwrite=True \(--overwrite\)"):
            copy_labels(sources, path, **how)
    assert {file: file.read_bytes() for file in before} == before
    (label_set / "README").write_text("kept")
    copy_labels(source, label_set, shards=2, overwrite=True)
    assert (label_set / "README").read_text() == "kept"
    (label_set / "README").unlink()
    assert list(contents(label_set)) == ["x", "y", "z"]


def test_an_unfinished_set_is_not_replaced_unasked(tmp_path, label_set):
    (label_set / "set.slc.index.json").unlink()
    source = write(tmp_path / "b.slc", "xyz")
    with pytest.raises(StateError, match="an unfinished set is there: set-00000-of-00003.slc without an index"):
        copy_labels(source, label_set, shards=2)
    copy_labels(source, label_set, shards=2, overwrite=True)
    assert list(contents(label_set)) == ["x", "y", "z"]


def test_a_copy_over_its_source_is_refused(tmp_path, label_set):
    source = tmp_path / "a.slc"
    (tmp_path / "link.slc").symlink_to(source)
    before = source.read_bytes()
    for sources, path, how in (
        ([source], source, {}),
        ([source], tmp_path / "link.slc", {}),
        ([label_set], label_set, {"shards": 2}),
        ([label_set / "set-00001-of-00003.slc"], label_set, {"shards": 2}),
        ([label_set], label_set / "set-00001-of-00003.slc", {}),
    ):
        with pytest.raises(ArgumentError, match="expected another place than that of the sources, got "):
            copy_labels(sources, path, overwrite=True, **how)
    assert source.read_bytes() == before
    assert len(contents(label_set)) == 60


def test_places_that_cannot_be(tmp_path, label_set):
    source = tmp_path / "a.slc"
    with pytest.raises(IsADirectoryError, match=r"a folder. Name a file, or pass shards .*\(--shards, --shard-size\)"):
        copy_labels(source, label_set)
    other = write(tmp_path / "b.slc", "x")
    with pytest.raises(FileExistsError, match="not a folder; a set of several files needs one"):
        copy_labels(source, other, shards=2, overwrite=True)
    for how in ({}, {"shards": 2}):
        with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
            copy_labels(source, tmp_path / "no" / "c", **how)
    with pytest.raises(ArgumentError, match="shards, shard_bytes: expected one of them, got both"):
        copy_labels(source, tmp_path / "c", shards=2, shard_bytes=100)
    with pytest.raises(ArgumentError, match="sources: expected at least one"):
        copy_labels([], tmp_path / "c")


def test_two_copies_to_one_place_at_a_time(tmp_path):
    source = write(tmp_path / "a.slc", "abc")
    for path, how in ((tmp_path / "b.slc", {}), (tmp_path / "set", {"shards": 2})):
        other = output.destination(path, is_set=bool(how), overwrite=False)
        with other, pytest.raises(StateError, match="another writer is writing this file"):
            copy_labels(source, path, overwrite=True, **how)
        copy_labels(source, path, **how)


def test_a_source_that_is_replaced_meanwhile(tmp_path):
    source = write(tmp_path / "a.slc", "abc")

    def replace(done, total):
        write(source, "xyz", overwrite=True)

    with pytest.raises(StateError, match="a.slc: the file was replaced while it was being copied"):
        copy_labels(source, tmp_path / "b.slc", progress=replace)


# The command


def test_the_command(tmp_path):
    source = write(tmp_path / "a.slc", [f"k{number:02d}" for number in range(60)], "dense", counts=[3] * 60)
    report = json.loads(run("copy", source, tmp_path / "b.slc", "--codec", "marginal_smoothing:k=5", "--crops", 2, "--json"))
    assert (report["num_images"], report["num_crops"], report["codec"]) == (60, 120, "marginal_smoothing:k=5")
    assert report["num_bytes"] == (tmp_path / "b.slc").stat().st_size
    words = ["copy", tmp_path / "b.slc", tmp_path / "set", "--shard-size", "1.2KB", "--metadata", 'x={"y": [1]}', "--metadata", "note=a=b"]
    text = run(*words, "--drop-metadata", "transcoded_from")
    files = files_of(tmp_path / "set")
    assert f"copied  60 images, 120 crops: {report_blocks(tmp_path / 'b.slc')} blocks as they are, 0 decoded\n" in text
    assert f"bytes in {len(files)} files, marginal_smoothing:k=5, in " in text
    assert metadata_of(tmp_path / "set") == {"temperature": 1.0, "x": {"y": [1]}, "note": "a=b"}
    assert max(file.stat().st_size for file in files) <= 1200
    (tmp_path / "keys.txt").write_text("k07\nk05\n")
    run("copy", tmp_path / "set", tmp_path / "c.slc", "--keys", tmp_path / "keys.txt")
    assert list(contents(tmp_path / "c.slc")) == ["k05", "k07"]
    run("copy", source, tmp_path / "d.slc", "--match", "k0*", "--match", "k1*", "--sample", 0.5, "--seed", 3)
    assert set(contents(tmp_path / "d.slc")) < {f"k{number:02d}" for number in range(20)}
    assert "the file exists" in run("copy", source, tmp_path / "c.slc", code=1)
    run("copy", source, tmp_path / "c.slc", "--overwrite")


def report_blocks(path):
    with SoftLabelReader(path) as reader:
        return reader.container.trailer.num_blocks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shards", 2, "--shard-size", "1MB"], "shards, shard_bytes: expected one of them, got both"),
        (["--shard-size", "1XB"], "'1XB' is not a size such as 256MB"),
        (["--shard-size", "0"], "'0' is not a size such as 256MB"),
        (["--metadata", "x"], "'x' is not NAME=VALUE"),
        (["--metadata", "x=1", "--metadata", "x=2"], "a name is given twice"),
        (["--sample", "0"], "0"),
        (["--codec", "hart"], "did you mean 'hard'"),
    ],
)
def test_options_that_are_wrong(tmp_path, words, message):
    write(tmp_path / "a.slc", "abc")
    assert message in " ".join(run("copy", tmp_path / "a.slc", tmp_path / "b.slc", *words, code=2).split())
    assert not (tmp_path / "b.slc").exists()


def test_the_command_is_interrupted(tmp_path):
    source = write(tmp_path / "a.slc", [f"k{number:05d}" for number in range(10000)])
    for attempt in range(10):
        out = tmp_path / f"set-{attempt}"
        words = [sys.executable, "-m", "softlabel_codec", "copy", source, out, "--shards", "2", "--crops", "1"]
        started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while not list(out.glob("*.slc.partial")) and started.poll() is None:
            time.sleep(0.001)
        started.send_signal(2)
        error = started.communicate()[1]
        if started.returncode:  # or else it had finished before the signal came
            break
    assert (started.returncode, error) == (130, "slcodec: interrupted. Nothing was written\n")
    assert not out.exists()


def test_keys_that_are_not_text_are_named(tmp_path):
    source = write(tmp_path / "a.slc", ["a", "bad", "c"])
    source.write_bytes(with_other_keys(source, [b"a", b"b\xffd", b"c"]))
    with pytest.raises(CorruptError, match="a.slc: a key is not UTF-8"):
        copy_labels(source, tmp_path / "b.slc", match="b*")
    assert not (tmp_path / "b.slc").exists()


def with_other_keys(path, keys):
    """Return a file with another list of keys than its blocks have, and sound checksums."""
    with OpenContainer(path) as container:
        trailer, index = container.trailer, container.index
        data = container.source.read_at(0, trailer.keys_offset)
        columns = np.diff(index.starts), np.diff(index.first_images), index.num_crops - 1
        ending = Ending(
            pack_key_pages(keys, None),
            True,
            pack_summary(keys, []),
            Index(*(column.astype(kind) for column, kind in zip(columns, "IHH", strict=True))),
        )
        with PartialFile(path.with_name("other")) as file:
            file.append(data)
            write_ending(file, container.beginning.data, ending)
            made = file.partial.read_bytes()
            file.partial.unlink()
    return made


CHOICE = {"asked": {"fidelity": 0.04}, "temperature": 1.0, "pilot_images": 8, "lost": 0.03, "bytes_per_image": 99.5}


@pytest.mark.parametrize(
    ("options", "stays"),
    [({}, True), ({"match": "[a-c]"}, True), ({"crops": 100}, True), ({"crops": 2}, False), ({"codec": "hard"}, False)],
)
def test_a_copy_says_how_its_codec_was_chosen_only_while_that_is_true(tmp_path, options, stays):
    source = write(tmp_path / "a.slc", metadata={"codec_choice": CHOICE, "crops_per_image": 6}, counts=[6] * 8)
    copy_labels(source, tmp_path / "b.slc", **options)
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert reader.metadata.get("codec_choice") == (CHOICE if stays else None)


def test_files_whose_codecs_were_chosen_by_other_images_can_be_merged(tmp_path):
    one = write(tmp_path / "a.slc", "abc", metadata={"codec_choice": CHOICE})
    same, other = (
        write(tmp_path / f"{key}.slc", key, metadata={"codec_choice": {**CHOICE, "lost": lost}}) for key, lost in (("d", 0.03), ("e", 0.02))
    )
    copy_labels([one, same], tmp_path / "same.slc")
    copy_labels([one, other], tmp_path / "other.slc")
    with SoftLabelReader(tmp_path / "same.slc") as alike, SoftLabelReader(tmp_path / "other.slc") as merged:
        assert (alike.metadata, merged.metadata) == ({"codec_choice": CHOICE}, {})
