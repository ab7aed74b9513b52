"""Labelling a set: how images are divided, what workers leave to each other, and what they refuse."""

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import TEACHER
from crashes.processes import at_once

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, StateError
from softlabel_codec.cli.main import main
from softlabel_codec.container import files as store
from softlabel_codec.container.files import PartialFile
from softlabel_codec.label_set import locks
from softlabel_codec.label_set.folder import SetFolder
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.label_set.locks import Lock, Owner
from softlabel_codec.teacher import EncodeConfig, encode, job
from softlabel_codec.teacher import pace as pace_module
from softlabel_codec.teacher.run import device_of_rank, use_gpu

CROPS = 150  # several blocks for a shard of three images


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.5)
    monkeypatch.setattr("softlabel_codec.teacher.set_worker.LOOK_SECONDS", 0.02)


@pytest.fixture
def make(image_folder, tmp_path, teacher_file):
    """A function that makes a set, or a part of it, in a folder."""

    def make(out="labels", progress=None, **options):
        options = {"images": str(image_folder), "crops": CROPS, "codec": "marginal_smoothing:k=3", "shards": 3, **options}
        return encode(EncodeConfig(out=str(tmp_path / out), teacher=teacher_file, **options), progress)

    return make


@pytest.fixture
def command(image_folder, teacher_file, tmp_path):
    """The words of a command that makes a set, to which options can be added."""
    what = ["--teacher", teacher_file, "--crops", CROPS, "--codec", "marginal_smoothing:k=3"]
    return ["encode", image_folder, tmp_path / "labels", *what]


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def renamed(files, name):
    """Return the contents of a set as if it had another name."""
    return {key.replace("labels", name): data.replace(b'"labels-', f'"{name}-'.encode()) for key, data in files.items()}


def stop_after(num_images):
    """Return a function that interrupts a worker when so many images of the set are done."""

    def progress(done, total):
        if done >= num_images:
            raise KeyboardInterrupt

    return progress


def lock_of(place, number, **changes):
    """Lock a shard as a process of another machine would have left it."""
    owner = replace(Owner.this_process(), **{"host": "node7", "process": "another machine 1 2", "job": "Slurm job 12_3", **changes})
    place.folder.mkdir(exist_ok=True)
    place.lock_path(number).write_text(json.dumps(asdict(owner)))


def test_a_set_holds_all_images_in_order(make, tmp_path, image_folder):
    report = make()
    folder = tmp_path / "labels"
    found = report.label_set
    assert (report.path, report.num_images) == (str(folder / "labels.slc.index.json"), 6)
    assert (found.finished, found.num_shards, found.made, found.being_made, found.missing) == (True, 3, [0, 1, 2], {}, [])
    assert sorted(contents(folder)) == [*(f"labels-0000{number}-of-00003.slc" for number in range(3)), "labels.slc.index.json"]
    assert report.file_bytes == sum(shard.bytes for shard in SetIndex.unpack((folder / "labels.slc.index.json").read_bytes()).shards)
    make("one.slc", shards=None)
    readers = [SoftLabelReader(folder / f"labels-0000{number}-of-00003.slc") for number in range(3)]
    with SoftLabelReader(tmp_path / "one.slc") as one:
        assert [key for reader in readers for key in reader.keys] == list(one.keys)
        assert {json.dumps(reader.metadata) for reader in readers} == {json.dumps(one.metadata)}
        assert one.metadata["images"] == {"count": 6, "keys_sha256": one.summary["keys_sha256"]}
        for reader in readers:
            for key in reader.keys:
                torch.testing.assert_close(reader[key].labels.dense(), one[key].labels.dense(), atol=1e-2, rtol=0)
            reader.close()


def test_the_teacher_is_loaded_once(image_folder, tmp_path, make):
    log = tmp_path / "loaded"
    loading = f"def build():\n    from pathlib import Path\n    Path({str(log)!r}).write_text('x' * (1 + Path({str(log)!r}).exists()))\n"
    (tmp_path / "tiny_teacher.py").write_text(TEACHER.replace("def build():\n", loading))
    make()
    assert log.read_text() == "x"


