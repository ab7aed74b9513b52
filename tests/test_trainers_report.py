"""The table of students that others trained: verdicts come from the results."""

import json

import pytest

from benchmarks.accuracy.plan import DEFAULT, ONLINE, TAIL, TRUTH
from benchmarks.report import trainers

pytestmark = pytest.mark.torch


def write_results(path, seeds, accuracies):
    lines = [
        {"kind": "run", "trainer": "timm", "source": source, "seed": seed, "top1": (top1 + noise) / 100, "seconds": 60.0}
        for source, top1 in accuracies.items()
        for seed, noise in zip(range(seeds), (0, 0.1, -0.1, 0.2, -0.2), strict=False)
    ]
    lines += [{"kind": "labels", "source": codec, "bytes": 2000, "num_images": 10} for codec in (TAIL, DEFAULT)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trainers.render(trainers.load(path))


def verdicts(tables):
    return [line.split("|")[-2].strip() for line in tables["claims"].splitlines()[2:]]


def test_verdicts(tmp_path):
    accuracies = {TRUTH: 10.0, ONLINE: 15.0, TAIL: 15.1, DEFAULT: 9.0}
    found = write_results(tmp_path / "a.jsonl", 5, accuracies)
    assert verdicts(found) == ["holds", "holds", "**does not hold**", "**does not hold**"]
    assert "| timm | teacher in every step | 15.00 +- 0.16 | 5 |  |  |" in found["accuracy"]
    assert f"| timm | `{TAIL}` | 15.10 +- 0.16 | 5 | +0.10 (+0.10 to +0.10) | 200 |" in found["accuracy"]
    assert found["seconds"] == 4 * 5 * 60
    assert set(verdicts(write_results(tmp_path / "b.jsonl", 4, accuracies))) == {"not yet known"}


def test_without_results(tmp_path):
    assert trainers.render(trainers.load(tmp_path / "none.jsonl")) == {"known": None}
