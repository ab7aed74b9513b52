"""Labels behind URLs, with file systems of fsspec that are in memory. Real servers are in test_many_storage.py."""

import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_labels
from flaky_storage import Flaky, put
from label_sets import write_set

from softlabel_codec import (
    ArgumentError,
    CorruptError,
    LimitError,
    SoftLabelReader,
    SoftLabelWriter,
    StateError,
    TruncatedError,
    copy_labels,
    recover,
)
from softlabel_codec.cli.main import main
from softlabel_codec.report import inspect, stats, stats_against, verify
from softlabel_codec.storage import remote_source
from softlabel_codec.storage.location import Url, location
from softlabel_codec.storage.objects import names_in, read_the_one, read_whole
from softlabel_codec.storage.remote_source import RemoteSource


@pytest.fixture
def few_bytes(monkeypatch):
    """Make small files behave like large ones, of which little is read at once."""
    for name, value in {
        "BEGINNING_BYTES": 256,
        "END_BYTES": 512,
        "GAP_BYTES": 100,
        "FIRST_AHEAD_BYTES": 1000,
        "TOGETHER_BYTES": 300,
    }.items():
        monkeypatch.setattr(remote_source, name, value)


@pytest.fixture
def local(tmp_path):
    write_labels(tmp_path / "labels.slc", counts=[60, 3, 40, 7] * 30)
    return tmp_path / "labels.slc"


@pytest.fixture
def url(files, local):
    return put(files, local)


def assert_same(image, expected):
    np.testing.assert_array_equal(image.crops, expected.crops)
    np.testing.assert_array_equal(image.labels.dense(), expected.labels.dense())


def test_a_url_gives_what_the_file_gives(url, local, few_bytes):
    with SoftLabelReader(local) as expected, SoftLabelReader(url) as reader:
        assert (len(reader), reader.codec, reader.metadata) == (len(expected), expected.codec, expected.metadata)
        assert (reader.fingerprint, reader.summary, reader.keys) == (expected.fingerprint, expected.summary, list(expected.keys))
        for number in (0, 119, 7):
            assert_same(reader[number], expected[number])
        assert_same(reader[expected.keys[5]], expected[5])
        assert reader.find(expected.keys[3:9]).tolist() == [3, 4, 5, 6, 7, 8]
        for image, one in zip(reader, expected, strict=True):
            assert_same(image, one)
        batch, other = reader.draw([5, 90, 17], 2), expected.draw([5, 90, 17], 2)
        np.testing.assert_array_equal(batch.labels.dense(), other.labels.dense())
        assert str(reader.path) == url == "flaky://bucket/labels.slc"
        assert repr(reader).startswith(f"SoftLabelReader('{url}'")


def test_derived_crops_behind_a_url(files, tmp_path, few_bytes):
    from softlabel_codec import CropSampler, SoftLabelWriter

    with SoftLabelWriter(tmp_path / "a.slc", 4, "hard", crops="derived", sampler=CropSampler(3)) as writer:
        for number in range(700):
            writer.add(f"{number:04d}.png", image_size=(9, 9), probs=np.eye(4, dtype=np.float32)[[number % 4, 1]])
    with SoftLabelReader(tmp_path / "a.slc") as expected, SoftLabelReader(put(files, tmp_path / "a.slc")) as reader:
        np.testing.assert_array_equal(reader.read_batch([699, 0, 5]).crops, expected.read_batch([699, 0, 5]).crops)


def test_opening_asks_for_length_beginning_and_end(files, url, local):
    with SoftLabelReader(url):
        assert files.requests() == ["info", (0, local.stat().st_size), (0, local.stat().st_size)]  # two for S3 and HTTP


def test_opening_asks_once_more_where_the_end_is_longer_than_expected(files, url, local, few_bytes, monkeypatch):
    monkeypatch.setattr(remote_source, "END_BYTES", 200)
    monkeypatch.setattr(remote_source, "TOGETHER_BYTES", 2**20)
    length = local.stat().st_size
    with SoftLabelReader(url) as reader:
        trailer = reader.container.trailer
        asked = [(0, 256), (length - 200, length), (trailer.summary_offset, trailer.trailer_offset)]
        assert [one for one in files.requests() if one != "info"] == asked


def test_a_batch_is_one_round_of_ranges_that_are_not_close(files, url, few_bytes, monkeypatch):
    with SoftLabelReader(url) as reader:
        reader[0], files.requests()
        starts = reader.container.index.starts
        reader.read_batch(np.arange(len(reader))[::20])
        asked = [one for one in files.requests() if one != "info"]
        blocks = np.unique([reader.container.index.locate(number)[0] for number in range(0, len(reader), 20)])
        assert [start for start, _ in asked] == starts[blocks].tolist()
        monkeypatch.setattr(remote_source, "GAP_BYTES", 2**20)
        reader.read_batch(np.arange(len(reader))[::20])
        assert len([one for one in files.requests() if one != "info"]) == 1