@pytest.mark.parametrize("shards", [1, 2, 6, 9])
def test_files_do_not_depend_on_who_made_them(make, tmp_path, shards):
    make(shards=shards)
    whole = renamed(contents(tmp_path / "labels"), "parts")
    for number in reversed(range(shards)):
        report = make("parts", shards=shards, shard=number)
        assert report.label_set.made == [number]
        assert report.label_set.finished == (number == 0)
        assert report.label_set.missing == list(range(number))
    assert contents(tmp_path / "parts") == whole
    if shards == 9:
        empty = [shard.images for shard in SetIndex.unpack(whole["parts.slc.index.json"]).shards]
        assert sorted(empty) == [0] * 3 + [1] * 6


def test_processes_that_cut_images_change_nothing(make, tmp_path):
    make("whole", shards=2)
    make(shards=2, workers=1)
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("shard", "made"), [("1-2", [1, 2]), ("2,0", [0, 2]), (" 0 - 0 ", None), (1, [1]), ("0-1,1-2", [0, 1, 2])])
def test_a_worker_makes_the_shards_that_it_may(make, shard, made):
    if made is None:
        with pytest.raises(ArgumentError, match="shard: expected numbers"):
            make(shard=shard)
    else:
        assert make(shard=shard).label_set.made == made


@pytest.mark.parametrize("stop", range(1, 6))
def test_an_interrupted_worker_leaves_what_the_next_one_continues(make, tmp_path, stop):
    make("whole")
    with pytest.raises(KeyboardInterrupt, match=r"\d shards? of 3 finished by this worker\. .*; run the same command again") as stopped:
        make(progress=stop_after(stop))
    assert not list((tmp_path / "labels").glob("*.lock"))
    kept = re.search(r"(\d+) images? (?:is|are) kept in (.*\.partial);", str(stopped.value))
    assert not kept or Path(kept[2]).exists()
    report = make()
    assert report.resumed_images == (int(kept[1]) if kept else 0)
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


def test_the_longest_unfinished_file_is_continued(make, tmp_path):
    place = SetFolder(tmp_path / "labels", 1)
    for stop in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            make(shards=1, progress=stop_after(stop))
        if stop == 3:
            (short,) = place.contents().unfinished[0]
            shutil.copyfile(short, tmp_path / "short")
    short.with_name(short.name + ".cut").write_bytes(b"torn")
    shutil.copyfile(tmp_path / "short", short)
    (tmp_path / "labels" / f"{place.shard(0).name}.00000000000000aa.partial").write_bytes(b"\x89SL")
    report = make(shards=1)
    assert report.resumed_images > 3
    assert sorted(contents(tmp_path / "labels")) == ["labels-00000-of-00001.slc", "labels.slc.index.json"]


def test_the_same_command_on_a_finished_set_is_no_error(make, tmp_path):
    make()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()}
    for options in ({}, {"shard": 1}, {"overwrite": True}):
        report = make(**options)
        assert (report.finished_before, report.num_images, report.resumed_images, report.label_set.made) == (True, 6, 6, [])
        assert report.label_set.finished
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "labels").iterdir()} == before


def test_a_shard_that_is_missing_is_made_again(make, tmp_path):
    make()
    before = contents(tmp_path / "labels")
    (tmp_path / "labels" / "labels-00001-of-00003.slc").unlink()
    report = make(shard=0)
    assert (report.label_set.finished, report.label_set.missing) == (False, [1])
    assert make().label_set.made == [1]
    assert contents(tmp_path / "labels") == before


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"temperature": 2.0}, r"metadata\['temperature'\]: expected 2.0, found 1.0"),
        ({"codec": "hard"}, "codec: expected hard, found marginal_smoothing:k=3"),
        ({"store_crops": True}, "crops: expected pixels, found derived"),
    ],
)
def test_other_options(make, tmp_path, options, what):
    make("wanted", **options)
    with pytest.raises(KeyboardInterrupt):
        make(progress=stop_after(5))
    with pytest.raises(MismatchError, match=f"belongs to a label set of other options: {what}. All workers need"):
        make(**options)
    make()
    with pytest.raises(FileExistsError, match=f"was made with other options: {what}. Pass overwrite=True"):
        make(**options)
    with pytest.raises(KeyboardInterrupt):
        make(progress=stop_after(5), overwrite=True, **options)
    assert not (tmp_path / "labels" / "labels.slc.index.json").exists()
    report = make(overwrite=True, **options)
    assert report.label_set.finished
    assert len(report.label_set.made) < 3  # those that the interrupted worker has replaced are kept
    assert renamed(contents(tmp_path / "labels"), "wanted") == contents(tmp_path / "wanted")


