"""`encode` to object storage, in memory."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from softlabel_codec import ArgumentError, MismatchError, NotAContainerError, SoftLabelReader, TruncatedError
from softlabel_codec.cli.main import main
from softlabel_codec.label_set import locks
from softlabel_codec.report import verify
from softlabel_codec.teacher import EncodeConfig, encode

URL = "flaky://bucket/some/labels"
INDEX = "labels.slc.index.json"
SHARDS = [f"labels-0000{number}-of-00003.slc" for number in range(3)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("softlabel_codec.teacher.set_worker.LOOK_SECONDS", 0.02)


@pytest.fixture
def make(image_folder, tmp_path, teacher_file, files):
    """A function that makes a set, or a part of it, as a machine would that has this folder for its work."""

    def make(out=URL, work="work", progress=None, **options):
        options = {"images": str(image_folder), "crops": 150, "codec": "marginal_smoothing:k=3", "shards": 3, **options}
        work = None if work is None else str(tmp_path / work)
        return encode(EncodeConfig(out=str(out), teacher=teacher_file, work=work, **options), progress)

    return make


@pytest.fixture
def wanted(make, tmp_path):
    """The files of the set that is made in a folder."""
    make(tmp_path / "labels", None)
    return {path.name: path.read_bytes() for path in (tmp_path / "labels").iterdir()}


@pytest.fixture
def bucket(files):
    """A function that returns what is under the URL of the set."""

    def bucket(url=URL):
        start = url.removeprefix("flaky:/") + "/"
        return {name.removeprefix(start): file.getvalue() for name, file in files.store.items() if name.startswith(start)}

    return bucket


def put(files, name, data):
    files.pipe_file(f"/bucket/some/labels/{name}", data)


def is_empty(folder):
    return not [path for path in Path(folder).rglob("*") if path.is_file()]


def failing(monkeypatch, files, fails):
    """Let uploads fail of whose names a function says so."""
    put_file = type(files).put_file

    def put_or_fail(self, here, there, **options):
        if fails(there):
            raise ConnectionResetError(104, "Connection reset by peer")
        put_file(self, here, there, **options)

    monkeypatch.setattr(type(files), "put_file", put_or_fail)


def test_a_set_is_uploaded_shard_by_shard_with_the_index_last(make, wanted, bucket, tmp_path):
    first = make(shard=1)
    assert bucket() == {SHARDS[1]: wanted[SHARDS[1]]}
    assert (first.path, first.label_set.finished, first.label_set.made, first.label_set.missing) == (URL, False, [1], [0, 2])
    report = make(work="another machine")
    assert bucket() == wanted
    assert (report.path, report.label_set.finished, sorted(report.label_set.made)) == (f"{URL}/{INDEX}", True, [0, 2])
    assert report.file_bytes == len(wanted[SHARDS[0]]) + len(wanted[SHARDS[2]])
    with SoftLabelReader(URL) as reader:
        assert len(reader) == 6
    again = make(work="a third one")
    assert (again.finished_before, again.num_images, again.path) == (True, 6, f"{URL}/{INDEX}")
    assert all(map(is_empty, (tmp_path / "work", tmp_path / "another machine", tmp_path / "a third one")))
    with pytest.raises(FileExistsError, match="was made with other options: codec: expected hard"):
        make(codec="hard")
    with pytest.raises(FileExistsError, match=r"another number of shards than 2.*labels-00000-of-00003"):
        make(shards=2)


def test_a_killed_worker_goes_on_where_it_has_its_folder(make, wanted, bucket, monkeypatch):
    def stop(done, total):
        if done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"1 image is kept in .*partial"):
        make(shard=2, progress=stop)
    assert bucket() == {}
    assert make(shard=2).resumed_images == 1
    assert bucket() == {SHARDS[2]: wanted[SHARDS[2]]}


def test_an_upload_that_fails_is_repeated_without_labelling_again(make, wanted, bucket, files, monkeypatch, tmp_path):
    with monkeypatch.context() as failure:
        failing(failure, files, lambda there: True)
        with pytest.raises(OSError, match=rf"Connection reset.*The shard is kept in .*{SHARDS[0]}: run the same command again"):
            make(shard=0)
    assert bucket() == {}
    report = make(shard=0)
    assert (report.resumed_images, report.num_images) == (2, 2)
    with monkeypatch.context() as failure:  # as if it were killed between the last shard and the index
        failing(failure, files, lambda there: there.endswith(".json"))
        with pytest.raises(OSError, match="Connection reset"):
            make()
    assert sorted(bucket()) == SHARDS
    assert make().label_set.made == []
    assert bucket() == wanted
    assert is_empty(tmp_path / "work")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(10, "another worker was faster. Its shard stays"), (0, "left to another worker: .* has uploaded it")],
)
def test_of_two_machines_with_the_same_shard_the_first_upload_stays(make, wanted, bucket, tmp_path, monkeypatch, caplog, seconds, told):
    """Here with other bytes, as of a machine that rounds otherwise."""
    monkeypatch.setattr("softlabel_codec.teacher.pace.SECONDS_BETWEEN_LOOKS", seconds)
    others = []

    def while_labelling(done, total):
        if done == 1 and not others:
            with monkeypatch.context() as other:
                other.setattr("softlabel_codec.writer.TARGET_BYTES_PER_BLOCK", 2000)
                make(shard=0, work="a faster machine")
            others.append(bucket()[SHARDS[0]])

    assert make(shard=0, progress=while_labelling).label_set.made == []
    assert re.search(told, caplog.text)
    assert others[0] != wanted[SHARDS[0]]
    make()
    assert bucket()[SHARDS[0]] == others[0]
    assert not verify(URL).problems
    assert is_empty(tmp_path / "work")


def test_foreign_shards_are_refused_or_replaced(make, wanted, bucket, files):
    make(URL, shard=2, codec="hard")
    with pytest.raises(MismatchError, match=rf"{SHARDS[2]}: belongs to a label set of other options: codec: .*--overwrite"):
        make()
    files.store.clear()
    put(files, SHARDS[0], wanted[SHARDS[1]])
    with pytest.raises(MismatchError, match=rf"{URL}/{SHARDS[0]}: expected the 2 images of this shard, got 2 of which some are others"):
        make()
    files.store.clear()
    put(files, SHARDS[1], wanted[SHARDS[1]][:-1])
    put(files, SHARDS[2], wanted[SHARDS[2]])
    with pytest.raises(TruncatedError, match=rf"{SHARDS[1]}: .*--overwrite\) to replace this shard"):
        make(shard=1)
    put(files, SHARDS[0], wanted[SHARDS[1]])
    assert sorted(make(overwrite=True).label_set.made) == [0, 1]
    assert bucket() == wanted


def test_an_index_of_other_shards_is_never_replaced_unasked(make, wanted, bucket, files):
    for name in SHARDS:
        put(files, name, wanted[name])
    put(files, INDEX, other := wanted[INDEX][:100])
    with pytest.raises(NotAContainerError, match=rf"{INDEX}: .*Delete it"):
        make()
    del files.store[f"/bucket/some/labels/{SHARDS[1]}"]  # now the set is not complete
    with pytest.raises(FileExistsError, match=rf"another object is there; pass overwrite=True.*{INDEX}"):
        make()
    assert bucket()[INDEX] == other
    make(overwrite=True)
    assert bucket() == wanted


def test_one_file(make, wanted, bucket, files, tmp_path, monkeypatch):
    make(tmp_path / "one.slc", None, shards=None)
    one, url = (tmp_path / "one.slc").read_bytes(), "flaky://bucket/one.slc"
    with monkeypatch.context() as failure:
        failing(failure, files, lambda there: True)
        with pytest.raises(OSError, match=r"Connection reset.*The labels are kept in .*one\.slc: run the same command again"):
            make(url, shards=None)
    report = make(url, shards=None)
    assert (report.path, report.num_images, report.resumed_images, report.file_bytes) == (url, 6, 6, len(one))
    assert files.store["/bucket/one.slc"].getvalue() == one
    assert is_empty(tmp_path / "work")
    assert make(url, shards=None).finished_before
    with pytest.raises(FileExistsError, match=rf"made with other options: codec: expected hard.*{url}"):
        make(url, shards=None, codec="hard")
    make(url, shards=None, codec="hard", overwrite=True)
    with SoftLabelReader(url) as reader:
        assert reader.codec == "hard"


def test_the_codec_of_a_set_that_was_begun_elsewhere_is_taken(make, bucket):
    make(codec="auto", shard=0, fidelity="50%", crops=20)
    assert make(codec="auto", fidelity="50%", crops=20, work="another machine").label_set.finished
    with pytest.raises(FileExistsError, match="a codec that was chosen for something else"):
        make(codec="auto", fidelity="5%", crops=20)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("https://example.org/labels", {}, "https://example.org/labels.*: expected a URL of object storage"),
        ("https://example.org/labels.slc", {"shards": None}, "https://example.org/labels.slc: expected a URL of object storage"),
        ("flaky://bucket/labels.slc", {}, "expected the URL of a folder for the shards"),
        ("flaky://bucket/labels/", {"shards": None}, "expected the URL of a file"),
        ("flaky://bucket/..", {}, "expected the URL of a folder"),
        ("flaky://bucket/..", {"shards": None}, "expected the URL of a file"),
        ("nowhere://bucket/labels", {}, "nowhere://: Protocol not known"),
        ("labels", {}, "work: expected None, as what is written is no URL"),
    ],
)
def test_where_nothing_can_be_written(make, out, options, message):
    with pytest.raises(ArgumentError, match=message):
        make(out, **options)


def test_a_folder_for_work_that_cannot_be_made(make, tmp_path):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(OSError, match=r"Pass another folder .*--work"):
        make()


def test_the_command(image_folder, teacher_file, files, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTLABEL_CACHE", str(tmp_path / "cache"))
    what = [str(image_folder), URL, "--teacher", teacher_file, "--crops", "4", "--codec", "hard", "--shards", "2"]
    result = CliRunner().invoke(main, ["encode", *what, "--shard", "1"])
    assert result.exit_code == 0, result.output
    assert "shard 1 of 2: uploaded" in result.output
    assert "missing" in result.output
    result = CliRunner().invoke(main, ["encode", *what])
    assert f"finished  {URL}/{INDEX}: all 2 shards" in result.output
    assert is_empty(tmp_path / "cache")
    result = CliRunner().invoke(main, ["encode", *what[:2], "--label-maps", "--teacher", teacher_file])
    assert (result.exit_code, "got a URL" in result.output) == (2, True)
