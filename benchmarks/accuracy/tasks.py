"""Tasks that are done once, in parts of so many minutes, by one process or several: files say what is begun, done and failed."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.accuracy.results import add_result, read_results
from softlabel_codec.compare.outcome import machine
from softlabel_codec.errors import SoftLabelError, StateError
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.trainer import ImageMemory
from softlabel_codec.version import library_versions

MORE_TO_DO = 3
"""Exit code."""
SECONDS_BETWEEN_LOOKS = 0.2
BEGUN, DONE, FAILED = "begun", "done", "failed"
"""Folders with an empty file for each task in that state."""
LABELS = "labels"
OTHER_TEACHER = "Put the weights of that teacher there, or take another folder with --results"


class TimeUpError(Exception):
    """The time of this call is over."""


@dataclass(frozen=True)
class Task:
    """Something to be done once.

    Attributes
    ----------
    name : str
        What it is called in the folders of what is begun, done and failed.
    needs : tuple of str
        Tasks that must be done before.
    make : callable
        Does it.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[], None]


class Tasks:
    """Tasks of an experiment in a folder; a subclass says which.

    Parameters
    ----------
    work : Path
        Folder of images, teachers, labels and runs.
    results : Path
        File of the results, a JSON object to a line.
    minutes : float
        After so long, TimeUpError is raised between two steps.
    """

    def __init__(self, work: Path, results: Path, minutes: float) -> None:
        self._work, self._results = work, results
        self._end = time.monotonic() + 60 * minutes
        self._memory = ImageMemory()
        self._known = {result["name"]: result for result in read_results(results)}

    def _tasks(self) -> Iterator[Task]:
        raise NotImplementedError

    def begin(self) -> None:
        """Forget what was begun only, or failed; before any process works.

        Raises
        ------
        StateError
            If there are results of a teacher whose weights are not in the folder: those of another do not belong to them.
        """
        for state in (BEGUN, FAILED):
            shutil.rmtree(self._work / state, ignore_errors=True)
        for folder in (BEGUN, FAILED, DONE, LABELS):
            (self._work / folder).mkdir(parents=True, exist_ok=True)
        self._results.parent.mkdir(parents=True, exist_ok=True)
        for marked in (self._work / DONE).iterdir():
            if marked.name not in self._known:  # its result was lost, or goes to another file now
                marked.unlink()
        for name, result in self._known.items():
            trained = result["kind"] == "teacher" and self._is_trained(result["teacher"])
            if trained and not self._weights(result["teacher"]).exists():
                raise StateError(f"{self._results}: has results of a teacher that is not in {self._work}. {OTHER_TEACHER}")
            if result["kind"] == "run":
                self._mark(DONE, name)

    def work(self) -> None:
        """Do what nobody has begun until nothing is left.

        Raises
        ------
        TimeUpError
            If time ends before that.
        StateError
            If a task failed here, or in another process one that a task here needs. The others were done nevertheless.
        """
        left, failed = [task for task in self._tasks() if not self._is(DONE, task.name)], []
        while left:
            self._check_time()
            task = next((task for task in left if all(self._is(DONE, name) for name in task.needs)), None)
            if task is None:
                hopeless = [task.name for task in left if any(self._is(FAILED, name) for name in task.needs)]
                for name in hopeless:
                    self._mark(FAILED, name)
                failed += hopeless
                left = [task for task in left if task.name not in hopeless]
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                left.remove(task)
                failed += [] if self._do(task) else [task.name]
        if failed:
            raise StateError(f"{len(failed)} tasks failed: {', '.join(failed)}")

    def _do(self, task: Task) -> bool:
        """Do a task that nobody has begun; return whether it went well, or another process looks after it."""
        if self._is(DONE, task.name) or not self._claim(task):
            return True
        try:
            task.make()
        except TimeUpError:
            raise
        except Exception as error:  # whatever it is: what does not need this task goes on
            said = [str(error)] if isinstance(error, SoftLabelError) else traceback.format_exception(error)
            print(f"{task.name}: {''.join(said)}", file=sys.stderr)
            self._mark(FAILED, task.name)
            return False
        self._mark(DONE, task.name)
        return True

    def _is(self, state: str, name: str) -> bool:
        return (self._work / state / name).exists()

    def _mark(self, state: str, name: str) -> None:
        (self._work / state / name).touch()

    def _claim(self, task: Task) -> bool:
        try:
            (self._work / BEGUN / task.name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _check_time(self, *progress: Any) -> None:
        if time.monotonic() > self._end:
            raise TimeUpError

    def _write(self, kind: str, name: str, seconds: float, **found: Any) -> None:
        """Add a result to the file, unless it is there already."""
        if name in self._known:
            return
        versions = library_versions("softlabel_codec", "numpy", "pillow", "torch", "zstandard")
        where = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions, "seconds": round(seconds, 1)}
        add_result(self._results, {"kind": kind, "name": name, **where, **found})
        print(f"{time.strftime('%H:%M:%S')}  {name}  {seconds:.1f} s", file=sys.stderr, flush=True)

    def _is_trained(self, teacher: str) -> bool:
        """Return whether the weights of a teacher must be in the folder."""
        return True

    def _weights(self, teacher: str) -> Path:
        return self._work / f"teacher-{teacher}.pt"

    def _write_teacher(self, teacher: str, model: nn.Module, seconds: float, **found: Any) -> None:
        """Add the result of a teacher to the file; StateError if it holds results of another one."""
        name, fingerprint = f"teacher-{teacher}", weights_sha256(model)
        if self._known.get(name, {}).get("weights_sha256", fingerprint) != fingerprint:
            raise StateError(f"{self._results}: has results of another teacher than {self._weights(teacher)}. {OTHER_TEACHER}")
        self._write("teacher", name, seconds, teacher=teacher, weights_sha256=fingerprint, **found)


