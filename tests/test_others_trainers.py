"""The comparison in the loops of timm and torchvision, at a small scale (`make test-others`)."""

import json

import pytest
import torch
from test_accuracy import write_data

from benchmarks.accuracy import networks
from benchmarks.accuracy.plan import DEFAULT, ONLINE, TAIL, TRUTH
from benchmarks.report import trainers as report
from softlabel_codec import SoftLabelReader

pytestmark = pytest.mark.others


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a teacher, and packed images: two of each class."""
    write_data(tmp_path / "data.npz")
    (tmp_path / "work").mkdir()
    torch.manual_seed(0)
    torch.save(networks.small_teacher(networks.NUM_CLASSES).half().state_dict(), tmp_path / "work" / "teacher-unsure.pt")
    monkeypatch.setenv(networks.WORK, "")
    return tmp_path


def run(folder, monkeypatch, **more):
    options = {"seeds": 1, "images-per-class": 2, "crops": 4, "epochs": 3, "batch-size": 50, "data": folder / "data.npz", **more}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["trainers", str(folder / "work"), "--results", str(folder / "results.jsonl"), *words])
    from benchmarks import trainers

    trainers.main()
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_two_trainers_of_others_and_four_kinds_of_labels(folder, monkeypatch):
    from benchmarks import trainers

    seen = []
    loop = trainers.WithTargets.__iter__
    monkeypatch.setattr(trainers.WithTargets, "__iter__", lambda self: (seen.append(batch) or batch for batch in loop(self)))
    found = run(folder, monkeypatch)
    runs = [one for one in found if one["kind"] == "run"]
    assert [(one["trainer"], one["source"]) for one in runs] == [
        (trainer, source) for source in (TRUTH, ONLINE, TAIL, DEFAULT) for trainer in ("timm", "torchvision")
    ]
    assert all(0 <= one["top1"] <= 1 and one["versions"]["timm"] for one in runs)
    assert len(seen) == 2 * 2 * 3 * 4  # trainers, sources of fresh crops, epochs, steps
    for images, targets in seen:
        assert (images.shape, targets.shape) == ((50, 3, 32, 32), (50, 100))
        torch.testing.assert_close(targets.sum(1), torch.ones(50))
    assert all(set(targets.unique().tolist()) == {0.0, 1.0} for _, targets in seen[:24])
    assert all(len(targets.unique()) > 100 for _, targets in seen[24:])
    with SoftLabelReader(folder / "work" / "k5-logits-2-4.slc") as reader:
        assert (len(reader), reader.num_classes, reader.codec) == (200, 100, DEFAULT)
    assert run(folder, monkeypatch) == found  # nothing is left to be done
    more = run(folder, monkeypatch, seeds=2)
    assert (more[: len(found)], len(more)) == (found, len(found) + 8)
    tables = report.render(report.load(folder / "results.jsonl"))
    assert tables["accuracy"].count("\n| ") == 1 + 8
    assert tables["claims"].count("not yet known") == 2 * 4


def test_results_of_another_configuration_are_not_gone_on_with(folder, monkeypatch):
    (folder / "results.jsonl").write_text(json.dumps({"kind": "run", "configuration": {"epochs": 9}}) + "\n")
    with pytest.raises(SystemExit, match=r"results\.jsonl: has results of another configuration or teacher"):
        run(folder, monkeypatch)
    (folder / "work" / "teacher-unsure.pt").unlink()
    with pytest.raises(SystemExit, match=r"teacher-unsure\.pt: is missing"):
        run(folder, monkeypatch)


def test_a_student_learns_in_both_loops(folder, monkeypatch):
    found = run(folder, monkeypatch, epochs=8)
    top = {(one["trainer"], one["source"]): one["top1"] for one in found if one["kind"] == "run"}
    assert top["timm", TRUTH] > 0.05  # chance is 0.01
    assert top["torchvision", TRUTH] > 0.05