def test_unfinished_files_of_other_options_are_discarded_only_when_asked(make, tmp_path):
    make("wanted", temperature=2.0)
    with pytest.raises(KeyboardInterrupt):
        make(progress=stop_after(2), shard=0)
    before = contents(tmp_path / "labels")
    with pytest.raises(MismatchError, match="temperature"):
        make(temperature=2.0)
    assert contents(tmp_path / "labels") == before
    make(temperature=2.0, overwrite=True)
    assert renamed(contents(tmp_path / "labels"), "wanted") == contents(tmp_path / "wanted")


def test_another_number_of_shards(make, tmp_path):
    make("wanted", shards=2)
    make(shard=1)
    with pytest.raises(FileExistsError, match=r"another number of shards than 2\. Pass the number of that set") as error:
        make(shards=2)
    assert error.value.filename.endswith("labels-00001-of-00003.slc")
    make()
    make(shards=2, overwrite=True)
    assert renamed(contents(tmp_path / "labels"), "wanted") == contents(tmp_path / "wanted")


def test_images_that_change_between_workers(make, image_folder, monkeypatch):
    make(shard=0)
    shutil.copyfile(image_folder / "cat" / "b.png", image_folder / "cat" / "c.png")
    with pytest.raises(MismatchError, match=r"was made of other images: expected {'count': 7.*found {'count': 6.*the same images"):
        make(shard=1)
    (image_folder / "cat" / "c.png").unlink()
    (image_folder / "cat" / "b.png").rename(image_folder / "cat" / "bb.png")
    with pytest.raises(MismatchError, match="was made of other images"):
        make(shard=1)


def test_workers_with_other_versions_of_libraries(make, monkeypatch):
    make(shard=0)
    with monkeypatch.context() as patch:
        patch.setattr(job, "library_versions", lambda *_: {"torch": "1.0"})
        with pytest.raises(MismatchError, match=r"\['libraries'\]\['numpy'\].*All workers need the same options and versions"):
            make(shard=1)
    make()
    monkeypatch.setattr(job, "library_versions", lambda *_: {"torch": "1.0"})
    assert make().finished_before


def test_a_shard_that_others_make(make, tmp_path):
    place = SetFolder(tmp_path / "labels", 3)
    place.folder.mkdir()
    with Lock.take(place.lock_path(1)) as lock:
        report = make()
        assert report.label_set.made == [0, 2]
        assert (report.label_set.finished, report.label_set.missing) == (False, [])
        assert report.label_set.being_made[1].startswith(f"process {os.getpid()} on {os.uname().nodename}")
        assert "last sign of life" in report.label_set.being_made[1]
        with pytest.raises(StateError, match=rf"labels-00001-of-00003\.slc: another worker is making this shard: process {os.getpid()} on"):
            make(shard=1)
        assert make(shard="0-1").label_set.made == []
        lock.check()
    assert make().label_set.made == [1]


@pytest.mark.parametrize("seconds", [None, 0, 10**9, 3 * 10**9])
def test_a_shard_whose_worker_is_gone(make, tmp_path, caplog, seconds):
    make("whole")
    with pytest.raises(KeyboardInterrupt):
        make(progress=stop_after(2), shard=1)
    place = SetFolder(tmp_path / "labels", 3)
    lock_of(place, 1)
    if seconds is not None:
        os.utime(place.lock_path(1), (seconds, seconds))
    report = make()
    assert (report.label_set.finished, report.label_set.made) == (True, [0, 1, 2])
    assert any("node7, Slurm job 12_3" in record.getMessage() for record in caplog.records)
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


