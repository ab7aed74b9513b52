"""Label sets as readers see them: like one file, opened piece by piece, and never silently wrong."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import write_labels
from dissect import Pieces
from label_sets import COUNTS, SHARDS, edit_index, shard_of, write_both, write_set, write_shard
from vectors.invalid import Content

from softlabel_codec import (
    ArgumentError,
    CorruptError,
    CropSampler,
    LimitError,
    MismatchError,
    NotAContainerError,
    Padding,
    SoftLabelError,
    SoftLabelReader,
    StateError,
    TruncatedError,
)
from softlabel_codec.label_set import open_shards
from softlabel_codec.label_set.making import index_path, shard_name, write_index

KEYS = [key for keys in SHARDS for key in keys]
DERIVED = {"crops": "derived", "sampler": CropSampler(seed=5)}


def equal(found, wanted):
    """Check that two images or batches are the same, bit for bit."""
    for name, value in vars(wanted).items():
        if name == "labels":
            equal(found.labels, value)
        elif hasattr(value, "__dict__"):
            equal(getattr(found, name), value)
        else:
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


@pytest.fixture
def few_open(monkeypatch):
    """Let only two shards stay open, and batches read from two at a time."""
    monkeypatch.setattr(open_shards, "MOST_OPEN", 2)
    monkeypatch.setattr(open_shards, "_AT_A_TIME", 2)


# The same as a file


@pytest.mark.parametrize("num_crops", [None, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        DERIVED,
        {"codec": "marginal_smoothing:t=0.1,tail=9", **DERIVED},
        {"codec": "dense:values=f16"},
        {"codec": "hard", "padding": Padding(3)},
    ],
)
def test_a_set_reads_like_a_file(tmp_path, options, num_crops, few_open):
    folder, whole = write_both(tmp_path, num_crops=num_crops, **options)
    rng = np.random.default_rng(0)
    with SoftLabelReader(folder) as reader, SoftLabelReader(whole) as file:
        assert (len(reader), reader.codec, reader.num_classes, reader.crops) == (len(file), file.codec, file.num_classes, file.crops)
        assert (reader.metadata, reader.sampler, reader.padding) == (file.metadata, file.sampler, file.padding)
        assert reader.image_checksums == file.image_checksums
        assert repr(reader).partition(":")[2] == repr(file).partition(":")[2]
        assert reader.num_crops.tolist() == file.num_crops.tolist()
        assert reader.num_crops.dtype == np.int64
        for found, wanted in zip(reader, file, strict=True):
            equal(found, wanted)
        for number, key in enumerate(KEYS):
            equal(reader[key], file[number])
            equal(reader.read(number - len(KEYS), [0, -0]), file.read(number, [0, 0]))
        for _ in range(20):
            numbers = rng.integers(0, len(KEYS), rng.integers(1, 9))
            equal(reader.read_batch(numbers), file.read_batch(numbers))
            chosen = rng.integers(0, file.num_crops[numbers][:, None], (len(numbers), 3))
            equal(reader.read_batch(numbers, chosen), file.read_batch(numbers, chosen))
            equal(reader.draw(numbers, 1, seed=3, epoch=7), file.draw(numbers, 1, seed=3, epoch=7))
        equal(reader.read_batch(KEYS[::-1]), file.read_batch(KEYS[::-1]))


def test_keys_of_a_set_are_those_of_a_file(tmp_path, few_open):
    folder, whole = write_both(tmp_path)
    with SoftLabelReader(folder) as reader, SoftLabelReader(whole) as file:
        assert list(reader.keys) == KEYS == reader.keys
        assert (len(reader.keys), reader.keys[-1], reader.keys[1:5:2]) == (6, KEYS[-1], KEYS[1:5:2])
        assert pickle.loads(pickle.dumps(reader.keys)) == KEYS
        for number, key in enumerate(KEYS):
            assert key in reader
            assert reader.keys.index(key) == reader.keys.find(key) == number
        for key in ("", "a", "a/4.jpg", "b/0", "zz", "\udfff", "b/1.jpg\0"):
            assert key not in reader
            assert reader.keys.find(key) is None
        assert 3 not in reader
        with pytest.raises(IndexError, match="image number: expected -6 to 5, got 6"):
            reader.keys[6]
        for match, keys in (("exact", KEYS[::-1]), ("stem", [key[:-4] for key in KEYS]), (str.upper, ["a/2.jPg"])):
            assert reader.find(keys, match).tolist() == file.find(keys, match).tolist()
        assert reader.find(["nowhere", "b/1.jpg"], missing=-1).tolist() == [-1, 3]
        with pytest.raises(KeyError, match=r"got 'b/1.jpeg'. Nearest: 'b/1.jpg', .* Pass match='stem'"):
            reader.find(["b/1.jpeg"])
        with pytest.raises(KeyError, match="no image with the key 'q'"):
            reader["q"]
        with pytest.raises(IndexError, match=r"image 3 \('b/1.jpg'\): crop number: expected 0 to 6, got 7"):
            reader.read(3, [7])
        with pytest.raises(MismatchError, match="got 'a/1.jpg' and 'b/1.jpg'"):
            reader.find(["1.jpg"], "basename")


def test_a_key_is_looked_for_where_it_can_be(tmp_path):
    shards = (("b", "y"), ("a", "z"), ("c",), ("zz",), ("0",), ("d", "x", "m"))
    folder = write_set(tmp_path / "set", shards, num_crops=2)
    keys = [key for some in shards for key in some]
    with SoftLabelReader(folder) as reader:
        assert [reader.keys.find(key) for key in keys] == list(range(len(keys)))
        assert [key for key in ("", "00", "bb", "e", "yy", "zzz") if key in reader] == []
    shard_of(folder, 2, 6).unlink()
    with SoftLabelReader(folder) as reader:  # where no range holds the key, the shard is not needed
        assert reader["zz"].num_crops == reader["b"].num_crops == 2
        with pytest.raises(FileNotFoundError):
            reader["c"]


def test_a_set_without_images(tmp_path):
    folder = write_set(tmp_path / "set", ((), ()))
    with SoftLabelReader(folder) as reader:
        assert (len(reader), list(reader), list(reader.keys), reader.num_crops.tolist()) == (0, [], [], [])
        assert "a" not in reader
        assert reader.find(["a"], missing=-1).tolist() == [-1]
        with pytest.raises(KeyError, match="Nearest: none"):
            reader.find(["a"])
        with pytest.raises(IndexError, match="there are no images"):
            reader.read(0)


def test_images_that_were_skipped_are_those_of_all_shards(tmp_path):
    files = [write_shard(tmp_path / shard_name("x", n, 3), [f"{n}"], 2, skipped_keys=skipped) for n, skipped in enumerate(("a", "", "bc"))]
    write_index(index_path(tmp_path, "x"), files)
    with SoftLabelReader(tmp_path) as reader:
        assert reader.summary == {"skipped_keys": ["a", "b", "c"]}


# Which set


def test_a_set_is_opened_by_its_folder_or_its_index(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    for path in (folder, folder / "x.slc.index.json", "set", "set/x.slc.index.json", Path("set")):
        with SoftLabelReader(path) as reader:
            monkeypatch.chdir("/")  # before the first shard is opened
            assert reader["c/1.jpg"].num_crops == 12
            assert reader.path.name == "x.slc.index.json"
            assert str(reader.path) in repr(reader)
        monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    with SoftLabelReader(tmp_path / "link") as reader:
        assert len(reader) == 6


def test_two_sets_in_a_folder(tmp_path):
    write_set(tmp_path, name="x")
    write_set(tmp_path, SHARDS[:1], name="train")
    with pytest.raises(ArgumentError, match=r"expected one label set, got 2: train\.slc\.index\.json, x\.slc\.index\.json"):
        SoftLabelReader(tmp_path)
    with SoftLabelReader(tmp_path / "train.slc.index.json") as reader:
        assert list(reader.keys) == list(SHARDS[0])


def test_an_unfinished_set(tmp_path):
    folder = write_set(tmp_path / "set")
    (folder / "x.slc.index.json").unlink()
    shard_of(folder, 1).unlink()
    shard_of(folder, 2).rename(shard_of(folder, 2).with_suffix(".slc.partial"))
    with pytest.raises(
        TruncatedError, match="an unfinished label set: 2 of 4 shards of 'x' are finished and 1 begun, and there is no index"
    ):
        SoftLabelReader(folder)


def test_a_folder_without_a_set(tmp_path):
    write_labels(tmp_path / "a.slc")
    with pytest.raises(IsADirectoryError, match=r"got a folder without an index \(NAME\.slc\.index\.json\)"):
        SoftLabelReader(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.slc\.index\.json"):
        SoftLabelReader(tmp_path / "x.slc.index.json")


@pytest.mark.parametrize(("data", "error"), [(b"", NotAContainerError), (b"{}", NotAContainerError), (bytes(2**26 + 1), LimitError)])
def test_an_index_that_is_none(tmp_path, data, error):
    (tmp_path / "x.slc.index.json").write_bytes(data)
    with pytest.raises(error, match=r"x\.slc\.index\.json: "):
        SoftLabelReader(tmp_path)


# Opened piece by piece


def test_opening_reads_the_index_only(tmp_path):
    folder = write_set(tmp_path / "set", num_crops=3)
    for number in range(len(SHARDS)):
        shard_of(folder, number).unlink()
    with SoftLabelReader(folder) as reader:
        assert (len(reader), reader.num_crops.tolist(), reader.codec) == (6, [3] * 6, "marginal_smoothing:k=5")
        with pytest.raises(FileNotFoundError):
            reader.read(0)


def open_files(folder):
    """Return how many files of a folder this process has open."""
    links = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]
    return sum(link.startswith(str(folder)) for link in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files")
def test_a_bounded_number_of_shards_stays_open(tmp_path, few_open):
    folder = write_set(tmp_path / "set", [[f"{number}"] for number in range(9)], num_crops=2)
    reader = SoftLabelReader(folder)
    assert open_files(folder) == 0
    for number in (3, 8, 0, 3):
        reader.read(number)
        assert open_files(folder) <= 2
    reader.read_batch(range(9))
    assert open_files(folder) <= 2
    assert len(list(reader.keys)) == 9
    assert open_files(folder) <= 2
    del reader  # what is not closed is closed when it is not used any more
    assert open_files(folder) == 0


@pytest.mark.parametrize("options", [{}, DERIVED])
def test_threads_share_a_set_of_which_few_shards_are_open(tmp_path, few_open, options):
    shards = [[f"{shard}-{image}" for image in range(3)] for shard in range(20)]
    folder, whole = write_both(tmp_path, shards, num_crops=4, **options)
    with SoftLabelReader(folder) as reader, SoftLabelReader(whole) as file:
        wanted = list(file)

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(30):
                numbers = rng.integers(0, 60, 5)
                equal(reader.read(int(numbers[0])), wanted[numbers[0]])
                for found, number in zip(reader.read_batch(numbers), numbers, strict=True):
                    equal(found, wanted[number])
                assert reader.keys[int(numbers[1])] in reader

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))


def test_forked_processes_share_a_set(tmp_path):
    folder = write_set(tmp_path / "set")
    code = f"""
