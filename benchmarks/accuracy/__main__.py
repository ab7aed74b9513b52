"""The accuracy experiment on 100 classes of Tiny-ImageNet: python -m benchmarks.accuracy WORK [--scale gpu|cpu|check].

Trains teachers, labels 100 crops of each image, writes the labels with all codecs, and trains students from each. It stops after
--minutes and continues from what is there: run it again until it says that everything is done (exit code 0; 3: there is more to
do). With --processes, several tasks are done at a time. Results go to `results/SCALE.jsonl`; `tables.py` makes the tables of the
report. On another machine, put the `teacher-*.pt` of an earlier WORK into an empty one to go on with the same teachers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.accuracy import tasks
from benchmarks.accuracy.experiment import Experiment
from benchmarks.accuracy.images import unpack
from benchmarks.accuracy.plan import HERE, SCALES
from benchmarks.measure.common import SHARED

DATA = SHARED / "data" / "tiny-imagenet-100.npz"


def main() -> None:
    """Do as much as fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks.add_options(parser, minutes=9.0)
    parser.add_argument("--scale", choices=SCALES, default="gpu")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    workers = max(1, (os.cpu_count() or 1) // 2 - 1)
    experiment = Experiment(options.scale, options.work, options.results, options.minutes, workers)
    scale, images = experiment.scale, options.work / "images"
    tasks.run("benchmarks.accuracy", options, experiment, lambda: unpack(options.data, images, scale.images_per_class, scale.few_per_class))


if __name__ == "__main__":
    main()
