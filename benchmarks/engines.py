"""Compare what labels with several workers: python -m benchmarks.engines.

Every way labels the same photographs with the same teacher, in one thread per worker, and makes a set of the same shards: one process of
`slcodec encode --shards`, two of them, two under torchrun, and Ray with one actor and with two. Rates count from the first batch of
the teacher to the finished set; what comes before it (loading Python, torch and the teacher, starting processes and actors) is reported
as the time to start. Processor time is that of all processes together, Ray's own included; a busy machine disturbs it less.

It needs Ray (the environment of `make test-many`) and the teacher and photographs beside the repository, and writes
`results/engines.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from benchmarks.measure.common import PHOTOGRAPHS, RESULTS, SHARED, circumstances, spread
from softlabel_codec.label_set.index_file import SUFFIX, SetIndex
from softlabel_codec.ray import label_images, labelling

RESULT = RESULTS / "engines.json"
PACKAGES = ("softlabel_codec", "numpy", "torch", "ray", "pillow")
CODEC, CROPS, SHARDS, ROUNDS = "marginal_smoothing:k=5", 16, 4, 5
IMAGES_PER_PART = 10
"""So that a run of this length has as many parts as a longer one has of the usual size."""
TEACHER = f"""
import importlib.util, os, time
from torch import nn

spec = importlib.util.spec_from_file_location("teacher", {str(SHARED / "teacher" / "mobilenet_v2.py")!r})
teacher = importlib.util.module_from_spec(spec)
spec.loader.exec_module(teacher)
NAME, INPUT_SIZE, MEAN, STD = teacher.NAME, teacher.INPUT_SIZE, teacher.MEAN, teacher.STD

class NotingWhenItBegins(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.begun = network, False

    def forward(self, images):
        if not self.begun and len(images) == {CROPS}:
            self.begun = True
            with open(os.path.join(os.path.dirname(__file__), "begun"), "a") as file:
                file.write(f"{{time.time()}}\\n")
        return self.network(images)

def build():
    return NotingWhenItBegins(teacher.build())
"""
SECONDS_BETWEEN_LOOKS = 0.5
Run = Callable[[Path, str], None]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def _options(out: Path, teacher: str) -> list[str]:
    given = {"teacher": teacher, "codec": CODEC, "crops": CROPS, "batch-size": CROPS, "shards": SHARDS, "workers": 0, "device": "cpu"}
    return [str(PHOTOGRAPHS), str(out), *(word for name, value in given.items() for word in (f"--{name}", str(value))), "--quiet"]


def _processes(count: int) -> Run:
    """Return a way of labelling with that many processes of `slcodec encode`."""

    def run(out: Path, teacher: str) -> None:
        command = _command("softlabel_codec", "encode", *_options(out, teacher))
        workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise RuntimeError(f"failed: {command}")

    return run


def _torchrun(out: Path, teacher: str) -> None:
    command = _command("torch.distributed.run", "--nproc-per-node", "2", "-m", "softlabel_codec.teacher", *_options(out, teacher))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ray(actors: int) -> Run:
    """Return a way of labelling with that many actors of Ray's."""

    def run(out: Path, teacher: str) -> None:
        rows = ray.data.read_binary_files(str(PHOTOGRAPHS), include_paths=True)
        images = rows.map(lambda row: {"key": os.path.relpath(row["path"], PHOTOGRAPHS), "bytes": row["bytes"]})
        how = {"codec": CODEC, "crops": CROPS, "batch_size": CROPS, "device": "cpu"}
        label_images(images, out, teacher, shards=SHARDS, concurrency=actors, **how)

    return run


WAYS: dict[str, Run] = {
    "slcodec encode --shards": _processes(1),
    "Ray, 1 actor": _ray(1),
    "slcodec encode --shards, 2 processes": _processes(2),
    "torchrun, 2 processes": _torchrun,
    "Ray, 2 actors": _ray(2),
}
PLAIN = {"Ray, 1 actor": "slcodec encode --shards"} | dict.fromkeys(
    ("torchrun, 2 processes", "Ray, 2 actors"), "slcodec encode --shards, 2 processes"
)
"""What the engine of a way is compared with: as many workers without it."""


class ProcessorTime:
    """Adds up the processor time of this process and all that it and its children start, also of those that have ended.

    Attributes
    ----------
    begun : float or None
        Seconds when a file first appeared; None if it has not.
    """

    def __init__(self, sign: Path) -> None:
        self.begun: float | None = None
        self._sign, self._ended = sign, threading.Event()
        self._seconds: dict[tuple[int, str], float] = {}
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ProcessorTime:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def total(self) -> float:
        """Return the seconds so far."""
        parents, found = {}, {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                pid = int(path.parent.name)
                parents[pid] = int(fields[1])
                found[pid] = (fields[19], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        for pid, (start, seconds) in found.items():
            if _is_below(pid, os.getpid(), parents):
                self._seconds[pid, start] = seconds
        return sum(self._seconds.values())

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            seconds = self.total()
            if self.begun is None and self._sign.exists():
                self.begun = seconds


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor


class Measured(NamedTuple):
    """What a run gave: images per second, processor seconds per image, seconds to start, and the fingerprint of the set."""

    rate: float
    processor_seconds: float
    seconds_to_start: float
    fingerprint: str


def _measure(run: Run, folder: Path) -> Measured:
    out, begun = folder / "set", folder / "begun"
    begun.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    with ProcessorTime(begun) as processors:
        started = time.time()
        run(out, f"{folder}/teacher.py:build")
        ended = time.time()
        seconds = processors.total() - (processors.begun or 0)
    index = SetIndex.unpack((out / f"set{SUFFIX}").read_bytes())
    first = min(map(float, begun.read_text().split()))
    return Measured(index.num_images / (ended - first), seconds / index.num_images, first - started, index.fingerprint)


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Return images per second and seconds to start of each way, taken in turns, and the ratios of each turn."""
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    labelling.CROPS_PER_PART = CROPS * IMAGES_PER_PART
    started = time.time()
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="warning")
    cluster_seconds = time.time() - started
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "teacher.py").write_text(TEACHER)
        found: dict[str, list[Measured]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, run in WAYS.items():
                found[way].append(_measure(run, Path(name)))
                print(way, found[way][-1], file=sys.stderr)

    def of(way: str, name: str) -> NDArray[np.float64]:
        return np.array([getattr(one, name) for one in found[way]])

    def of_plain(name: str) -> dict[str, dict[str, float]]:
        return {way: spread(of(way, name) / of(plain, name)) for way, plain in PLAIN.items()}

    return {
        **circumstances(PACKAGES),
        "teacher": "MobileNetV2, 224 pixels",
        "images": len(list(PHOTOGRAPHS.rglob("*.JPEG"))),
        "crops_per_image": CROPS,
        "shards": SHARDS,
        "images_per_second": {way: spread(of(way, "rate")) for way in WAYS},
        "of_plain": of_plain("rate"),
        "processor_seconds_per_image": {way: spread(of(way, "processor_seconds")) for way in WAYS},
        "processor_of_plain": of_plain("processor_seconds"),
        "seconds_to_start": {way: spread(of(way, "seconds_to_start")) for way in WAYS},
        "seconds_to_start_a_cluster": cluster_seconds,
        "same_bytes": len({one.fingerprint for of_way in found.values() for one in of_way}) == 1,
    }


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
    print(RESULT, file=sys.stderr)