def test_a_worker_that_is_the_only_one_for_a_shard_waits_whether_its_owner_lives(make, tmp_path):
    lock_of(SetFolder(tmp_path / "labels", 3), 1)
    assert make(shard=1).label_set.made == [1]


def test_a_worker_that_lost_its_lock_writes_nothing(make, tmp_path, caplog):
    make("whole")
    place = SetFolder(tmp_path / "labels", 3)

    def lose(done, total):
        if done >= 1 and not place.shard(1).exists():
            lock_of(place, 1)
            shutil.copyfile(tmp_path / "whole" / "whole-00001-of-00003.slc", place.shard(1))

    report = make(progress=lose, shard=1)
    assert report.label_set.made == []
    assert any("left to another worker" in record.getMessage() and "node7" in record.getMessage() for record in caplog.records)
    assert place.lock_path(1).exists()
    assert place.shard(1).read_bytes() == (tmp_path / "whole" / "whole-00001-of-00003.slc").read_bytes()


def test_a_worker_that_was_stopped_before_it_began_to_write(make, tmp_path, monkeypatch):
    place, writer = SetFolder(tmp_path / "labels", 1), job.SoftLabelWriter
    make("whole", shards=1)

    def stopped(*arguments, **options):
        monkeypatch.setattr(job, "SoftLabelWriter", writer)
        place.lock_path(0).unlink()
        make(shards=1)
        return writer(*arguments, **{**options, "overwrite": True})  # as if it had looked before the other one finished

    monkeypatch.setattr(job, "SoftLabelWriter", stopped)
    assert make(shards=1).label_set.made == []
    assert renamed(contents(place.folder), "whole") == contents(tmp_path / "whole")


def test_an_unfinished_file_that_is_taken_away(make, tmp_path, caplog):
    place, taken = SetFolder(tmp_path / "labels", 1), []
    make("whole", shards=1)

    def take_away(done, total):
        if done >= 3 and not taken:
            lock_of(place, 0)
            taken.extend(place.contents().unfinished[0])
            taken[0].unlink()

    assert make(shards=1, progress=take_away).label_set.made == [0]  # when nothing more was heard of the other worker
    assert any("left to another worker" in record.getMessage() for record in caplog.records)
    assert renamed(contents(place.folder), "whole") == contents(tmp_path / "whole")


def test_a_worker_that_was_stopped_cannot_touch_what_the_next_one_writes(make, tmp_path):
    """Wherever it was stopped: also behind its last look at the lock."""
    make("whole", shards=1)
    place = SetFolder(tmp_path / "labels", 1)
    with pytest.raises(KeyboardInterrupt):
        make(shards=1, progress=stop_after(4))
    (old,) = place.contents().unfinished[0]
    stopped = PartialFile(place.shard(0), unfinished="resume", partial=old)
    make(shards=1, progress=lambda done, total: stopped.append(b"what it had in mind"))
    stopped.append(b"still")
    with pytest.raises(FileExistsError):
        stopped.finish()
    stopped._overwrite = True  # as if it had looked before the other one finished
    with pytest.raises(FileNotFoundError):
        stopped.finish()
    stopped.close()
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


def test_a_shard_that_somebody_else_finished_meanwhile(make, tmp_path):
    make("whole")
    place = SetFolder(tmp_path / "labels", 3)

    def finish(done, total):
        if done >= 1:
            shutil.copyfile(tmp_path / "whole" / "whole-00001-of-00003.slc", place.shard(1))

    assert make(progress=finish, shard=1).label_set.made == []
    assert list(contents(place.folder)) == [place.shard(1).name]