import os, sys
from softlabel_codec import SoftLabelReader
reader = SoftLabelReader({str(folder)!r})
wanted = [reader[key].num_crops for key in ("a/1.jpg", "c/1.jpg")]
child = os.fork()
found = [image.num_crops for image in reader]
if child:
    sys.exit(os.waitpid(child, 0)[1] or found != {list(COUNTS.values())})
os._exit(found != {list(COUNTS.values())})
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_of_a_set_is_pickled_by_path_and_fingerprint(tmp_path):
    folder = write_set(tmp_path / "set")
    with SoftLabelReader(folder, policy="renorm") as reader:
        data = pickle.dumps(reader)
        assert len(data) < 1000
        with pickle.loads(data) as copy:
            equal(copy.read_batch([0, 5]), reader.read_batch([0, 5]))
    write_set(folder, seed=1, overwrite=True)
    with pytest.raises(StateError, match=r"x\.slc\.index\.json: the file was replaced after the reader was created"):
        pickle.loads(data)


def test_the_fingerprint_differs_if_any_shard_does(tmp_path):
    with SoftLabelReader(write_set(tmp_path / "set")) as reader:
        first = reader.fingerprint
        assert first == json.loads((tmp_path / "set" / "x.slc.index.json").read_bytes())["fingerprint"]
    with SoftLabelReader(write_set(tmp_path / "set", seed=1, overwrite=True)) as reader:
        assert reader.fingerprint != first


