"""Is training from stored labels training with the teacher in every step? On CIFAR-100: python -m benchmarks.cifar DATA WORK.

DATA is torchvision's folder `cifar-100-python`, or one with `train.npz` and `test.npz`: arrays `images`, uint8 (N, 32, 32, 3), and
`labels`. Teachers are trained, label all 162 views of each image (padded by 4, cropped, mirrored) once, and students are trained from the
classes, from the teacher in every step and from these labels, with the same seeds. Weights that you have can take the place of a teacher's
training: put them into an empty WORK as `teacher-resnet56.pt`, `teacher-resnet32x4.pt` or `teacher-wrn_40_2.pt`, with the parameter names
of the published ones. The labels of a teacher take 3.2 GB. Results go to `benchmarks/results/cifar-100.jsonl`, from which
`python -m benchmarks.report.write` makes tables. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from benchmarks.accuracy import tasks
from benchmarks.cifar.experiment import Cifar
from benchmarks.cifar.images import images_in, unpack
from benchmarks.cifar.plan import EPOCHS, PAIRS, RESULTS


def main() -> None:
    """Do as much as fits into the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="cifar-100-python, or a folder with train.npz and test.npz")
    tasks.add_options(parser, minutes=math.inf)
    parser.add_argument("--pair", choices=PAIRS, action="append", help="teacher and student; may be given several times; by default all")
    parser.add_argument("--seeds", type=int, default=5, help="students of each kind")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    images = images_in(options.data, options.work)
    if not any((options.data / name).exists() for name in ("train.npz", "train")):
        parser.error(f"{options.data}: expected torchvision's folder cifar-100-python, or one with train.npz and test.npz")
    pairs = [PAIRS[name] for name in options.pair or PAIRS]
    experiment = Cifar(images, options.work, options.results, options.minutes, pairs, options.seeds, options.epochs)
    tasks.run("benchmarks.cifar", options, experiment, lambda: unpack(options.data, images))


if __name__ == "__main__":
    main()
