"""Writers that are killed, interrupted, or let down by the disk, and more than one of them; `crashes` says what must hold then."""

import errno
import os
import pickle
import signal
import threading

import crashes
import pytest
from crashes.aftermath import check_first_images
from crashes.processes import end_of, in_child, told_by_child
from crashes.scripted import ScriptedOs, calls_of, failing, scripted
from crashes.unbroken import (
    BLOCKS,
    CODEC,
    FINISH,
    HEADER,
    METADATA,
    NOTHING,
    NUM_CLASSES,
    RENAMED,
    STATES,
    UNNAMED,
    check_contents,
    contents,
    some_images,
    unbroken_run,
    write,
)

from softlabel_codec import SoftLabelReader, SoftLabelWriter, StateError, TruncatedError, recover
from softlabel_codec.container import files as store
from softlabel_codec.container.files import partial_path

IMAGES = some_images((3, 40, 7, 200, 1))


def add_all(writer, images=IMAGES):
    for key, arguments in images.items():
        writer.add(key, **arguments)


def new_writer(path, **options):
    return SoftLabelWriter(path, NUM_CLASSES, CODEC, METADATA, **options)


@pytest.mark.parametrize(("number", "kills"), [(signal.SIGKILL, 50), (signal.SIGINT, 15)])
def test_writers_that_a_signal_ends_at_random_moments(tmp_path, number, kills):
    found = crashes.random_kills(tmp_path, kills, signal_number=number)
    outcome = found.outcome
    assert (found.signal, outcome.runs, sum(outcome.states.values())) == (number.name, kills, kills)
    unfinished = kills - outcome.states[NOTHING] - outcome.states[RENAMED]
    assert outcome.resumed_to_same_bytes == unfinished
    assert outcome.recovered_exactly == unfinished - outcome.states[HEADER]
    assert outcome.refused_unfinished == unfinished - outcome.states[UNNAMED]


def test_a_writer_killed_at_every_call_to_the_system(tmp_path):
    found = crashes.kills_at_every_call(tmp_path)
    assert list(found) == ["begins", "resumes", "overwrites"]
    assert all(found["begins"].states[state] for state in STATES)
    for outcome in found.values():
        assert outcome.states[BLOCKS] > 10
        assert outcome.states[FINISH] == 15  # before, halfway and after each of five parts, less what counts as the state before or after
        assert outcome.resumed_to_same_bytes == outcome.runs - outcome.states[NOTHING] - outcome.states[RENAMED]


def test_recover_killed_at_every_call_to_the_system(tmp_path):
    assert crashes.recover_kills_at_every_call(tmp_path) > 20


def test_every_fault_of_the_file_system_at_every_call(tmp_path):
    found = crashes.faults_at_every_call(tmp_path)
    assert list(found) == [fault.name for fault in crashes.FAULTS]
    for fault in crashes.FAULTS:
        outcome = found[fault.name]
        assert (outcome.failed, outcome.succeeded) == ((0, outcome.runs) if fault.succeeds else (outcome.runs, 0))
        assert outcome.runs >= 3
    assert found["error of fsync"].states == {state: 3 if state in (UNNAMED, RENAMED) else 0 for state in STATES}
    assert found["half is written"].states[RENAMED] == found["half is written"].runs


def test_a_fault_after_the_rename_is_told_apart(tmp_path):
    path = tmp_path / "a.slc"
    writers = []
    calls = calls_of(lambda: write(tmp_path / "b.slc", IMAGES))
    script = ScriptedOs(failing(errno.EIO), (len(calls) - 1,))
    with scripted(script), pytest.raises(OSError, match=r"the file is complete and has its name, but a power failure.*a\.slc'"):
        write(path, IMAGES, opened=writers.append)
    with pytest.raises(StateError, match=r"the writer is failed\. a\.slc is whole"):
        writers[0].finish()
    assert path.read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_a_disk_that_is_really_full(tmp_path):
    found = crashes.full_disk(tmp_path, 12)
    assert found.errors == {f"[Errno {errno.EFBIG}] File too large; what was written before is kept": 12}
    assert (found.outcome.failed, found.outcome.refused_unfinished, found.outcome.resumed_to_same_bytes) == (12, 12, 12)