def test_long_ranges_are_divided(files, monkeypatch):
    files.pipe_file("/bucket/x", np.random.default_rng(0).bytes(5000))
    monkeypatch.setattr(remote_source, "BEGINNING_BYTES", 10)
    monkeypatch.setattr(remote_source, "END_BYTES", 10)
    monkeypatch.setattr(remote_source, "REQUEST_BYTES", 1000)
    source = RemoteSource(Url("flaky://bucket/x"))
    files.requests()
    assert source.read_many([100, 4000], [2500, 500]) == [
        files.store["/bucket/x"].getvalue()[100:2600],
        files.store["/bucket/x"].getvalue()[4000:4500],
    ]
    assert [one for one in files.requests() if one != "info"] == [(100, 1100), (1100, 2100), (2100, 3100), (3100, 4100), (4100, 4500)]


def test_who_reads_on_and_on_gets_more_at_a_time(files, url, few_bytes):
    with SoftLabelReader(url) as reader:
        files.requests()
        assert len(list(reader)) == len(reader)
        assert len([one for one in files.requests() if one != "info"]) < len(reader.container.index.starts) / 3


def test_keys_are_read_at_once(files, url, few_bytes, monkeypatch):
    monkeypatch.setattr(remote_source, "TOGETHER_BYTES", 2**20)
    with SoftLabelReader(url) as reader:
        files.requests()
        for number in (100, 3, 55):
            assert reader.keys[number] in reader
        trailer = reader.container.trailer
        assert [one for one in files.requests() if one != "info"] == [(trailer.keys_offset, trailer.summary_offset)]


def test_labels_behind_a_url_at_another_temperature(files, tmp_path):
    write_labels(tmp_path / "labels.slc", "marginal_smoothing:t=0.1,tail=6", metadata={"temperature": 1.0})
    url = put(files, tmp_path / "labels.slc")
    local = tmp_path / "labels.slc"
    with SoftLabelReader(url, temperature=4) as reader, SoftLabelReader(local, temperature=4) as expected:
        copy = pickle.loads(pickle.dumps(reader))
        for number in range(4):
            assert_same(reader[number], expected[number])
            assert_same(copy[number], expected[number])
        copy.close()
    write_labels(tmp_path / "labels.slc", "marginal_smoothing:k=5", metadata={"temperature": 1.0}, overwrite=True)
    with pytest.raises(ArgumentError, match=r"flaky://bucket/labels\.slc: temperature: expected 1"):
        SoftLabelReader(put(files, tmp_path / "labels.slc"), temperature=4)


def test_a_reader_pickles_as_its_url(url):
    with SoftLabelReader(url, policy="renorm") as reader:
        with pickle.loads(pickle.dumps(reader)) as copy:
            assert_same(copy[3], reader[3])
            assert copy.path == reader.path
        with pytest.raises(TypeError, match="flaky://bucket/labels.slc: an open file cannot be copied"):
            pickle.dumps(reader.container.source)


def test_an_object_that_was_replaced_is_an_error(files, url, local, few_bytes):
    reader = SoftLabelReader(url)
    kept = pickle.dumps(reader)
    write_labels(local, counts=[60, 3, 40, 7] * 30, seed=1, overwrite=True)
    put(files, local)
    with pytest.raises(
        StateError, match="flaky://bucket/labels.slc: the file was replaced while it was being read: expected .* Open it again"
    ):
        reader.read_batch([3, 70])
    with pytest.raises(StateError, match="flaky://bucket/labels.slc: the file was replaced after the reader was created"):
        pickle.loads(kept)


@pytest.mark.parametrize(
    "fault", [ConnectionResetError("reset by peer"), TimeoutError("too slow"), RuntimeError("SlowDown"), lambda data: data[:-1]]
)
def test_passing_faults_are_tried_again(files, url, local, few_bytes, fault):
    files.faults += [fault]
    with SoftLabelReader(url) as reader, SoftLabelReader(local) as expected:
        files.faults += [fault, fault]
        assert_same(reader[70], expected[70])


def test_lasting_faults_name_url_range_and_cause(files, url, few_bytes):
    with SoftLabelReader(url) as reader:
        files.faults += [ConnectionResetError("reset by peer")] * 20
        with pytest.raises(
            OSError, match=r"bytes \d+ to \d+: ConnectionResetError reset by peer, 3 times in a row: 'flaky://bucket/labels.slc'"
        ):
            reader[70]
        files.faults.clear()
        reader[70]


