"""Label sets made by several processes, as schedulers and torchrun start them; some are killed, stopped, interrupted, or out of disk."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import crashes
import pytest
from crashes.command import write_images_and_teacher
from crashes.workers import check_same

from softlabel_codec.label_set import locks
from softlabel_codec.label_set.folder import SetFolder
from softlabel_codec.label_set.locks import Lock, see

pytestmark = pytest.mark.many

SHARDS = 6
QUICK = """
import sys
from softlabel_codec.cli.main import main
from softlabel_codec.label_set import locks
locks.HEARTBEAT_SECONDS, locks.STALE_SECONDS = 0.2, 2.0
main(sys.argv[1:])
"""
"""The command with shorter times for locks."""
TORCHRUN = "torch.distributed.run", "--standalone", "--nproc-per-node", "4"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Images, a teacher, and a set of them that one worker has made."""
    folder = tmp_path_factory.mktemp("desk")
    write_images_and_teacher(folder, 60)
    (folder / "whole").mkdir()
    ended(start(folder, folder / "whole" / "labels"))
    return folder


def options(desk, out, *more):
    what = ["--teacher", f"{desk / 'teacher.py'}:build", "--crops", "1000", "--batch-size", "50", "--device", "cpu", "--workers", "0"]
    return [str(desk / "images"), str(out), *what, "--shards", str(SHARDS), "--codec", "marginal_smoothing:k=5", *more]


def start(desk, out, *more, begin=("-m", "softlabel_codec", "encode"), **how):
    """Start a worker."""
    command = [sys.executable, *begin, *options(desk, out, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **how)


def ended(process, code=0):
    """Wait for a worker, check how it ended, and return what it wrote to both outputs."""
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


def begun(out):
    """Wait until a process is labelling, and something of its shard is written; return all that are, by the shard that each is making."""
    place = SetFolder(out, SHARDS)
    until = time.monotonic() + 100
    while time.monotonic() < until:
        found = place.contents() if out.exists() else None
        busy = [number for number in found.locked if max(found.unfinished.get(number, {"": 0}).values()) > 3000] if found else []
        owners = {number: sight.owner for number in busy if (sight := see(place.lock_path(number))) and sight.owner}
        if owners:
            return {number: int(owner.pid) for number, owner in owners.items()}
        time.sleep(0.01)
    raise AssertionError(f"{out}: no process began within 100 s")


def test_workers_that_are_killed_and_stopped_at_random(tmp_path):
    found = crashes.kills_of_workers(tmp_path, 14)
    assert found.kills == 14
    assert found.finished_sets >= 2
    assert found.on_one_machine + found.on_several == found.kills + found.stops
    assert found.taken_over > 0


def test_workers_of_whom_no_two_clocks_agree(tmp_path):
    found = crashes.kills_of_workers(tmp_path, 8, clocks_differ=True)
    assert (found.kills, found.on_one_machine) == (8, 0)
    assert found.most_hours_apart > 1


def test_workers_beside_one_whose_disk_is_full_finish_the_set(tmp_path):
    found = crashes.full_disk_of_one(tmp_path, 2)
    assert found.full == sum(found.errors.values()) == 2
    assert found.finished_by_others + found.finished_later >= 2


def test_three_workers_of_which_one_is_killed(desk, tmp_path):
    out = tmp_path / "labels"
    workers = [start(desk, out) for _ in range(3)]
    (shard, pid), *_ = begun(out).items()
    os.kill(pid, signal.SIGKILL)
    told = [ended(worker, -signal.SIGKILL if worker.pid == pid else 0) for worker in workers]
    assert any(f"{shard:05d}-of-00006.slc.lock: taken over from process {pid} on " in text and "which has ended" in text for text in told)
    assert any("finished  " in text and "all 6 shards" in text for text in told)
    check_same(out, desk / "whole" / "labels")
    text = ended(start(desk, out))
    assert "finished  before, with the same options: 6 shards, 60 images" in text


def test_workers_with_shards_of_their_own_as_an_array_of_jobs(desk, tmp_path):
    out = tmp_path / "labels"
    for worker in [start(desk, out, "--shard", numbers) for numbers in ("0-2", "3,4,5")]:
        ended(worker)
    check_same(out, desk / "whole" / "labels")


def test_a_worker_that_is_stopped_for_too_long_and_goes_on(desk, tmp_path):
    out = tmp_path / "labels"
    first = start(desk, out, "--shard", "2", begin=("-c", QUICK, "encode"))
    begun(out)
    first.send_signal(signal.SIGSTOP)
    try:
        told = ended(start(desk, out, "--shard", "2", begin=("-c", QUICK, "encode")))
        assert re.search(rf"taken over from process {first.pid} on .*, which gave no sign of life for \d s", told)
        assert re.search(r"shard 2 of 6: labelling 10 images, \d+ of them before", told)
        finished = SetFolder(out, SHARDS).shard(2)
        before = finished.read_bytes(), finished.stat().st_mtime_ns
    finally:
        first.send_signal(signal.SIGCONT)
    told = ended(first)
    assert "labels-00002-of-00006.slc: left to another worker" in told
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == before
    assert [path.name for path in out.iterdir()] == [finished.name]
    assert before[0] == (desk / "whole" / "labels" / finished.name).read_bytes()


def test_a_shard_that_another_worker_is_making(desk, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    out.mkdir()
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    with Lock.take(SetFolder(out, SHARDS).lock_path(4)) as lock:
        told = ended(start(desk, out, "--shard", "4", begin=("-c", QUICK, "encode")), code=1)
        lock.check()
    assert f"labels-00004-of-00006.slc: another worker is making this shard: process {os.getpid()} on " in told


def test_a_worker_whose_disk_is_full(desk, tmp_path):
    out = tmp_path / "labels"

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))

    told = ended(start(desk, out, "--shard", "1", preexec_fn=small_disk), code=1)
    assert "File too large; what was written before is kept" in told
    assert not list(out.glob("*.lock"))
    told = ended(start(desk, out))
    assert re.search(r"shard 1 of 6: labelling 10 images, \d+ of them before", told)
    check_same(out, desk / "whole" / "labels")