def test_writes_that_a_power_failure_loses(tmp_path):
    found = crashes.power_failures(tmp_path, 30)
    assert found.resumed_to_same_bytes + found.resumed_after_recovery + found.begun_anew == found.failures == 30
    assert found.recovered_exactly > 10
    assert found.resumed_after_recovery > 3


@pytest.mark.torch
def test_the_command_killed_and_started_again(tmp_path):
    found = crashes.encode_kills(tmp_path, 2, crops=100)
    assert found.outcome.runs == 2
    assert found.finished_files > 0


def test_the_recover_command_gives_the_whole_blocks(tmp_path):
    unbroken = unbroken_run(tmp_path)
    partial, target = tmp_path / "a.slc.partial", tmp_path / "a.slc"
    partial.write_bytes(unbroken.data[: unbroken.block_ends[9] + 30])
    num_images = unbroken.first_images[9]
    assert f"{num_images} images in 9 blocks; 30 bytes" in crashes.recover_by_command(partial, target)
    check_first_images(target, unbroken, num_images)


ERRORS = [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError]
PLACES = {
    "before the first image": lambda writer: None,
    "after an image": lambda writer: writer.add("one", **IMAGES["class0/image0.png"]),
    "after the last image": add_all,
    "after a refused image": lambda writer: writer.add("one", probs=1.5, image_size=(5, 5)),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", PLACES)
def test_no_exception_leaves_a_finished_file(tmp_path, error, place):
    def write_and_fail(writer):
        with writer:
            PLACES[place](writer)
            raise error("stop")

    writer = new_writer(tmp_path / "a.slc")
    with pytest.raises(ValueError if place == "after a refused image" else error, match="stop|image 'one'"):
        write_and_fail(writer)
    assert [path.name for path in tmp_path.iterdir()] == ["a.slc.partial"]
    with pytest.raises(TruncatedError, match="an unfinished file"):
        SoftLabelReader(tmp_path / "a.slc.partial")
    with pytest.raises(StateError, match="the writer is closed"):
        writer.finish()


def test_a_generator_that_is_not_read_to_the_end_leaves_no_finished_file(tmp_path):
    def labelled():
        with new_writer(tmp_path / "a.slc") as writer:
            for key, arguments in IMAGES.items():
                writer.add(key, **arguments)
                yield key

    generator = labelled()
    assert [next(generator) for _ in range(4)] == list(IMAGES)[:4]
    generator.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.slc.partial"]
    write(tmp_path / "a.slc", IMAGES, resume=True)
    write(tmp_path / "b.slc", IMAGES)
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_a_writer_that_is_forgotten_does_not_keep_others_out(tmp_path):
    writer = new_writer(tmp_path / "a.slc")
    add_all(writer)
    del writer
    write(tmp_path / "a.slc", IMAGES, resume=True)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == list(IMAGES)


def refusals(path):
    """Return what a second writer is told, for each way to begin."""
    told = []
    for options in ({}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}):
        try:
            new_writer(path, **options).close()
        except StateError as error:
            told.append(str(error))
    return told


def test_a_second_writer_is_refused_wherever_it_is(tmp_path):
    path = tmp_path / "a.slc"
    (tmp_path / "link.slc").symlink_to("a.slc")
    with new_writer(path) as writer:
        add_all(writer)
        before = partial_path(path).read_bytes()
        told = refusals(path) + refusals(tmp_path / "link.slc")
        thread = threading.Thread(target=lambda: told.extend(refusals(path)))
        thread.start()
        thread.join()
        told += told_by_child(lambda: "\n".join(refusals(path))).splitlines()
        assert told == [f"{path}.partial: another writer is writing this file"] * 16
        assert partial_path(path).read_bytes() == before
    with SoftLabelReader(path) as reader:
        assert list(reader.keys) == list(IMAGES)