def test_what_is_damaged_is_named(files, url, few_bytes):
    with SoftLabelReader(url) as reader:
        start = int(reader.container.index.starts[reader.container.index.locate(70)[0]])
    data = bytearray(files.store["/bucket/labels.slc"].getvalue())
    data[start + 20] ^= 1
    files.pipe_file("/bucket/labels.slc", bytes(data))
    with SoftLabelReader(url) as reader:
        with pytest.raises(CorruptError, match=rf"flaky://bucket/labels.slc: block \d+ at byte {start}, images"):
            reader.read_batch([3, 70])
        reader[3]
    assert [(problem.error, url in problem.message) for problem in verify(url).problems] == [("CorruptError", True)] * 2


def test_what_is_not_there_is_not_tried_again(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="'flaky://bucket/nowhere.slc'"):
        SoftLabelReader("flaky://bucket/nowhere.slc")
    assert files.requests() == ["info"]
    files.makedirs("/bucket/folder")
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder: 'flaky://bucket/folder'"):
        SoftLabelReader("flaky://bucket/folder")
    with pytest.raises(ArgumentError, match="odd://: Protocol not known: odd"):
        SoftLabelReader("odd://bucket/labels.slc")
    with pytest.raises(ArgumentError, match=r"s3:/bucket/a.slc: expected a URL as str, got \w+Path, which drops one of its slashes"):
        SoftLabelReader(Path("s3://bucket/a.slc"))


def test_cut_and_empty_objects(files, local):
    data = local.read_bytes()
    for length, message in (
        (0, "the file ends within its header"),
        (len(data) - 1, "does not end with a trailer"),
        (20, "within its header"),
    ):
        files.pipe_file("/bucket/cut.slc", data[:length])
        with pytest.raises(TruncatedError, match=f"flaky://bucket/cut.slc: .*{message}"):
            SoftLabelReader("flaky://bucket/cut.slc")
    files.pipe_file("/bucket/labels.slc.partial", data[:-200])
    with pytest.raises(TruncatedError, match="flaky://bucket/labels.slc.partial: an unfinished file"):
        SoftLabelReader("flaky://bucket/labels.slc.partial")


def test_reports_and_recovery_take_urls(url, local, tmp_path):
    assert verify(url, deep=True).ok
    assert inspect(url).fingerprint == inspect(local).fingerprint
    assert stats(url).num_images == stats(local).num_images
    recover(url, tmp_path / "recovered.slc")
    assert (tmp_path / "recovered.slc").read_bytes() == local.read_bytes()
    for command in ("inspect", "stats", "verify"):
        result = CliRunner().invoke(main, [command, url])
        assert result.exit_code == 0, result.output
        assert command == "stats" or url in result.output
    assert "no such file" in CliRunner().invoke(main, ["inspect", "flaky://bucket/nowhere.slc"]).output.lower()


def test_labels_behind_urls_are_copied_and_compared(files, url, local, tmp_path):
    write_set(tmp_path / "set")
    for path in (tmp_path / "set").iterdir():
        put(files, path, f"bucket/set/{path.name}")
    copy_labels(url, tmp_path / "copy.slc")
    assert (tmp_path / "copy.slc").read_bytes() == local.read_bytes()
    copy_labels("flaky://bucket/set", tmp_path / "whole.slc")
    copy_labels(tmp_path / "set", tmp_path / "same.slc")
    assert (tmp_path / "whole.slc").read_bytes() == (tmp_path / "same.slc").read_bytes()
    assert stats_against(url, local).same_bytes
    assert verify("flaky://bucket/set").ok
    assert inspect("flaky://bucket/set").num_shards == 4


def test_nothing_is_written_to_urls(url, local):
    with pytest.raises(ArgumentError, match="flaky://bucket/new.slc: expected a path of this machine, got a URL. .*storage.upload"):
        SoftLabelWriter("flaky://bucket/new.slc", 10, "hard")
    with pytest.raises(ArgumentError, match="expected a path of this machine, got a URL"):
        copy_labels(local, "flaky://bucket/new.slc")


def test_secrets_are_not_shown():
    signed = Url("https://me:password@example.org/a/labels.slc?X-Amz-Signature=1234")
    assert str(signed) == "https://example.org/a/labels.slc"
    assert repr(signed) == "Url('https://example.org/a/labels.slc')"
    assert (
        signed.without_secrets(f"cannot connect to '{signed.full}&more=5678'") == "cannot connect to 'https://example.org/a/labels.slc?...'"
    )
    assert pickle.loads(pickle.dumps(signed)).full == signed.full
    assert str(Url("abfs://container@account.example/a?b.slc")) == "abfs://container@account.example/a?b.slc"
    assert str(Url("sftp://me:password@host/a.slc")) == "sftp://host/a.slc"