def test_a_closed_set(tmp_path):
    reader = SoftLabelReader(write_set(tmp_path / "set"))
    reader.read(0)
    reader.close()
    reader.close()
    for act in (lambda: reader.read(0), lambda: reader.read_batch([0, 5]), lambda: reader.keys[0], lambda: "b/1.jpg" in reader):
        with pytest.raises(StateError, match=r"x\.slc\.index\.json: the label set is closed"):
            act()


# Damage


def test_a_missing_shard_is_named_and_the_others_can_be_read(tmp_path):
    folder = write_set(tmp_path / "set")
    shard_of(folder, 2).unlink()
    with SoftLabelReader(folder, on_corrupt="skip") as reader:
        again = r"Make it again: run the command that made the set with --shard 2: .*x-00002-of-00004\.slc"
        message = rf"shard 2 of the label set .*x\.slc\.index\.json\. {again}"
        for act in (lambda: reader.read(3), lambda: reader.read_batch([0, 3]), lambda: list(reader), lambda: reader["b/1.jpg"]):
            with pytest.raises(FileNotFoundError, match=message):
                act()
        assert [reader.read(number).num_crops for number in (0, 1, 2, 4, 5)] == [3, 1, 40, 2, 12]


def replaced_by_another_run(folder, tmp_path):
    write_shard(shard_of(folder, 2), SHARDS[2], seed=1, overwrite=True)