def test_a_worker_that_was_stopped_before_it_looked_for_unfinished_files_removes_none(make, tmp_path, monkeypatch):
    """They may be those of the worker that has taken over."""
    with pytest.raises(KeyboardInterrupt):
        make(shard=1, progress=stop_after(1))
    place, inherit, there = SetFolder(tmp_path / "labels", 3), SetFolder.inherit, []

    def inherit_late(self, number, lock):
        if not there:
            lock_of(place, number)
        there.append(set(place.unfinished_files(number)))
        return inherit(self, number, lock)

    monkeypatch.setattr(SetFolder, "inherit", inherit_late)
    assert make(shard=1).label_set.made == [1]  # when nothing more was heard of the other worker
    assert len(there) == 2
    assert there[0] <= there[1]


def test_a_worker_that_was_late_leaves_no_copy(make, tmp_path, monkeypatch):
    make("whole")
    with pytest.raises(KeyboardInterrupt):
        make(shard=1, progress=stop_after(1))
    place, inherit = SetFolder(tmp_path / "labels", 3), SetFolder.inherit
    before = contents(place.folder)

    def inherit_late(self, number, lock):
        older = inherit(self, number, lock)
        shutil.copyfile(tmp_path / "whole" / "whole-00001-of-00003.slc", place.shard(1))
        return older

    monkeypatch.setattr(SetFolder, "inherit", inherit_late)
    assert make(shard=1).label_set.made == []
    assert contents(place.folder).keys() - before.keys() == {place.shard(1).name}


def test_several_workers_at_once_make_each_shard_once(make, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", 60.0)
    make("whole", shards=6)
    told = at_once([lambda: json.dumps(dataclasses.asdict(make(shards=6))["label_set"])] * 3)
    reports = [json.loads(line) for line in told]
    assert sorted(number for report in reports for number in report["made"]) == list(range(6))
    assert any(report["finished"] for report in reports)
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


def test_one_worker_writes_the_index(make, tmp_path, caplog):
    place = SetFolder(tmp_path / "labels", 3)
    make()
    whole = contents(place.folder)
    place.index.unlink()
    with Lock.take(place.lock_path(None)):
        report = make()
        assert (report.label_set.finished, report.label_set.missing, report.label_set.being_made) == (False, [], {})
        assert not place.index.exists()
    lock_of(place, None)
    (place.folder / f"{place.index.name}.0123456789abcdef.unfinished").write_text("{")
    lock_of(place, 2)  # of a worker that was killed after it finished the shard
    assert make().label_set.finished
    assert contents(place.folder) == whole
    lock_of(place, None)  # of a worker that was killed after it wrote the index
    (place.folder / f"{place.shard(2).name}.0123456789abcdef.partial").write_bytes(b"")
    assert make().finished_before
    assert contents(place.folder) == whole


def test_an_index_of_other_shards(make, tmp_path):
    make()
    place = SetFolder(tmp_path / "labels", 3)
    place.index.write_bytes(place.index.read_bytes().replace(b'"bytes": ', b'"bytes": 1'))
    with pytest.raises(MismatchError, match=r"index\.json: expected the index of the shards beside it\. Delete it"):
        make()
    place.index.write_bytes(b"{}")
    with pytest.raises(Exception, match=r"labels\.slc\.index\.json: format.*Delete it and run"):
        make()
    assert make(overwrite=True).label_set.finished


def test_a_damaged_shard_is_named_before_there_is_an_index(make, tmp_path):
    make(shard="0-1")
    path = tmp_path / "labels" / "labels-00001-of-00003.slc"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"labels-00001-of-00003\.slc: .*Delete this shard and run the same command again"):
        make()
    assert not (tmp_path / "labels" / "labels.slc.index.json").exists()
    path.unlink()
    assert make().label_set.finished


def test_images_that_cannot_be_read(make, image_folder, tmp_path):
    for name in ("cat/a.JPEG", "cat/b.png", "dog/deep/c.webp"):
        (image_folder / name).write_bytes(b"")
    with pytest.raises(OSError, match=r"image 'cat/(a\.JPEG|b\.png)'|image 'dog/deep/c.webp'"):
        make()
    report = make(on_error="skip")
    index = SetIndex.unpack(Path(report.path).read_bytes())
    assert [shard.images for shard in index.shards] == [0, 2, 1]
    assert sorted(report.skipped) == ["cat/a.JPEG", "cat/b.png", "dog/deep/c.webp"]
    report = make(on_error="skip")
    assert (report.finished_before, sorted(report.skipped)) == (True, ["cat/a.JPEG", "cat/b.png", "dog/deep/c.webp"])
    with pytest.raises(FileExistsError, match="lacks 2 images that could not be read"):
        make()


