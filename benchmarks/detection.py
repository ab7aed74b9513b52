"""Train the detector of the example on generated images: python -m benchmarks.detection.

It needs torchvision and pycocotools (`make test-others` installs them). A student learns coloured squares from stored labels, and is the
backbone of a RetinaNet that learns to find such squares in noise: 32 images of 64 pixels, in a folder as of COCO. AP on 12 other images
before and after goes to `results/detection.json`; the student, the images and the seeds are the same each time.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.measure.common import RESULTS, circumstances
from softlabel_codec.trainer import train

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]  # where the images are defined, and the detector

import detection  # noqa: E402
from shapes import config, write_shapes  # noqa: E402
from written_coco import write_coco  # noqa: E402

RESULT = RESULTS / "detection.json"
PACKAGES = ("softlabel_codec", "numpy", "pillow", "pycocotools", "torch", "torchvision")
IMAGES = {"train": 32, "val": 12}
STUDENT = {"student": "resnet18", "size": 32, "epochs": 2, "batch_size": 10, "learning_rate": 0.02, "val_epochs": 2}
OPTIONS = "--detector retinanet --lr 0.01 --epochs 40 --lr-steps 32 --batch-size 4 --min-size 64 --trainable-layers 5"


def measure(folder: Path) -> dict[str, Any]:
    """Return AP of the same detector before and after its training."""
    write_shapes(folder / "shapes")
    write_coco(folder / "coco", IMAGES)
    report = train(config(folder / "shapes", folder / "run", **STUDENT))
    assert report.evaluation is not None  # there are validation images
    words = [folder / "run" / "weights.pt", folder / "coco", "--train", "train", "--val", "val", "--workers", 0, *OPTIONS.split()]
    found = {}
    for name, epochs in (("before", ["--epochs", 0]), ("after", [])):
        printed = io.StringIO()
        sys.argv[1:] = map(str, [*words, *epochs])
        started = time.process_time()
        with redirect_stdout(printed):
            detection.main()
        found[name] = {"ap": float(printed.getvalue().split("AP ")[-1]), "cpu_seconds": time.process_time() - started}
    return {"images": IMAGES, "options": OPTIONS, "student": {**STUDENT, "top1": report.evaluation["top1"]}, **found}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        result = measure(Path(work))
    RESULT.write_text(json.dumps({**circumstances(PACKAGES), **result}, indent=1) + "\n")
    print(RESULT, file=sys.stderr)