def replaced_by_another_shard(folder, tmp_path):
    shard_of(folder, 2).write_bytes(shard_of(folder, 0).read_bytes())


def cut_off(folder, tmp_path):
    data = shard_of(folder, 2).read_bytes()
    shard_of(folder, 2).write_bytes(data[:-200])


def emptied(folder, tmp_path):
    shard_of(folder, 2).write_bytes(b"")


def no_label_file(folder, tmp_path):
    length = shard_of(folder, 2).stat().st_size
    shard_of(folder, 2).write_bytes(b"<html>".ljust(length))


def of_another_set(folder, tmp_path):
    other = write_set(tmp_path / "other", codec="hard")
    shard_of(folder, 2).write_bytes(shard_of(other, 2).read_bytes())


def index_of_another_set(folder, tmp_path):
    other = write_set(tmp_path / "other", seed=1)
    (folder / "x.slc.index.json").write_bytes((other / "x.slc.index.json").read_bytes())


@pytest.mark.parametrize(
    "damage",
    [replaced_by_another_run, replaced_by_another_shard, cut_off, emptied, no_label_file, of_another_set, index_of_another_set],
    ids=lambda damage: damage.__name__,
)
def test_a_file_that_is_not_the_shard_is_named(tmp_path, damage):
    folder = write_set(tmp_path / "set")
    damage(folder, tmp_path)
    with SoftLabelReader(folder) as reader:
        for act in (lambda: reader.read(3), lambda: reader.read_batch([3, 3]), lambda: reader.keys[3], lambda: reader["b/1.jpg"]):
            with pytest.raises(
                MismatchError, match=r"x-00002-of-00004\.slc: shard 2 of the label set .*x\.slc\.index\.json: expected .* replaced"
            ):
                act()


def test_a_shard_that_cannot_be_opened_is_named(tmp_path):
    folder = write_set(tmp_path / "set")
    shard_of(folder, 2).unlink()
    shard_of(folder, 2).mkdir()
    with SoftLabelReader(folder) as reader, pytest.raises(IsADirectoryError, match=r"shard 2 of the label set .*00002-of-00004\.slc"):
        reader.read(3)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_shard_that_may_not_be_read_is_named(tmp_path):
    folder = write_set(tmp_path / "set")
    shard_of(folder, 2).chmod(0)
    with SoftLabelReader(folder) as reader, pytest.raises(PermissionError, match=r"shard 2 of the label set .*00002-of-00004\.slc"):
        reader.read(3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"codec": "marginal_smoothing:k=4"}, MismatchError, "metadata in the index.*codec: expected marginal_smoothing:k=4, found mar"),
        ({"num_classes": 21}, MismatchError, "metadata in the index.*num_classes: expected 21, found 20"),
        ({"metadata": {"temperature": 4.0}}, MismatchError, r"metadata in the index.*metadata\['temperature'\]: expected 4.0, found 1.0"),
        ({"metadata": {}}, MismatchError, r"metadata in the index.*temperature"),
        ({"image_checksum": "crc32"}, MismatchError, "metadata in the index.*image_checksums: expected True"),
        (
            {"shard_2": {"images": 2, "crops": 6}, "num_images": 7, "num_crops": 21},
            CorruptError,
            "expected 2 images with 6 crops.*got 1 with 3",
        ),
    ],
)
def test_an_index_that_does_not_say_what_is_in_the_shards(tmp_path, changes, error, message):
    folder = write_set(tmp_path / "set", num_crops=3)
    edit_index(folder, **changes, **({"crops_per_image": 3} if "shard_2" in changes else {}))
    with SoftLabelReader(folder) as reader, pytest.raises(error, match=rf"x-00002-of-00004\.slc: shard 2 of .*{message}"):
        reader.read(3)


