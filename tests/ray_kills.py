"""Labelling on a cluster of Ray's of which drivers and actors are killed at random. It needs the packages of `make test-many`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import ray.data
from conftest import TEACHER
from PIL import Image
from ray.cluster_utils import Cluster
from ray_driver import CROPS, label

from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.teacher import EncodeConfig, encode

ROOT = Path(__file__).parents[1]
IMAGES, CODEC = 26, "marginal_smoothing:t=0.02,tail=5"
SLOW_TEACHER = """

class Slow(nn.Sequential):
    def forward(self, images):
        time.sleep(0.02)
        return super().forward(images)

def slow():
    return Slow(build())
"""


@dataclass(frozen=True)
class RayKills:
    """What came of sets that were labelled on a cluster while its drivers or actors were killed.

    Attributes
    ----------
    kills : int
        Drivers, or actors, that were killed.
    too_late : int
        Those that had ended before.
    finished_sets : int
        Sets that were finished after that: the same command again after a driver, nothing after an actor. All have the bytes of the labels
        that one process gives, so that no image is missing and none is there twice, and no other files.
    resumed_images, labelled_images : int
        Images that the last run of a driver found labelled, and those that it labelled.
    """

    kills: int
    too_late: int
    finished_sets: int
    resumed_images: int
    labelled_images: int


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Start a cluster of two nodes of two processors each, with this process as a driver."""
    before = os.environ.get("PYTHONPATH")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # of all workers
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 2**27})
    try:
        nodes.add_node(num_cpus=2, object_store_memory=2**27)
        ray.init(nodes.address, log_to_driver=False, logging_level="warning")
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def write_desk(folder: Path) -> Path:
    """Write images, a teacher, and the file `one.slc` of the labels that one process gives them; return the folder."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / "images" / f"n{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)).save(path)
    (folder / "teacher.py").write_text(f"import time\n{TEACHER}{SLOW_TEACHER}")
    encode(EncodeConfig(str(folder / "images"), str(folder / "one.slc"), f"{folder}/teacher.py:slow", CODEC, CROPS))
    return folder


def shards_of(out: Path) -> list[Path]:
    """Return the shards of a set in the order of its index, after checking that nothing else was left."""
    index = SetIndex.unpack((out / f"{out.name}.slc.index.json").read_bytes())
    paths = [out / shard.file for shard in index.shards]
    assert {path.name for path in out.iterdir()} == {path.name for path in paths} | {f"{out.name}.slc.index.json"}
    return paths


def wait_for_parts(out: Path, count: int) -> None:
    """Wait until some parts of a set are written, or the set is finished."""
    for _ in range(3000):
        if len(list(out.glob("*.parts/*.slc"))) >= count or _is_finished(out):
            return
        time.sleep(0.1)
    raise AssertionError(f"expected {count} parts within five minutes")


def actors() -> list[int]:
    """Return the numbers of the processes of teachers."""
    lines = subprocess.run(["ps", "-eo", "pid,args"], check=True, capture_output=True, text=True).stdout
    return [int(pid) for pid in re.findall(r"^ *(\d+) ray::MapWorker\(MapBatches\(PartLabeller", lines, re.MULTILINE)]


@contextmanager
def a_driver(cluster: Cluster, desk: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a driver in a process of its own, and wait for its end."""
    arguments = [cluster.address, desk / "images", out, f"{desk}/teacher.py:slow", CODEC]
    command = [sys.executable, ROOT / "tests" / "ray_driver.py", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        yield driver


def kills_of_drivers(cluster: Cluster, desk: Path, folder: Path, kills: int, *, seed: int = 0) -> RayKills:
    """Kill drivers after a random number of parts and some time, half of them twice, and run the same again until the set is finished.

    Before that, more is left than a killed driver may leave: a part that is cut off, one that is there twice, a part of a shard.
    """
    rng, killed, too_late, sets, resumed, labelled = np.random.default_rng(seed), 0, 0, 0, 0, 0
    while killed < kills:
        out = folder / "set"
        for _ in range(min(kills - killed, int(rng.integers(1, 3)))):
            with a_driver(cluster, desk, out) as driver:
                wait_for_parts(out, len(list(out.glob("*.parts/*.slc"))) + int(rng.integers(0, 5)))
                time.sleep(rng.uniform(0, 1.5))
                driver.kill()
            assert driver.returncode in (0, -signal.SIGKILL), f"a driver ended with {driver.returncode}"
            killed, too_late = killed + (driver.returncode != 0), too_late + (driver.returncode == 0)
            if _is_finished(out):
                break
        _leave_more(out)
        report = label(desk / "images", out, f"{desk}/teacher.py:slow", codec=CODEC)
        _check(out, desk)
        sets, resumed, labelled = sets + 1, resumed + report.resumed_images, labelled + report.num_images - report.resumed_images
    return RayKills(killed, too_late, sets, resumed, labelled)


def _leave_more(out: Path) -> None:
    for part in sorted(out.glob("*.parts/*.slc"))[:1]:
        (part.parent / "cut.slc").write_bytes(part.read_bytes()[:-1])  # as a task leaves it that is killed while it writes
        shutil.copy(part, part.parent / "twice.slc")  # as a task leaves it that ran twice
        (out / "set-00000-of-00001.slc.partial").write_bytes(b"left")  # as a driver leaves it that is killed when nearly all is done


def kills_of_actors(desk: Path, folder: Path, kills: int, *, seed: int = 0) -> RayKills:
    """Kill a teacher's actor after a random number of parts and some time, while its driver goes on."""
    rng, killed = np.random.default_rng(seed), 0
    for _ in range(kills):
        out, parts, delay = folder / "set", int(rng.integers(0, 4)), rng.uniform(0, 0.5)
        killer = threading.Thread(target=_kill_an_actor, args=(out, parts, delay, set(actors()), told := []))
        killer.start()
        report = label(desk / "images", out, f"{desk}/teacher.py:slow", codec=CODEC)
        killer.join()
        killed += len(told)
        assert report.resumed_images == 0
        _check(out, desk)
    return RayKills(killed, kills - killed, kills, 0, IMAGES * kills)


def _kill_an_actor(out: Path, parts: int, delay: float, earlier: set[int], told: list[int]) -> None:
    """Kill an actor that was not there earlier, unless the set is finished before, and tell which."""
    wait_for_parts(out, parts)
    while not (found := [pid for pid in actors() if pid not in earlier]) and not _is_finished(out):
        time.sleep(0.05)
    time.sleep(delay)
    with suppress(ProcessLookupError, IndexError):
        os.kill(found[0], signal.SIGKILL)
        told.append(found[0])


def _is_finished(out: Path) -> bool:
    return any(out.glob("*.index.json"))


def _check(out: Path, desk: Path) -> None:
    """Check that a set has the bytes of the labels that one process gives, and remove it."""
    (path,) = shards_of(out)
    assert path.read_bytes() == (desk / "one.slc").read_bytes(), f"{out}: other bytes than those of one process"
    shutil.rmtree(out)