def test_no_image_can_be_read(make, image_folder, tmp_path):
    for path in image_folder.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(OSError, match="none of 6 images could be read"):
        make(on_error="skip")
    assert not (tmp_path / "labels" / "labels.slc.index.json").exists()


def test_an_image_that_was_replaced_between_workers(make, image_folder, tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"are kept in"):
        make(shards=1, progress=stop_after(4))
    shutil.copyfile(image_folder / "dog" / "cmyk.jpg", image_folder / "cat" / "a.JPEG")
    with pytest.raises(MismatchError, match=r"image 'cat/a\.JPEG': is not the one that an earlier run labelled"):
        make(shards=1)
    assert not list((tmp_path / "labels").glob("*.lock"))


def test_a_full_disk(make, tmp_path, monkeypatch):
    make("whole", shards=1)
    append, room = PartialFile.append, [4]

    def full(self, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.partial))
        append(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "append", full)
        with pytest.raises(OSError, match="No space left"):
            make(shards=1)
    assert not list((tmp_path / "labels").glob("*.lock"))
    assert make(shards=1).resumed_images > 0
    assert renamed(contents(tmp_path / "labels"), "whole") == contents(tmp_path / "whole")


def test_a_file_system_without_locks_of_its_own(make, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(store, "_file_lock", lambda: no_locks)
    assert make().label_set.finished
    with pytest.raises(OSError, match="not implemented"):
        make("one.slc", shards=None)


def test_progress_is_that_of_the_set(make, tmp_path):
    make(shard=1)
    seen = []
    make(shard=0, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (2, 6)
    assert seen == sorted(seen)
    assert seen[-1] == (4, 6)


def test_a_worker_tells_from_time_to_time_how_it_and_the_set_get_on(make, tmp_path, monkeypatch, caplog):
    clock = [1000.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: clock[0])
    make(shards=2, shard=0)

    def an_image_in_quarter_of_a_minute(done, total):
        clock[0] += 15

    caplog.clear()
    with caplog.at_level(logging.INFO, "softlabel_codec.teacher.pace"):
        make(shards=2, shard=1, progress=an_image_in_quarter_of_a_minute, batch_size=CROPS)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "softlabel_codec.teacher.pace"]
    assert told == "shard 1: 2 of 3 images, 0.067 images/s by this worker; of the set 83%, 15 s left"


def test_how_much_is_done_follows_from_the_lengths_of_files(make, tmp_path):
    make("labels", shards=2, shard=0)
    place = SetFolder(tmp_path / "labels", 2)
    half = place.shard(0).stat().st_size * 2 // 3
    (place.folder / f"{place.shard(1).name}.0123456789abcdef.partial").write_bytes(bytes(half))
    assert place.contents().images_done(6) == {0: 3, 1: 2}
    place.shard(0).unlink()
    assert place.contents().images_done(6) == {1: 0}
    assert place.contents().images_done(6, bytes_per_image=half) == {1: 1}
    assert place.contents().images_done(6, bytes_per_image=1) == {1: 3}


def test_other_files_in_the_folder_are_left_alone(make, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    names = ["notes.txt", "labels-1-of-3.slc", "other-00000-of-00007.slc", "labels-00000-of-00003.slcx", "other.slc.index.json"]
    for name in names:
        (folder / name).write_text("mine")
    assert make().label_set.finished
    assert all((folder / name).read_text() == "mine" for name in names)


def test_a_place_that_cannot_hold_a_set(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="expected a folder for the shards of a label set, got a file"):
        make("file")
    with pytest.raises(ArgumentError, match="such as 'labels'"):
        make("labels.slc")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make("nowhere/labels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards: expected 1 to 100000, got 0"),
        ({"shards": 100_001}, "shards: expected 1 to 100000, got 100001"),
        ({"shards": None, "shard": 3}, r"shard: expected None, as shards \(--shards\) is not given, got 3"),
        ({"shard": 3}, "shard: expected numbers of shards, 0 to 2, such as 3, 3-7 or 3,5, got 3"),
        ({"shard": "0-3"}, "0 to 2.* got '0-3'"),
        ({"shard": "2-1"}, "got '2-1'"),
        ({"shard": "1,"}, "got '1,'"),
        ({"shard": "-1"}, "got '-1'"),
        ({"shard": ""}, "got ''"),
        ({"shard": "1" * 50}, "got '1111"),
    ],
)
def test_wrong_numbers(make, options, message):
    with pytest.raises(ArgumentError, match=message):
        make(**options)