def test_different_numbers_of_crops_that_add_up(tmp_path):
    files = [write_shard(tmp_path / shard_name("x", 0, 1), ["a/1.jpg", "b/1.jpg"])]
    write_index(index_path(tmp_path, "x"), files)
    values = json.loads((tmp_path / "x.slc.index.json").read_bytes())
    (tmp_path / "x.slc.index.json").write_text(json.dumps({**values, "crops_per_image": 5}))
    with SoftLabelReader(tmp_path) as reader, pytest.raises(CorruptError, match="expected 5 crops of every image, as the index says"):
        reader.read(0)


def test_no_change_of_an_index_passes_unseen(tmp_path):
    folder = write_set(tmp_path / "set", num_crops=2, **DERIVED)
    with SoftLabelReader(folder) as reader:
        wanted = reader.read_batch(range(6))
    path = folder / "x.slc.index.json"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(data), 200, replace=False).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ int(rng.integers(1, 128))]) + data[place + 1 :])
        try:
            with SoftLabelReader(folder) as reader:
                equal(reader.read_batch(range(6)), wanted)
                reader.find(KEYS, missing=-1)
        except (SoftLabelError, OSError) as error:
            assert "x.slc.index.json" in str(error)  # noqa: PT017  what is raised depends on the byte


def put(folder, number, data):
    """Replace a shard, and what the index says of its file."""
    shard_of(folder, number).write_bytes(data)
    values = json.loads((folder / "x.slc.index.json").read_bytes())
    trailer = hashlib.sha256(data[-112:])
    values["shards"][number] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "fingerprint": trailer.hexdigest()}
    all_of_them = b"".join(bytes.fromhex(shard["fingerprint"]) for shard in values["shards"])
    (folder / "x.slc.index.json").write_text(json.dumps({**values, "fingerprint": hashlib.sha256(all_of_them).hexdigest()}))


@pytest.mark.parametrize("change", ["writer", "header"])
def test_shards_with_other_metadata_than_each_other(tmp_path, change):
    folder = write_set(tmp_path / "set")
    pieces = Pieces.of(shard_of(folder, 2))
    if change == "writer":
        pieces.set_values(writer="another")
    else:
        pieces.header = {"compatible_features": 8}
    put(folder, 2, pieces.join())
    expected = {"writer": r"other\['writer'\]: expected 'softlabel_codec .*', found 'another'", "header": "other bits or another version"}
    with SoftLabelReader(folder) as reader:
        reader.read(0)
        message = (
            rf"x-00002-of-00004\.slc: shard 2 .*expected the metadata of x-00000-of-00004\.slc, as in one label set: {expected[change]}"
        )
        with pytest.raises(MismatchError, match=message):
            reader.read(3)
    with SoftLabelReader(folder) as reader:
        reader.read(3)
        with pytest.raises(MismatchError, match=r"x-00000-of-00004\.slc: shard 0 .*expected the metadata of x-00002-of-00004\.slc"):
            reader.read(0)


def test_crops_of_every_shard_are_compared_with_the_sampler(tmp_path, few_open):
    folder = write_set(tmp_path / "set", **DERIVED)
    pieces = Pieces.of(shard_of(folder, 2))
    put(folder, 2, Content(pieces).set_field("crops_crc32", 1).join())
    with SoftLabelReader(folder) as reader:
        for act in (lambda: reader.read(3, [0]), lambda: reader.read_batch([3, 4])):
            reader.read(0, [0])
            with pytest.raises(CorruptError, match=r"x-00002-of-00004\.slc: block 0 .*are not those that were labelled"):
                act()


def test_damaged_blocks_are_skipped_by_their_numbers_in_the_set(tmp_path):
    folder = write_set(tmp_path / "set")
    damaged = bytearray(shard_of(folder, 3).read_bytes())
    with SoftLabelReader(shard_of(folder, 3)) as reader:
        damaged[int(reader.container.index.starts[0]) + 30] ^= 1
        lost = int(reader.container.index.first_images[1])
    shard_of(folder, 3).write_bytes(damaged)  # the trailer, and so the fingerprint, are as they were
    with SoftLabelReader(folder) as reader, pytest.raises(CorruptError, match=r"x-00003-of-00004\.slc: block 0 at byte \d+, image"):
        reader.read_batch([0, 4, 3])
    with SoftLabelReader(folder, on_corrupt="skip") as reader:
        assert len(list(reader)) == 6 - lost
        assert reader.damaged_images == list(range(4, 4 + lost))
        batch = reader.read_batch([0, 4, 3])
        assert batch.images.tolist() == [0, 3]
        assert reader.read(3).num_crops == 7
