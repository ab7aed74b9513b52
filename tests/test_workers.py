"""Workers of a DataLoader end with the main process, also if it is killed while they begin."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softlabel_codec.teacher.batches import load_batches

MAIN = f"""
import multiprocessing
import os
import sys
import time
from pathlib import Path

from softlabel_codec.sampler import CropSampler
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.sources import FolderSource
from {load_batches.__module__} import CropBatches, Plan, load_batches

if __name__ == "__main__":
    folder, method, workers, seconds = sys.argv[1:]
    multiprocessing.set_start_method(method)
    os.register_at_fork(after_in_child=lambda: time.sleep(float(seconds)))  # how long a worker takes to begin
    batches = CropBatches(FolderSource(Path(folder)), ["cat/b.png"] * 500, Plan(500, 6, 6), CropSampler(), [Cutter(16)])
    for number, batch in enumerate(load_batches(batches, range(500), int(workers), False)):
        print(number, flush=True)
        time.sleep(0.1)
"""


def descendants(process: int) -> set[int]:
    """Return the processes that a process started, and those that they started."""
    found: set[int] = set()
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child} | descendants(child)
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(processes: set[int], seconds: float = 40) -> bool:
    """Return whether all processes end within that time; those that do not are killed."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = {process for process in processes if is_running(process)}
    for process in left:
        os.kill(process, signal.SIGKILL)
    return not left


@pytest.fixture
def begin(image_folder, tmp_path):
    (tmp_path / "main.py").write_text(MAIN)

    def begin(method: str, seconds: float) -> subprocess.Popen:
        words = [sys.executable, tmp_path / "main.py", image_folder, method, WORKERS[method], seconds]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True, env=alone)

    return begin


WORKERS = {"fork": 2, "spawn": 1, "forkserver": 1}
PROCESSES = {"fork": 2, "spawn": 2, "forkserver": 3}
"""With the helpers that a start method needs: a tracker of resources, and the server."""


@pytest.mark.parametrize("method", WORKERS)
def test_workers_that_begin_when_the_main_process_is_dead(begin, method):
    with begin(method, 1.0) as main:
        while len(started := descendants(main.pid)) < PROCESSES[method]:
            assert main.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)  # the workers have been told what to do, and have not begun
        main.kill()
        main.wait()
        assert ends(started)
        assert main.stdout.read() == ""


@pytest.mark.parametrize("method", WORKERS)
def test_workers_at_work_when_the_main_process_dies(begin, method):
    with begin(method, 0.0) as main:
        assert main.stdout.readline() == "0\n"
        started = descendants(main.pid)
        assert len(started) == PROCESSES[method]
        main.kill()
        main.wait()
        assert ends(started)