def add_options(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Add the options that `run` takes, with a default for the minutes."""
    parser.add_argument("work", type=Path, help="folder for images, labels and runs")
    parser.add_argument("--minutes", type=float, default=minutes, help="stop after so long; the same command goes on")
    parser.add_argument("--processes", type=int, default=1, help="tasks at a time")
    parser.add_argument("--one-of-many", action="store_true", help=argparse.SUPPRESS)


def run(module: str, options: argparse.Namespace, tasks: Tasks, prepare: Callable[[], None]) -> None:
    """Do as much as fits into the time; exit with `MORE_TO_DO` if that is not all.

    Parameters
    ----------
    module : str
        What `python -m` runs, with the arguments of this process, in each of several processes.
    options : Namespace
        What `add_options` has added.
    tasks : Tasks
        What is to be done.
    prepare : callable
        Called once before.
    """
    started = time.monotonic()
    try:
        if not options.one_of_many:
            tasks.begin()
            prepare()
        if options.processes > 1:
            left = options.minutes - (time.monotonic() - started) / 60
            sys.exit(_work_together(module, sys.argv[1:], options.processes, left))
        tasks.work()
    except TimeUpError:
        print("time is up: run it again to go on", file=sys.stderr)
        sys.exit(MORE_TO_DO)
    except StateError as error:
        sys.exit(str(error))
    print("everything is done", file=sys.stderr)


def _work_together(module: str, arguments: list[str], processes: int, minutes: float) -> int:
    """Start processes that each do tasks, and wait for them; return the exit code of one that failed, if any did."""
    own = [*arguments, "--processes", "1", "--minutes", f"{minutes:.3f}", "--one-of-many"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    started = [subprocess.Popen([sys.executable, "-m", module, *own], env=os.environ | threads) for _ in range(processes)]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.terminate()
    return max(codes, key=lambda code: (code not in (0, MORE_TO_DO), code))
