"""The cache of whole files that are behind URLs."""

import errno
import logging
import os
import pickle
import resource
import signal

import numpy as np
import pytest
from conftest import write_labels
from flaky_storage import put
from label_sets import write_set

from softlabel_codec import ArgumentError, CorruptError, SoftLabelReader
from softlabel_codec.storage import cache, remote_source
from softlabel_codec.storage.cache import Cache

COUNTS = [60, 3, 40, 7] * 30


@pytest.fixture(autouse=True)
def few_bytes(monkeypatch, tmp_path):
    """Make small files behave like large ones, and keep them in a folder of the test."""
    for name, value in {"BEGINNING_BYTES": 256, "END_BYTES": 512, "GAP_BYTES": 100, "REQUEST_BYTES": 5000}.items():
        monkeypatch.setattr(remote_source, name, value)
    monkeypatch.setattr(cache, "ROUND_BYTES", 10_000)
    monkeypatch.setenv("SOFTLABEL_CACHE", str(tmp_path / "usual"))
    monkeypatch.delenv("SOFTLABEL_CACHE_SIZE", raising=False)


@pytest.fixture
def local(tmp_path):
    write_labels(tmp_path / "labels.slc", counts=COUNTS)
    return tmp_path / "labels.slc"


@pytest.fixture
def url(files, local):
    return put(files, local)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def names(folder):
    return sorted(path.suffix for path in folder.iterdir())


def ranges_of(files):
    return [asked for asked in files.requests() if asked != "info"]


def assert_reads(reader, local):
    with SoftLabelReader(local) as expected:
        images = np.arange(0, len(expected), 7)
        np.testing.assert_array_equal(reader.read_batch(images).labels.dense(), expected.read_batch(images).labels.dense())


def test_a_file_is_fetched_once(files, url, local, folder):
    with SoftLabelReader(url, cache=folder) as reader:
        assert str(reader.path) == url
        length = local.stat().st_size
        asked = ranges_of(files)
        assert asked[:2] == [(0, 256), (length - 512, length)]
        assert sum(stop - start for start, stop in asked[2:]) == length
        assert_reads(reader, local)
        with SoftLabelReader(url, cache=folder) as other, pickle.loads(pickle.dumps(reader)) as copy:
            assert ranges_of(files) == asked[:2] * 2  # which file it is now
            assert_reads(other, local)
            assert_reads(copy, local)
        assert ranges_of(files) == []
    assert names(folder) == [".slc"]
    assert next(folder.iterdir()).read_bytes() == local.read_bytes()


def test_a_file_that_was_replaced_is_fetched_again(files, url, local, folder):
    SoftLabelReader(url, cache=folder).close()
    write_labels(local, counts=COUNTS, seed=1, overwrite=True)
    put(files, local)
    with SoftLabelReader(url, cache=folder) as reader:
        assert_reads(reader, local)
    assert names(folder) == [".slc", ".slc"]


def test_what_breaks_off_is_continued(files, url, local, folder):
    files.faults += [None] * 5 + [ConnectionResetError("reset")] * 20
    with pytest.raises(OSError, match=f"ConnectionResetError reset, 3 times in a row: '{url}'"):
        SoftLabelReader(url, cache=folder)
    files.faults.clear()
    files.requests()
    assert names(folder) == [".part"]
    assert next(folder.iterdir()).stat().st_size == 10_000
    with SoftLabelReader(url, cache=folder) as reader:
        assert min(start for start, _ in ranges_of(files)[2:]) == 10_000
        assert_reads(reader, local)
    assert names(folder) == [".slc"]


def test_what_was_damaged_meanwhile_is_fetched_from_the_beginning(files, url, local, folder):
    files.faults += [None] * 5 + [ConnectionResetError("reset")] * 20
    with pytest.raises(OSError, match="reset"):
        SoftLabelReader(url, cache=folder)
    files.faults.clear()
    part = next(folder.iterdir())
    part.write_bytes(bytes(10_000))
    with SoftLabelReader(url, cache=folder) as reader:
        assert_reads(reader, local)
    assert next(folder.iterdir()).read_bytes() == local.read_bytes()