def test_the_command_says_what_was_made_and_what_is_left(command, tmp_path):
    text = run(*command, "--shards", 3, "--shard", 1)
    assert "labelled  1 shard of 3, 2 images, 0 skipped, " in text
    assert "missing  2 shards of 3: 0, 2. The same command without --shard makes them" in text
    lines = text.splitlines()
    assert "slcodec: shard 1 of 3: labelling 2 images" in lines
    assert any(re.fullmatch(r"slcodec: shard 1 of 3: finished with 2 images, 0 skipped, [\d.e-]+ images/s", line) for line in lines)
    lock_of(SetFolder(tmp_path / "labels", 3), 0, process=Owner.this_process().process)
    stop = threading.Event()
    threading.Thread(target=_keep_alive, args=(SetFolder(tmp_path / "labels", 3).lock_path(0), stop)).start()
    try:
        text = run(*command, "--shards", 3)
        assert re.search(r"being made  shard 0, by process \d+ on node7, Slurm job 12_3, since .* UTC, last sign of life .* UTC", text)
        assert "another worker is making this shard: process" in run(*command, "--shards", 3, "--shard", 0, code=1)
    finally:
        stop.set()
    found = json.loads(run(*command, "--shards", 3, "--json", "--quiet"))
    assert (found["num_images"], found["label_set"]["finished"], found["label_set"]["made"]) == (2, True, [0])
    text = run(*command, "--shards", 3)
    assert "finished  before, with the same options: 3 shards, 6 images, 0 skipped; nothing to do" in text
    assert f"found     {tmp_path / 'labels' / 'labels.slc.index.json'}" in text


def _keep_alive(path, stop):
    while not stop.wait(0.03):
        os.utime(path)


def test_the_command_without_shards_wants_a_file(command, tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    assert "is a folder. To make a label set in it, pass --shards." in run(*command, code=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "Several processes make a label set, not one file: pass --shards." in run(*command[:2], tmp_path / "a.slc", *command[3:], code=2)
    assert "shard: expected numbers of shards, 0 to 2" in run(*command, "--shards", 3, "--shard", 7, code=2)
    assert "pass" not in run(*command, "--shards", 3)


def test_processes_of_torchrun_begin_at_different_shards_and_use_a_gpu_each(make, monkeypatch, caplog):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, "softlabel_codec"):
        make(shards=6)
    begun = [record.getMessage().partition(":")[0] for record in caplog.records if ": labelling" in record.getMessage()]
    assert begun == [f"shard {number} of 6" for number in (3, 4, 5, 0, 1, 2)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, name, device in ((0, "auto", "auto"), (1, "auto", "cuda:1"), (1, "cuda", "cuda:1"), (1, "cpu", "cpu"), (3, "auto", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert device_of_rank(name) == device
    assert device_of_rank("cuda:0") == "cuda:0"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert device_of_rank("auto") == "auto"
    use_gpu(torch.device("cuda"))  # `cuda` alone, for which torch.cuda.set_device raises ValueError
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for name in ("cpu", "cuda", "cuda:1"):
        use_gpu(torch.device(name))
    assert used == [torch.device("cuda:1")]


def test_what_is_reported_is_plain(make):
    assert dataclasses.asdict(make().label_set)["made"] == [0, 1, 2]
