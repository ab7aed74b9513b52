"""Measure the import of formats that we also export, on this machine: python -m benchmarks.imports. Writes `results/imports.json`.

It needs the labels beside the repository and the extra `formats`. Images of 200 crops, five classes each, in pixels (in FKD's files, in
fractions), imported by one process; formats take turns.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure.common import RESULTS, K, circumstances, shared_labels, spread, top_k, write_container
from softlabel_codec.formats import export_labels, import_labels

RESULT = RESULTS / "imports.json"
PACKAGES = ("softlabel_codec", "numpy", "zstandard", "pyarrow", "safetensors")
COPIES, ROUNDS = 3, 5
CODEC = f"marginal_smoothing:k={K},values=f32"
OUTPUTS = {"fkd": "fkd", "npz": "l.npz", "safetensors": "l.safetensors", "parquet": "l.parquet", "webdataset": "l.tar"}
TYPES = {"fkd": f"marginal_smoothing_k{K}"}


def measure(folder: Path) -> dict[str, Any]:
    """Return images per second of the processor and of the clock, and bytes, by format."""
    labels = shared_labels()
    if labels is None:
        sys.exit("There are no labels beside the repository.")
    source, found = folder / "source.slc", folder / "found.slc"
    write_container(top_k(labels, K), source, CODEC, derived=False)
    exported = {name: export_labels(source, folder / output, format=name) for name, output in OUTPUTS.items()}
    rates: dict[str, dict[str, list[float]]] = {name: {"processor": [], "clock": []} for name in OUTPUTS}
    sizes = {}
    for turn in range(1 + ROUNDS):
        for name, output in OUTPUTS.items():
            clock, processor = time.perf_counter(), time.process_time()
            for _ in range(COPIES):
                report = import_labels(folder / output, found, format=name, label_type=TYPES.get(name), overwrite=True)
            images = COPIES * report.num_images
            if turn:
                rates[name]["processor"].append(images / (time.process_time() - processor))
                rates[name]["clock"].append(images / (time.perf_counter() - clock))
            sizes[name] = {"source": exported[name].file_bytes, "file": report.file_bytes}
    return {
        **circumstances(PACKAGES),
        "load": os.getloadavg()[0],
        "labels": f"{labels.source}, the {K} most probable classes, float32",
        "images": COPIES * len(labels.keys),
        "crops_per_image": labels.flips.shape[1],
        "formats": {
            name: {
                "images_per_processor_second": spread(rate["processor"]),
                "images_per_second": spread(rate["clock"]),
                "bytes": sizes[name],
                "processor_hours_of_a_million": round(1e6 / 3600 / spread(rate["processor"])["median"], 3),
            }
            for name, rate in rates.items()
        },
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        RESULT.write_text(json.dumps(measure(Path(scratch)), indent=1) + "\n")
