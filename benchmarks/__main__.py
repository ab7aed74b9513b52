"""Measure everything and write the report: python -m benchmarks [SECTION ...], or `make bench`.

Without sections all are measured, a result goes to `results/<date>-<cpu>.json`, and `REPORT.md` with its pictures is made of it.
With sections only these are measured, and printed as JSON. Real labels are used if they lie beside the repository, else those of
a small network on the demo's pieces of photographs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import distortion, images, limit, reading, scale, storage, writing
from benchmarks.measure.common import RESULTS, Labels, circumstances, result_name, shared_labels
from benchmarks.measure.demo_labels import demo_labels
from benchmarks.report import write as report

SECTIONS: dict[str, Callable[[Labels, Path], Any]] = {
    "storage": storage.measure,
    "distortion": distortion.measure,
    "limit": limit.measure,
    "reading": reading.measure,
    "writing": writing.measure,
    "scale": scale.measure,
    "images": images.measure,
}


def measure(sections: list[str]) -> dict[str, Any]:
    """Return the result of these sections, each in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        labels = shared_labels() or demo_labels(Path(folder) / "pieces")
        result: dict[str, Any] = {**circumstances(), "labels": labels.source, "num_crops": labels.num_crops, "seconds": {}}
        for section in sections:
            started = time.perf_counter()
            (Path(folder) / section).mkdir()
            result[section] = SECTIONS[section](labels, Path(folder) / section)
            result["seconds"][section] = round(time.perf_counter() - started, 1)
            print(f"{section}: {result['seconds'][section]} s", file=sys.stderr)
    return result


def main() -> None:
    """Measure, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args().sections
    result = measure(chosen or list(SECTIONS))
    if chosen:
        json.dump(result, sys.stdout, indent=1)
        return
    path = RESULTS / result_name(result)
    path.write_text(json.dumps(result, indent=1) + "\n")
    report.write(path)
    print(f"{path}\n{report.REPORT}", file=sys.stderr)


if __name__ == "__main__":
    main()
