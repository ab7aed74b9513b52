"""Run the self-supervised example on ten classes of Tiny-ImageNet: python -m benchmarks.self_supervised [--seeds 5].

It needs `tiny-imagenet-100.npz` beside the repository, trains teacher and student anew with each seed, and writes
`results/self-supervised.json` after each and from it the table in `examples/README.md`. Run it again to continue, or for more seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.accuracy.__main__ import DATA
from benchmarks.accuracy.evidence import table
from benchmarks.measure.common import RESULTS, circumstances
from softlabel_codec import SoftLabelReader

RESULT = RESULTS / "self-supervised.json"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "self_supervised.py"
PAGE = EXAMPLE.parent / "README.md"
BEGIN, END = "<!-- by benchmarks/self_supervised.py -->\n\n", "\n\n<!-- end -->"
PACKAGES = ("softlabel_codec", "numpy", "pillow", "torch", "zstandard")
CLASSES = 10
ROWS = {
    "teacher": "the teacher",
    "student": "the student, which has seen the vectors only",
    "untrained student": "a student that was not trained",
}


def write_images(folder: Path) -> dict[str, int]:
    """Write the images of the first classes as CLASS/NAME in `train` and `val`, and return how many there are."""
    counts = {}
    with np.load(DATA) as file:
        for split in ("train", "val"):
            jpeg, offsets, labels, keys = (file[f"{split}_{name}"] for name in ("jpeg", "offsets", "labels", "keys"))
            chosen = np.flatnonzero(labels < CLASSES).tolist()
            for number in chosen:
                path = folder / split / keys[number].decode()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg[offsets[number] : offsets[number + 1]].tobytes())
            counts[split] = len(chosen)
    return counts


def measure(folder: Path, seeds: int) -> None:
    """Write accuracies in percent of each seed, by whose features they are, and what the vectors take."""
    spec = importlib.util.spec_from_file_location("self_supervised", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    counts = write_images(folder)
    args = example.parse([str(folder / "train"), str(folder / "val"), str(folder / "out")])
    options = {name: value for name, value in vars(args).items() if name not in ("images", "val", "out", "seeds")}
    about = {"source": f"the first {CLASSES} classes of Tiny-ImageNet", "images": counts, "options": options}
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    runs = kept["runs"] if all(kept.get(name) == value for name, value in about.items()) else []
    images = example.read_images(args.images)
    for seed in range(len(runs), seeds):
        started = time.process_time()
        found = example.run(args, images, seed)
        with SoftLabelReader(folder / "out" / f"seed-{seed}" / "vectors.slc") as reader:
            stored = {"codec": reader.codec, "crops": reader.container.total_crops, "bytes": reader.container.num_bytes}
        runs.append({"seed": seed, "top1": found, "vectors": stored, "cpu_seconds": time.process_time() - started})
        RESULT.write_text(json.dumps({**circumstances(PACKAGES), **about, "runs": runs}, indent=1) + "\n")


def table_of(result: Mapping[str, Any]) -> str:
    """Return the table of the page, in Markdown."""
    count = len(result["runs"])
    rows = []
    for name, title in ROWS.items():
        values = [run["top1"][name] for run in result["runs"]]
        rows.append((title, f"{mean(values):.2f} +- {stdev(values):.2f} %", ", ".join(f"{value:.2f}" for value in values)))
    return table(["features of", f"top-1, mean and standard deviation, n = {count}", f"seeds 0 to {count - 1}"], rows)


def main() -> None:
    """Measure what is missing, and write the result and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="2 or more")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.seeds)
    print(RESULT, file=sys.stderr)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table_of(json.loads(RESULT.read_text())) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
