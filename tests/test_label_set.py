"""The index of a label set, and how it is made of shards."""

import hashlib
import json

import numpy as np
import pytest

from softlabel_codec import CorruptError, CropSampler, LimitError, MismatchError, NewerVersionError, NotAContainerError, SoftLabelWriter
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.making import images_of_shard, index_path, shard_name, write_index


def write_shard(path, keys, *, num_crops=2, codec="hard", **options):
    rng = np.random.default_rng(0)
    with SoftLabelWriter(path, num_classes=4, codec=codec, **{"metadata": {"temperature": 1.0}, **options}) as writer:
        for key in keys:
            where = {} if options.get("sampler") else {"crops": np.tile([0, 0, 5, 5], (num_crops, 1)), "flips": np.zeros(num_crops, bool)}
            writer.add(key, image_size=(9, 9), probs=rng.dirichlet(np.ones(4), num_crops), **where)
    return path


def make_set(folder, keys=(("a", "b"), (), ("c",)), **options):
    files = [write_shard(folder / shard_name("x", number, len(keys)), some, **options) for number, some in enumerate(keys)]
    return files, write_index(index_path(folder, "x"), files)


def test_an_index_says_what_is_in_the_shards(tmp_path):
    sampler = CropSampler(3)
    files, index = make_set(tmp_path, sampler=sampler, crops="derived")
    values = json.loads((tmp_path / "x.slc.index.json").read_bytes())
    assert values["num_images"], values["num_crops"] == (3, 6)
    assert (values["codec"], values["num_classes"], values["crops_per_image"]) == ("hard", 4, 2)
    assert (values["metadata"], values["crop_sampler"]) == ({"temperature": 1.0}, sampler.describe())
    fingerprints = b""
    for file, shard in zip(files, values["shards"], strict=True):
        data = file.read_bytes()
        assert (shard["file"], shard["bytes"], shard["sha256"]) == (file.name, len(data), hashlib.sha256(data).hexdigest())
        fingerprint = hashlib.sha256(data[-112:])
        assert shard["fingerprint"] == fingerprint.hexdigest()
        fingerprints += fingerprint.digest()
    assert [(shard["first_key"], shard["last_key"]) for shard in values["shards"]] == [("a", "b"), (None, None), ("c", "c")]
    assert values["fingerprint"] == index.fingerprint == hashlib.sha256(fingerprints).hexdigest()
    assert SetIndex.unpack(index.pack()) == index


def test_images_with_different_numbers_of_crops(tmp_path):
    files = [write_shard(tmp_path / f"{number}.slc", [str(number)], num_crops=number) for number in (1, 2)]
    index = write_index(index_path(tmp_path, "x"), files)
    assert index.crops_per_image is None
    assert "crops_per_image" not in json.loads(index.pack())
    assert SetIndex.unpack(index.pack()) == index


