"""Locks of shards: who has one, when it is taken over, and what its owner is told then."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from softlabel_codec.label_set import locks
from softlabel_codec.label_set.locks import Lock, LockLostError, Owner, Watch, see

LONG_AGO, FAR_AHEAD = 10**9, 2 * 10**9


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.lock"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.4)


def write_lock(path, **changes):
    """Write a lock as a process of another machine would have left it."""
    owner = replace(Owner.this_process(), **{"host": "node7", "process": "another machine 1 2", "job": "Slurm job 12_3", **changes})
    path.write_text(json.dumps(asdict(owner)))
    return owner


def take_within(watch, path, seconds):
    """Look at a lock again and again, as a waiting worker does."""
    until = time.monotonic() + seconds
    while (lock := watch.take(path)) is None and time.monotonic() < until:
        time.sleep(0.02)
    return lock


def ended_process(**changes):
    """Return a process of this machine that has ended, as the owner of a lock."""
    code = "from softlabel_codec.label_set.locks import *; print(json.dumps(asdict(Owner.this_process())))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return replace(Owner.parse(done.stdout), **changes)


def test_one_process_has_a_lock(path):
    with Lock.take(path) as lock:
        assert Lock.take(path) is None
        assert Watch().take(path) is None
        lock.check()
        sight = see(path)
        assert (sight.owner.pid, sight.token) == (str(os.getpid()), lock.token)
    assert not path.exists()
    lock.release()
    with Lock.take(path) as other:
        assert other.token != lock.token
        with pytest.raises(LockLostError, match=f"was taken over by process {os.getpid()} on "):
            lock.check()
        lock.release()
        assert path.exists()


def test_a_lock_says_who_has_it_and_since_when(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1234")
    monkeypatch.setenv("RANK", "3")
    with Lock.take(path):
        os.utime(path, (0, 1_700_000_000))
        assert str(see(path)).startswith(f"process {os.getpid()} on {os.uname().nodename}, Slurm job 1234, rank 3, since 20")
        assert str(see(path)).endswith("UTC, last sign of life 2023-11-14 22:13:20 UTC")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1230")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert "Slurm job 1230_4" in str(Owner.this_process())


def test_a_lock_of_another_machine_is_taken_over_after_some_time_without_a_sign_of_life(path, quick, caplog):
    write_lock(path)
    watch = Watch()
    assert watch.take(path) is None
    lock = take_within(watch, path, 5)
    assert lock.token == see(path).token
    assert not watch.is_alive(path)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{path}: taken over from process {os.getpid()} on node7, Slurm job 12_3, since 20" in told
    assert told.endswith("which gave no sign of life for 0 s")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    lock.release()


def test_a_lock_whose_owner_lives_is_not_taken_over(path, quick):
    with Lock.take(path) as lock:
        watch = Watch()
        assert take_within(watch, path, 1) is None
        assert watch.is_alive(path)
        lock.check()


@pytest.mark.parametrize("seconds", [LONG_AGO, FAR_AHEAD])
def test_clocks_of_machines_need_not_agree(path, quick, seconds):
    write_lock(path)
    os.utime(path, (seconds, seconds))
    watch, began = Watch(), time.monotonic()
    take_within(watch, path, 5).release()
    assert time.monotonic() - began >= locks.STALE_SECONDS
    write_lock(path)
    for step in range(30):  # a sign of life is any change
        os.utime(path, (seconds, seconds - step))
        assert watch.take(path) is None
        time.sleep(0.02)


def test_time_in_which_nobody_looked_does_not_count(path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: clock[0])
    write_lock(path)
    watch = Watch()
    for seconds in (0, 3600, 3600):  # such as when the file server was away, or this process was stopped
        clock[0] += seconds
        assert watch.take(path) is None
    clock[0] += 1
    os.utime(path)
    assert watch.take(path) is None
    for _ in range(5):
        clock[0] += locks.HEARTBEAT_SECONDS
        assert watch.take(path) is None
    clock[0] += locks.HEARTBEAT_SECONDS
    watch.take(path).release()


def test_a_lock_of_a_process_that_has_ended_is_taken_over_at_once(path, caplog):
    path.write_text(json.dumps(asdict(ended_process())))
    with Watch().take(path) as lock:
        lock.check()
    assert caplog.records[-1].getMessage().endswith("which has ended")


def test_a_killed_process_that_nobody_has_waited_for_has_ended(path):
    code = "from softlabel_codec.label_set.locks import *; Lock.take(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", f"import sys; {code}", path], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert Watch().take(path) is None
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    Watch().take(path).release()
    process.communicate()


def test_the_number_of_a_process_may_be_used_again(path):
    write_lock(path, process=Owner.this_process().process + "0")
    Watch().take(path).release()


@pytest.mark.parametrize(
    "changes",
    [
        {"process": "another machine 1 2"},
        {"process": ""},
        {"pid": "99999999999999999999"},
        {"pid": "x"},
        {"pid": "0"},
        {"pid": "-1"},
    ],
)
def test_of_a_process_that_cannot_be_looked_at_nothing_is_assumed(path, changes):
    path.write_text(json.dumps(asdict(ended_process(**changes))))
    assert Watch().take(path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3}', b"\xff" * 10_000])
def test_a_lock_that_says_nothing_is_a_lock(path, quick, content):
    path.write_bytes(content)
    watch = Watch()
    assert watch.take(path) is None
    assert "an unknown owner" in str(see(path))
    take_within(watch, path, 5).release()


def test_one_of_several_takes_a_stale_lock_over(path, quick):
    write_lock(path)
    watches = [Watch() for _ in range(4)]
    taken = []
    until = time.monotonic() + 1
    while time.monotonic() < until:
        taken += [lock for watch in watches if (lock := watch.take(path))]
        time.sleep(0.01)
    assert len(taken) == 1
    taken[0].check()
    taken[0].release()


def test_a_new_lock_is_not_taken_for_the_stale_one_that_was_there(path):
    stale = write_lock(path)
    seen = see(path)
    path.unlink()
    with Lock.take(path) as lock:
        assert not locks._remove(path, seen)
        lock.check()
        assert lock.token != stale.token
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_lock_that_cannot_be_written_is_none(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(locks.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        Lock.take(path)
    assert not path.exists()


def test_a_lock_of_which_little_is_written_at_a_time_is_whole(path, monkeypatch):
    """As when a disk is nearly full: then the next call fails, and it is none."""
    write = os.write
    monkeypatch.setattr(locks.os, "write", lambda file, data: write(file, data[:7]))
    with Lock.take(path) as lock:
        lock.check()