def test_a_worker_that_is_interrupted(desk, tmp_path):
    out = tmp_path / "labels"
    worker = start(desk, out)
    begun(out)
    worker.send_signal(signal.SIGINT)
    told = ended(worker, code=130)
    assert re.search(
        r"slcodec: interrupted\. \d shards? of 6 finished by this worker\. \d+ images? (is|are) kept in .*\.partial; run", told
    )
    assert not list(out.glob("*.lock"))
    ended(start(desk, out))
    check_same(out, desk / "whole" / "labels")


def test_four_processes_of_torchrun_of_which_one_is_killed(desk, tmp_path):
    out = tmp_path / "labels"
    run = start(desk, out, begin=("-m", *TORCHRUN, "--max-restarts", "2", "-m", "softlabel_codec.teacher"))
    pids = begun(out)  # on a busy machine, some may have finished their shards before others begin
    kept = SetFolder(out, SHARDS).contents().unfinished
    shard = min(pids)
    os.kill(pids[shard], signal.SIGKILL)
    told = ended(run)
    ranks = {line.partition(": shard")[0] for line in told.splitlines() if ": shard" in line}
    assert ranks <= {f"slcodec: rank {rank}" for rank in range(4)}
    assert len(ranks) > 1
    assert f"labels-{shard:05d}-of-00006.slc.lock: taken over from process {pids[shard]} on " in told
    continued = re.search(rf"shard {shard} of 6: labelling 10 images, (\d+) of them before", told)
    assert int(continued[1]) >= 1, kept
    check_same(out, desk / "whole" / "labels")


def test_torchrun_that_does_not_restart_its_processes(desk, tmp_path):
    out = tmp_path / "labels"
    begin = ("-m", *TORCHRUN, "-m", "softlabel_codec.teacher")
    run = start(desk, out, begin=begin)
    os.kill(next(iter(begun(out).values())), signal.SIGKILL)
    assert "SIGKILL" in ended(run, code=1)
    assert not SetFolder(out, SHARDS).index.exists()
    ended(start(desk, out, begin=begin))
    check_same(out, desk / "whole" / "labels")


def test_more_processes_than_shards(desk, tmp_path):
    out = tmp_path / "labels"
    command = ["2" if word == str(SHARDS) else word for word in options(desk, out)]
    run = [sys.executable, "-m", *TORCHRUN, "-m", "softlabel_codec.teacher", *command]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert len([path for path in out.iterdir() if path.suffix == ".slc"]) == 2
    assert (Path(out) / "labels.slc.index.json").exists()