@pytest.mark.parametrize(("num_images", "num_shards"), [(10, 3), (2, 5), (0, 2), (7, 7), (1_281_167, 64)])
def test_each_image_belongs_to_one_shard(num_images, num_shards):
    parts = [images_of_shard(num_images, number, num_shards) for number in range(num_shards)]
    assert [number for part in parts for number in part] == list(range(num_images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_that_do_not_belong_together(tmp_path):
    first = write_shard(tmp_path / "a.slc", ["a"])
    other = write_shard(tmp_path / "b.slc", ["b"], metadata={"temperature": 4.0})
    with pytest.raises(MismatchError, match=r"b\.slc: expected the metadata of a\.slc.*temperature.*expected 1\.0, found 4\.0"):
        write_index(index_path(tmp_path, "x"), [first, other])
    assert not index_path(tmp_path, "x").exists()


@pytest.mark.parametrize("second", [["b", "n", "z"], ["n", "aa"], ["a"], ["z"]])
def test_a_key_in_two_shards(tmp_path, second):
    first, between = write_shard(tmp_path / "0.slc", ["z", "a", "n"]), write_shard(tmp_path / "1.slc", ["o", "p"])
    files = [first, between, write_shard(tmp_path / "2.slc", second)]
    with pytest.raises(MismatchError, match=r"expected it in one shard of the set, got it in 0\.slc and 2\.slc"):
        write_index(index_path(tmp_path, "x"), files)


def test_overlapping_ranges_of_keys(tmp_path):
    files = [write_shard(tmp_path / f"{number}.slc", keys) for number, keys in enumerate((["a", "z"], ["b", "y"], ["c"], ["zz"]))]
    assert write_index(index_path(tmp_path, "x"), files).num_images == 6


def test_a_damaged_shard_is_no_part_of_a_set(tmp_path):
    files, _ = make_set(tmp_path)
    data = bytearray(files[2].read_bytes())
    data[len(data) // 2] ^= 1
    files[2].write_bytes(data)
    with pytest.raises(CorruptError, match=r"x-00002-of-00003\.slc"):
        write_index(index_path(tmp_path, "x"), files)


def changed(**changes):
    return lambda values: {**values, **changes}


def of_shard(**changes):
    return lambda values: {**values, "shards": [{**values["shards"][0], **changes}, *values["shards"][1:]]}


def without(name):
    return lambda values: {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed(format="softlabel"), NotAContainerError, "format"),
        (changed(major=2, codec=None), NewerVersionError, "version 1"),
        (changed(major=1.0), CorruptError, "major"),
        (without("minor"), CorruptError, "minor"),
        (without("codec"), CorruptError, "codec"),
        (without("shards"), CorruptError, "shards"),
        (changed(shards=[]), CorruptError, "shards"),
        (changed(shards=[{}] * 100_001), LimitError, "100000"),
        (changed(num_images=4), CorruptError, "num_images: expected 3"),
        (changed(num_crops=5), CorruptError, "num_crops: expected 6"),
        (changed(num_images=3.0), CorruptError, "num_images"),
        (changed(crops_per_image=3), CorruptError, "shard 0: crops: expected 3 for each of 2 images, got 4"),
        (changed(crops_per_image=True), CorruptError, "crops_per_image"),
        (changed(fingerprint="0" * 64), CorruptError, "fingerprint"),
        (changed(num_classes=1), LimitError, "num_classes"),
        (of_shard(file="../x.slc"), CorruptError, "shard 0: file"),
        (of_shard(file="x-00002-of-00003.slc"), CorruptError, "that of another shard"),
        (of_shard(bytes=-1), CorruptError, "shard 0: bytes"),
        (of_shard(sha256="A" * 64), CorruptError, "sha256"),
        (of_shard(fingerprint=None), CorruptError, "fingerprint"),
        (of_shard(images=5), CorruptError, "shard 0: crops"),
        (of_shard(images=0, crops=0), CorruptError, "first_key"),
        (of_shard(first_key="c"), CorruptError, "first_key"),
        (of_shard(last_key=None), CorruptError, "last_key"),
        (of_shard(first_key="\ud800"), CorruptError, "UTF-8"),
    ],
)
def test_an_index_that_is_wrong(tmp_path, change, error, message):
    _, index = make_set(tmp_path)
    values = change(json.loads(index.pack()))
    with pytest.raises(error, match=message):
        SetIndex.unpack(json.dumps(values).encode())


@pytest.mark.parametrize(
    "data", [b"", b"\x89SLC\r\n\x1a\n", b"[]", b'{"format": NaN}', b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}"]
)
def test_a_file_that_is_no_index(data):
    with pytest.raises(NotAContainerError):
        SetIndex.unpack(data)


def test_a_key_twice_in_an_index():
    with pytest.raises(CorruptError, match="twice"):
        SetIndex.unpack(b'{"format": "softlabel set", "format": "softlabel set"}')


def test_what_a_later_version_adds_is_ignored(tmp_path):
    _, index = make_set(tmp_path)
    values = of_shard(more=1)(changed(minor=7, more={"x": [1]})(json.loads(index.pack())))
    assert SetIndex.unpack(json.dumps(values).encode()) == index
