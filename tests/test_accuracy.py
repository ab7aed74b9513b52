"""The accuracy experiment: it runs in parts, from images to tables, and says what it has not run."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "accuracy")]

import experiment  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
from accuracy import tables  # noqa: E402

NUM_CLASSES, SIDE = 100, 64
FEW = ("dense:values=f32", "marginal_smoothing:k=5", "marginal_smoothing:t=0.1,tail=30", "hard")


def write_data(path):
    """Write images as the packed Tiny-ImageNet has them: two of each class for training, one for validation."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (NUM_CLASSES, 3))
    parts = {"classes": np.array([f"n{number:08d}".encode() for number in range(NUM_CLASSES)])}
    for split, per_class in (("train", 2), ("val", 1)):
        jpegs, keys, labels = [], [], []
        for number in range(NUM_CLASSES):
            for copy in range(per_class):
                pixels = rng.normal(colors[number], 20, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "jpeg")
                jpegs.append(file.getvalue())
                keys.append(f"n{number:08d}/{copy}.JPEG".encode())
                labels.append(number)
        parts[f"{split}_jpeg"] = np.frombuffer(b"".join(jpegs), np.uint8)
        parts[f"{split}_offsets"] = np.cumsum([0, *map(len, jpegs)])
        parts[f"{split}_labels"], parts[f"{split}_keys"] = np.array(labels, np.int16), np.array(keys)
    np.savez(path, **parts)


@pytest.fixture
def small(monkeypatch, tmp_path):
    scale = replace(plan.SCALES["check"], images_per_class=2, seeds=1, quoted_seeds=2)
    monkeypatch.setitem(plan.SCALES, "check", scale)
    monkeypatch.setattr(plan, "CODECS", FEW)
    monkeypatch.setattr(experiment, "CODECS", FEW)
    write_data(tmp_path / "data.npz")
    return tmp_path


def run(folder, minutes):
    experiment.Experiment("check", folder / "work", folder / "results", folder / "data.npz", minutes).run()


def test_the_experiment_in_parts(small, monkeypatch):
    with pytest.raises(experiment.TimeUpError):
        run(small, minutes=0)
    assert not (small / "results").exists()
    run(small, minutes=5)
    (folder,) = (small / "results").iterdir()
    cells = list(plan.cells(plan.SCALES["check"]))
    assert {path.stem for path in folder.iterdir()} == {"labels", *(cell.name for cell in cells)}
    crops = {(("crops_per_image", number),) for number in (1, 2, 8, 16)}
    assert {cell.varied for cell in cells if cell.varied} == {*crops, (("stored_crops", 10),)}
    changed = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(small, minutes=5)  # there is nothing left to do
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == changed
    for path in folder.iterdir():
        assert str(small) not in path.read_text()  # no path of this machine
    facts = json.loads((folder / "labels.json").read_text())
    assert facts["num_crops"] == 3200
    assert facts["bytes_per_crop"]["hard"] < facts["bytes_per_crop"]["marginal_smoothing:k=5"] < facts["bytes_per_crop"]["maps"]

    monkeypatch.setitem(tables.TITLES, "check", "Check")
    monkeypatch.setattr(tables, "CODECS", FEW)
    monkeypatch.setitem(tables.SCALES, "check", plan.SCALES["check"])
    monkeypatch.setattr(tables, "cells", lambda scale: iter(cells))
    text = tables.render(tables.load(small / "results"))
    assert "The experiment on a GPU has not been run" in text
    assert "| ReLabel-style maps |" in text
    assert "Not run" not in text
    path = folder / f"{cells[3].name}.json"
    whole = path.read_text()
    path.write_text(whole[:50])  # cut off, as by a full disk
    assert f"Not run: 1 of {len(cells)} runs." in tables.render(tables.load(small / "results"))
    run(small, minutes=5)
    assert json.loads(path.read_text())["evaluation"] == json.loads(whole)["evaluation"]


def test_claims_are_listed_whether_they_hold_or_not():
    accuracies = {"dense:values=f32": (30, 31), "marginal_smoothing:k=5": (30, 31), "truth": (20, 21)}
    accuracies |= dict.fromkeys(plan.TAILS, (35, 36)) | {"marginal_renorm:k=5": (1, 2), "smoothing": (3, 4)}
    runs = [
        {"source": source, "varied": {}, "seed": seed, "evaluation": {"top1": value / 100}}
        for source, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    facts = {"bytes_per_crop": dict(zip(plan.TAILS, (2.0, 3.9), strict=True))}
    rows = tables._claims(tables.Results("cpu", facts, runs)).splitlines()[2:]
    assert [row.split(" | ")[-1].removesuffix(" |") for row in rows] == ["**no**", "yes", "**no**", "not known", "yes"]
    rows = tables._claims(tables.Results("cpu", {"bytes_per_crop": {}}, [])).splitlines()[2:]
    assert [row.split(" | ")[-1].removesuffix(" |") for row in rows] == ["not known"] * 5


def test_without_results_the_report_says_so(tmp_path):
    text = tables.render(tables.load(tmp_path))
    assert "The experiment on a GPU has not been run" in text
    assert "The smaller experiment on a CPU has not been run" in text
    assert "|" not in text


def test_times_of_epochs_that_are_not_there_are_said():
    assert "**Not run**" in report._epochs(None)