def test_what_is_damaged_in_the_service_is_read_there(files, url, local, folder, caplog):
    data = bytearray(local.read_bytes())
    with SoftLabelReader(local) as reader:
        start = int(reader.container.index.starts[reader.container.index.locate(70)[0]])
    data[start + 20] ^= 1
    files.pipe_file("/bucket/labels.slc", bytes(data))
    with SoftLabelReader(url, cache=folder) as reader:
        assert caplog.messages == [f"{url}: not kept, but read from where it is: it is not what its checksum says"]
        reader.read_batch([3, 110])
        with pytest.raises(CorruptError, match=f"^{url}: block"):
            reader[70]
    assert names(folder) == []


def test_copies_that_are_damaged(files, url, local, folder, caplog):
    SoftLabelReader(url, cache=folder).close()
    copy = next(folder.iterdir())
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with SoftLabelReader(url, cache=folder) as reader, pytest.raises(CorruptError, match=rf"^{url} \(its copy {copy}\): block"):
        list(reader)
    copy.write_bytes(bytes(len(data)))  # as after a power failure
    with SoftLabelReader(url, cache=folder) as reader:
        assert caplog.messages == [f"{url}: its copy {copy} was damaged, and is removed"]
        assert_reads(reader, local)


def test_files_that_were_not_used_for_longest_make_room(files, local, folder, monkeypatch):
    urls = [put(files, local, f"bucket/{number}.slc") for number in range(4)]
    for number, url in enumerate(urls):
        write_labels(local, counts=COUNTS, seed=number, overwrite=True)
        put(files, local, url.removeprefix("flaky://"))
    length = local.stat().st_size
    monkeypatch.setenv("SOFTLABEL_CACHE_SIZE", f"{2.5 * length / 1000:.3f}kB")
    kept = {}
    for number, url in enumerate(urls[:2]):
        SoftLabelReader(url, cache=folder).close()
        kept[number] = next(path for path in folder.iterdir() if path not in kept.values())
        os.utime(kept[number], (number, number))
    with SoftLabelReader(urls[0], cache=folder):  # used again, and in use
        SoftLabelReader(urls[2], cache=folder).close()
        assert kept[0].exists()
        assert not kept[1].exists()
        with SoftLabelReader(urls[2], cache=folder), SoftLabelReader(urls[3], cache=folder) as reader:
            assert ranges_of(files)
            reader.read_batch([3, 110])
            assert ranges_of(files)  # no room: the other two are in use
        SoftLabelReader(urls[3], cache=folder).close()
    assert len(names(folder)) == 2
    assert kept[0].exists()


def test_what_does_not_fit_is_read_where_it_is(files, url, local, folder, monkeypatch, caplog):
    monkeypatch.setenv("SOFTLABEL_CACHE_SIZE", "1000")
    with SoftLabelReader(url, cache=folder) as reader:
        assert caplog.messages == [f"{url}: not kept: it has {local.stat().st_size} bytes, the cache 1000 (SOFTLABEL_CACHE_SIZE)"]
        assert_reads(reader, local)
    assert names(folder) == []


def test_a_full_disk(files, url, local, folder, caplog):
    SoftLabelReader(put(files, local, "bucket/small.slc"))  # all modules are loaded
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, before[1][1]))
    try:
        reader = SoftLabelReader(url, cache=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    with reader:
        assert [message.partition("[")[0] for message in caplog.messages] == [f"{url}: not kept in {folder}, but read from where it is: "]
        assert_reads(reader, local)
    assert names(folder) == []


def test_a_disk_without_room(files, url, local, folder, monkeypatch, caplog):
    class Usage:
        total, free = 10**9, 1000

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: Usage)
    with SoftLabelReader(url, cache=folder) as reader:
        assert caplog.messages == [f"{url}: not kept, but read from where it is: there is no room in {folder}"]
        assert_reads(reader, local)