@pytest.mark.parametrize(
    ("url", "name", "parent", "beside"),
    [
        ("s3://bucket/sets/imagenet/", "imagenet", "s3://bucket/sets", "s3://bucket/sets/imagenet/x.slc"),
        ("s3://bucket", "bucket", "s3://bucket", "s3://bucket/x.slc"),
        ("https://host/sas?sig=1", "sas", "https://host?sig=1", "https://host/sas/x.slc?sig=1"),
        ("hf://datasets/user/repo@main/a.slc", "a.slc", "hf://datasets/user/repo@main", "hf://datasets/user/repo@main/a.slc/x.slc"),
    ],
)
def test_parts_of_urls(url, name, parent, beside):
    found = location(url)
    assert isinstance(found, Url)
    assert (found.name, found.parent.full, found.joined("x.slc").full) == (name, parent, beside)


class TestFolders:
    def test_a_file_is_found_by_name_without_listing(self, files, monkeypatch):
        files.pipe_file("/bucket/imagenet/imagenet.slc.index.json", b"{}")

        def ls(*args, **options):
            raise PermissionError("no")

        monkeypatch.setattr(Flaky, "ls", ls)
        found = read_the_one(Url("flaky://bucket/imagenet/"), ".slc.index.json", 10)
        assert found == (Url("flaky://bucket/imagenet/imagenet.slc.index.json"), b"{}")
        with pytest.raises(PermissionError, match=r"may not be listed: no\. Name the file in it that you mean: 'flaky://bucket/other'"):
            read_the_one(Url("flaky://bucket/other"), ".slc.index.json", 10)

    def test_else_it_is_looked_for(self, files):
        files.pipe({"/bucket/v2/imagenet.slc.index.json": b"{}", "/bucket/v2/imagenet-00000-of-00001.slc": b""})
        assert names_in(Url("flaky://bucket/v2")) == ["imagenet-00000-of-00001.slc", "imagenet.slc.index.json"]
        found, data = read_the_one(Url("flaky://bucket/v2"), ".slc.index.json", 10)
        assert (found.name, data) == ("imagenet.slc.index.json", b"{}")
        files.pipe_file("/bucket/v2/other.slc.index.json", b"{}")
        with pytest.raises(ArgumentError, match="flaky://bucket/v2: expected one file NAME.slc.index.json, got imagenet.* Name the one"):
            read_the_one(Url("flaky://bucket/v2"), ".slc.index.json", 10)
        with pytest.raises(FileNotFoundError, match="expected a file NAME.yaml in it, found none: 'flaky://bucket/v2'"):
            read_the_one(Url("flaky://bucket/v2"), ".yaml", 10)

    def test_small_files_have_a_limit(self, files, tmp_path):
        (tmp_path / "x").write_bytes(b"12345")
        files.pipe_file("/bucket/x", b"12345")
        for place in (tmp_path / "x", Url("flaky://bucket/x")):
            assert read_whole(place, 5) == b"12345"
            with pytest.raises(LimitError, match=re.escape(f"{place}: expected at most 4 bytes, got")):
                read_whole(place, 4)
            with pytest.raises(FileNotFoundError):
                read_whole(location(f"{place}y"), 4)

    def test_folders_of_this_machine(self, tmp_path):
        (tmp_path / "a.slc.index.json").write_bytes(b"{}")
        assert read_the_one(tmp_path, ".slc.index.json", 10) == (tmp_path / "a.slc.index.json", b"{}")
        with pytest.raises(FileNotFoundError):
            read_the_one(tmp_path / "nowhere", ".slc.index.json", 10)


def test_shards_are_opened_and_read_at_once(files, tmp_path, few_bytes):
    keys = [[f"{shard}/{number:03d}.jpg" for number in range(100)] for shard in range(3)]
    folder = write_set(tmp_path / "set", keys, num_crops=20)
    for path in folder.iterdir():
        put(files, path, f"bucket/set/{path.name}")

    def meet(others):
        """Return a fault that lets a request end when so many are under way."""
        met = threading.Barrier(others, timeout=60)
        return lambda data: (met.wait(), data)[1]

    with SoftLabelReader(folder) as expected, SoftLabelReader("flaky://bucket/set") as reader:
        files.faults += [meet(4)] * 4 + [None] * 2 + [meet(3)] * 3  # beginnings and ends of three shards, and then their blocks
        images = [50, 150, 250]
        np.testing.assert_array_equal(reader.read_batch(images).labels.dense(), expected.read_batch(images).labels.dense())
        assert not files.faults
        assert list(reader.keys) == list(expected.keys)