def test_the_second_writer_goes_on_after_the_first_is_killed(tmp_path):
    path = tmp_path / "a.slc"
    ready, tell = os.pipe()

    def work():
        with new_writer(path) as writer:
            add_all(writer)
            os.write(tell, b".")
            signal.pause()

    child = in_child(work)
    os.read(ready, 1)
    assert len(refusals(path)) == 4
    os.kill(child, signal.SIGKILL)
    assert end_of(child) == -signal.SIGKILL
    write(path, IMAGES, resume=True)
    with SoftLabelReader(path) as reader:
        assert list(reader.keys) == list(IMAGES)


def test_of_writers_that_begin_at_once_one_finishes(tmp_path):
    found = crashes.rivals(tmp_path, 15)
    assert found.finished == 15
    assert sum(found.refused.values()) == 45


def test_recover_beside_others_on_the_same_target(tmp_path):
    unbroken = unbroken_run(tmp_path)
    path = tmp_path / "a.slc"
    partial_path(path).write_bytes(unbroken.data[: unbroken.block_ends[9] + 30])
    asked = []

    def ask_again(name, real, arguments):
        if asked:
            return real(*arguments)
        asked.append(name)
        with pytest.raises(StateError, match=r"a\.slc\.recovered\.partial: another writer is writing"):
            recover(partial_path(path), path)
        return real(*arguments)

    with scripted(ScriptedOs(ask_again, range(1000), ("fsync",))):
        recover(partial_path(path), path)
    assert asked == ["fsync"]
    check_first_images(path, unbroken, unbroken.first_images[9])
    recovered = path.read_bytes()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write(path, unbroken.images, resume=True)
    assert path.read_bytes() == recovered
    write(path, unbroken.images, resume=True, overwrite=True)
    assert path.read_bytes() == unbroken.data


def test_a_writer_does_not_replace_what_was_recovered_while_it_worked(tmp_path):
    unbroken = unbroken_run(tmp_path)
    path = tmp_path / "a.slc"
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write(path, unbroken.images, before_finish=lambda: recover(partial_path(path), path))
    with SoftLabelReader(path) as reader:
        check_first_images(path, unbroken, len(reader))
    path.unlink()
    write(path, unbroken.images, resume=True)
    assert path.read_bytes() == unbroken.data


def test_readers_are_not_disturbed_by_replacing(tmp_path):
    found = crashes.replaced_under_readers(tmp_path, 20)
    assert found.replacements == 20
    assert found.reads_of_old >= 12
    assert found.openings > 0


def test_a_pickled_reader_notices_that_its_file_was_replaced(tmp_path):
    path = tmp_path / "a.slc"
    write(path, IMAGES)
    with SoftLabelReader(path) as reader:
        wanted, data = contents(reader), pickle.dumps(reader)
        write(path, some_images((2, 2), seed=1), overwrite=True)
        with pytest.raises(StateError, match=r"a\.slc: the file was replaced after"):
            pickle.loads(data)
        check_contents(contents(reader), wanted, path)
        path.unlink()
        check_contents(contents(reader), wanted, path)
        with pytest.raises(FileNotFoundError, match=r"a\.slc"):
            pickle.loads(data)


def rename_at_once(file):
    os.rename(file.partial, file.path)
    file.close()


SABOTAGE = {
    "finish": (rename_at_once, crashes.power_failures, (3,), "expected fsync around the rename"),
    "truncate": (lambda file, length: None, crashes.full_disk, (5,), "a resumed run ends with other bytes"),
}


@pytest.mark.parametrize("method", SABOTAGE)
def test_the_workloads_notice_a_store_that_does_it_wrong(tmp_path, monkeypatch, method):
    wrong, workload, size, message = SABOTAGE[method]
    monkeypatch.setattr(store.PartialFile, method, wrong)
    with pytest.raises(AssertionError, match=message):
        workload(tmp_path, *size)