def test_shards_of_a_set_are_fetched_when_they_are_needed(files, tmp_path, folder):
    write_set(tmp_path / "set")
    for path in (tmp_path / "set").iterdir():
        put(files, path, f"bucket/set/{path.name}")
    with SoftLabelReader(tmp_path / "set") as expected, SoftLabelReader("flaky://bucket/set", cache=folder) as reader:
        files.requests()
        assert names(folder) == []
        np.testing.assert_array_equal(reader["c/1.jpg"].labels.dense(), expected["c/1.jpg"].labels.dense())
        assert names(folder) == [".slc"]
        batch = reader.read_batch([0, 5, 3])
        np.testing.assert_array_equal(batch.labels.dense(), expected.read_batch([0, 5, 3]).labels.dense())
        assert names(folder) == [".slc"] * 3
        assert str(reader.path) == "flaky://bucket/set/x.slc.index.json"
        files.requests()
        with pickle.loads(pickle.dumps(reader)) as copy:
            np.testing.assert_array_equal(copy.read_batch([0, 5, 3]).labels.dense(), batch.labels.dense())
            assert len(ranges_of(files)) == 1  # the index: the shards are known by their fingerprints


def test_a_set_that_does_not_fit_is_not_kept_at_all(files, tmp_path, folder, monkeypatch, caplog):
    write_set(tmp_path / "set")
    for path in (tmp_path / "set").iterdir():
        put(files, path, f"bucket/set/{path.name}")
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "set").glob("*.slc"))
    monkeypatch.setenv("SOFTLABEL_CACHE_SIZE", str(num_bytes - 1))
    with SoftLabelReader("flaky://bucket/set", cache=folder) as reader:
        assert len(list(reader)) == len(reader)
    assert names(folder) == []
    assert [f"they have {num_bytes} bytes, the cache {num_bytes - 1}" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(("said", "num_bytes"), [("1000", 1000), ("1.5 GB", 1_500_000_000), ("2k", 2000), ("3TB", 3 * 10**12)])
def test_sizes(said, num_bytes, folder, monkeypatch):
    monkeypatch.setenv("SOFTLABEL_CACHE_SIZE", said)
    assert Cache(folder).most_bytes == num_bytes


def test_sizes_that_are_none(folder, monkeypatch):
    monkeypatch.setenv("SOFTLABEL_CACHE_SIZE", "much")
    with pytest.raises(ArgumentError, match="SOFTLABEL_CACHE_SIZE: expected bytes such as 50GB, got 'much'"):
        Cache(folder)


def test_folders_that_cannot_be(url, local, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        SoftLabelReader(url, cache=tmp_path / "file" / "cache")
    monkeypatch.setenv("SOFTLABEL_CACHE", str(tmp_path / "file" / "cache"))
    with SoftLabelReader(url, cache=True) as reader:
        assert_reads(reader, local)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_files_of_this_machine_are_not_kept(local, tmp_path):
    with SoftLabelReader(local, cache=True) as reader:
        assert_reads(reader, local)
    assert not (tmp_path / "usual").exists()


@pytest.mark.torch
def test_datasets_keep_what_is_behind_a_url(url, local, tmp_path):
    from softlabel_codec.torch import LabelledCrops, SoftLabelDataset

    with SoftLabelReader(local) as reader:
        images = {key: np.zeros((48, 64, 3), np.uint8) for key in reader.keys}
    SoftLabelDataset(images, url, 1, cache=False)
    LabelledCrops(url, 1, cache=False)
    assert not (tmp_path / "usual").exists()
    dataset = SoftLabelDataset(images, url, 1, 8)
    assert names(tmp_path / "usual") == [".slc"]
    assert pickle.loads(pickle.dumps(dataset))[0].key == dataset.keys[0]
    LabelledCrops(url, 1, cache=tmp_path / "other")
    assert names(tmp_path / "other") == [".slc"]
