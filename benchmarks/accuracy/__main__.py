"""The accuracy experiment on 100 classes of Tiny-ImageNet: python -m benchmarks.accuracy WORK [--scale gpu|cpu|check].

Trains teachers, labels 100 crops of each image, writes the labels with all codecs, and trains students from each. It stops after
--minutes and continues from what is there: run it again until it says that everything is done (exit code 0; 3: there is more to
do). With --processes, several tasks are done at a time. Results go to `results/SCALE.jsonl`; `tables.py` makes the tables of the
report. On another machine, put the `teacher-*.pt` of an earlier WORK into an empty one to go on with the same teachers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.accuracy.experiment import Experiment, TimeUpError
from benchmarks.accuracy.images import unpack
from benchmarks.accuracy.plan import HERE, SCALES
from benchmarks.measure.common import SHARED
from softlabel_codec.errors import StateError

DATA = SHARED / "data" / "tiny-imagenet-100.npz"
MORE_TO_DO = 3


def main() -> None:
    """Do as much as fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for images, labels and runs")
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--processes", type=int, default=1, help="tasks at a time")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--one-of-many", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    started = time.monotonic()
    workers = max(1, (os.cpu_count() or 1) // 2 - 1)
    experiment = Experiment(options.scale, options.work, options.results, options.minutes, workers)
    if not options.one_of_many:
        try:
            experiment.begin()
        except StateError as error:
            parser.error(str(error))
        scale = experiment.scale
        unpack(options.data, options.work / "images", scale.images_per_class, scale.few_per_class)
    if options.processes > 1:
        left = options.minutes - (time.monotonic() - started) / 60
        sys.exit(_work_together(sys.argv[1:], options.processes, left))
    try:
        experiment.work()
    except TimeUpError:
        print("time is up: run it again to go on", file=sys.stderr)
        sys.exit(MORE_TO_DO)
    except StateError as error:
        sys.exit(str(error))
    print("everything is done", file=sys.stderr)


def _work_together(arguments: list[str], processes: int, minutes: float) -> int:
    """Start processes that each do tasks, and wait for them; return the exit code of one that failed, if any did."""
    own = [*arguments, "--processes", "1", "--minutes", f"{minutes:.3f}", "--one-of-many"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    started = [subprocess.Popen([sys.executable, "-m", "benchmarks.accuracy", *own], env=os.environ | threads) for _ in range(processes)]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            process.terminate()
    return max(codes, key=lambda code: (code not in (0, MORE_TO_DO), code))


if __name__ == "__main__":
    main()
