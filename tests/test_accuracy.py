"""The accuracy experiment: it runs in parts, from images to tables, and says what it has not run."""

import io
import json
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accuracy import budget, claims, evidence, plan, power, prediction, tables
from benchmarks.accuracy.experiment import Experiment, run_name
from benchmarks.accuracy.images import unpack
from benchmarks.accuracy.labels import softmax
from benchmarks.accuracy.plan import DEFAULT, FEW, FIELD, FULL, MAPS, ONLINE, PADDED, TAIL, TRUTH, UNSURE, VIEWS, Row
from benchmarks.accuracy.results import read_results
from benchmarks.accuracy.tasks import TimeUpError
from softlabel_codec import MismatchError, SoftLabelReader, StateError
from softlabel_codec.compare.outcome import welch
from softlabel_codec.teacher import load_teacher

pytestmark = [  # which is what such rows measure
    pytest.mark.filterwarnings("ignore:.*was chosen for labels at temperature"),
    pytest.mark.filterwarnings("ignore:.*fields that were made from 8 crops"),
]
NUM_CLASSES, SIDE = 100, 64
ROWS = {
    Row(TRUTH): 1,
    Row(ONLINE, UNSURE): 1,
    Row(MAPS, UNSURE): 1,
    Row(FULL, UNSURE, stored=8): 2,
    Row(DEFAULT, UNSURE, stored=8): 2,
    Row(TAIL, UNSURE, FEW, stored=4): 1,
    Row(FULL, UNSURE, stored=8, temperature=4.0): 1,
    Row(FIELD, UNSURE, FEW, stored=8, temperature=4.0): 1,
    Row(VIEWS, UNSURE, PADDED, stored=0, crops_per_image=1): 1,
}


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
    scale = plan.SCALES["check"]
    scale = replace(scale, images_per_class=2, few_per_class=1, groups=(ROWS,), teachers={UNSURE: scale.teachers[UNSURE]})
    monkeypatch.setitem(plan.SCALES, "check", scale)
    monkeypatch.setitem(evidence.TITLES, "check", "Check")
    monkeypatch.setitem(evidence.COMMANDS, "check", "the same command")
    write_data(tmp_path / "data.npz")
    unpack(tmp_path / "data.npz", tmp_path / "work" / "images", 2, 1)
    return tmp_path


def run(folder, minutes):
    experiment = Experiment("check", folder / "work", folder / "results", minutes)
    experiment.begin()
    experiment.work()


def test_the_experiment_in_parts(small):
    with pytest.raises(TimeUpError):
        run(small, minutes=0)
    path = small / "results" / "check.jsonl"
    assert read_results(path) == []
    run(small, minutes=5)
    found = {result["name"]: result for result in read_results(path)}
    wanted = {run_name(row, seed) for row, seeds in ROWS.items() for seed in range(seeds)}
    assert {name for name, result in found.items() if result["kind"] == "run"} == wanted
    assert str(small) not in path.read_text()  # no path of this machine
    whole = path.read_text()
    run(small, minutes=5)  # there is nothing left to do
    assert path.read_text() == whole

    text = tables.render(evidence.load(small / "results"))
    assert "**Not run: the experiment on a GPU.**" in text
    assert "| ReLabel-style maps |" in text
    assert "planned runs" not in text
    path.write_text(whole[:-50])  # cut off, as by a full disk
    rest = tables.render(evidence.load(small / "results"))
    assert f"Not run: 1 of {len(wanted)} planned runs" in rest
    assert "Estimated time: 0.0 hours one after another, at the median of " in rest
    run(small, minutes=5)
    again = {result["name"]: result for result in read_results(path)}
    (last,) = (name for name in wanted if name not in {json.loads(line)["name"] for line in whole.splitlines()[:-1]})
    assert again[last]["result"]["evaluation"] == found[last]["result"]["evaluation"]


def test_results_of_another_teacher_are_not_gone_on_with(small):
    run(small, minutes=5)
    weights = small / "work" / "teacher-unsure.pt"
    elsewhere = Experiment("check", small / "elsewhere", small / "results", 5)
    with pytest.raises(StateError, match=r"has results of a teacher that is not in .*elsewhere"):
        elsewhere.begin()
    state = torch.load(weights, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, weights)
    (small / "work" / "done" / "teacher-unsure").unlink()
    with pytest.raises(StateError, match="1 tasks failed: teacher-unsure"):
        run(small, minutes=5)


@pytest.mark.parametrize("error", [MismatchError("no labels today"), ValueError("a bug")])
def test_a_task_that_fails_fails_what_needs_it_and_nothing_else(small, monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr("benchmarks.accuracy.experiment.write_views", fails)
    views = run_name(Row(VIEWS, UNSURE, PADDED, stored=0, crops_per_image=1))
    with pytest.raises(StateError, match=rf"2 tasks failed: labels__.*views.*, {views}__seed=0"):
        run(small, minutes=5)
    found = {result["name"] for result in read_results(small / "results" / "check.jsonl") if result["kind"] == "run"}
    assert found == {run_name(row, seed) for row, seeds in ROWS.items() for seed in range(seeds)} - {f"{views}__seed=0"}


def test_stored_labels_are_what_the_teacher_says(small, monkeypatch):
    """The logits are read back as logits: probabilities in their place once gave labels that nothing in the file could show wrong."""
    run(small, minutes=5)
    labels = small / "work" / "labels"
    with SoftLabelReader(labels / "unsure-all.slc") as logits:
        expected = softmax(logits.read(0).labels.vectors, 4.0)
        online = logits.read(0).labels.dense()
    for temperature, probs in ((4.0, expected), (1.0, online)):
        row = Row(FULL, UNSURE, stored=8, temperature=temperature)
        with SoftLabelReader(labels / f"{run_name(row)}.slc") as reader:
            np.testing.assert_allclose(reader.read(0).labels.dense(), probs, atol=1e-6)
            assert reader.metadata["temperature"] == temperature
    facts = {result["name"]: result for result in read_results(small / "results" / "check.jsonl")}
    assert facts[f"labels__{run_name(Row(FULL, UNSURE, stored=8))}.slc"]["kl"] == pytest.approx(0, abs=1e-6)
    monkeypatch.setenv("SLCODEC_ACCURACY_WORK", str(small / "work"))
    assert load_teacher(f"{plan.NETWORKS}:trained_small_teacher").model.head.out_features == NUM_CLASSES


def test_an_interval_that_has_both_sides_of_the_limit_decides_nothing():
    rows = {source: Row(source, UNSURE, stored=50) for source in (FULL, TAIL)}
    runs = {rows[FULL]: dict.fromkeys(range(5), 30.0), rows[TAIL]: dict(enumerate([28.0, 31.5, 30.0, 31.0, 28.5]))}
    one = evidence.Results("cpu", runs, {}, {UNSURE: {"evaluation": {"top1": 0.35}}}, [])
    (claim,) = (claim for claim in claims.claims_of(one) if (claim.row, claim.other) == (rows[TAIL], rows[FULL]))
    assert claim.verdict(one) == claims.UNKNOWN


def test_claims_are_judged_by_their_intervals():
    rows = {source: Row(source, UNSURE, stored=50) for source in (FULL, DEFAULT, TAIL, ONLINE)} | {TRUTH: Row(TRUTH)}
    values = {FULL: [30, 31, 30, 31, 30], ONLINE: [30, 31, 30, 31, 30.1], TRUTH: [20, 21, 22, 21, 20], DEFAULT: [28, 29, 28, 29, 28]}
    values[TAIL] = [30, 31]
    runs = {rows[source]: dict(enumerate(found)) for source, found in values.items()}
    one = evidence.Results("cpu", runs, {}, {UNSURE: {"evaluation": {"top1": 0.35}}}, [])
    verdicts = {(claim.row.source, claim.other.source): claim.verdict(one) for claim in claims.claims_of(one) if claim.row in runs}
    assert verdicts == {
        (FULL, ONLINE): claims.HOLDS,
        (FULL, TRUTH): claims.HOLDS,
        (DEFAULT, FULL): claims.FAILS,
        (TAIL, FULL): claims.UNKNOWN,
        (TAIL, DEFAULT): claims.UNKNOWN,
    }
    text = claims.render([one])
    assert all(objection in text for objection in claims.OBJECTIONS)
    assert text.count(claims.HOLDS + " |") == 2
    paired = one.difference(rows[FULL], rows[TRUTH])
    assert (round(paired.mean, 2), round(paired.low, 2), round(paired.high, 2)) == (9.6, 8.49, 10.71)
    standard_error, t, t_of_power = 0.4, 2.7764, 0.9410  # of these five pairs, and of four degrees of freedom
    assert one.seen_from(rows[FULL], rows[TRUTH]) == pytest.approx(standard_error * (t + t_of_power), rel=1e-3)


def test_what_predicts_the_cost_is_said_with_its_interval(tmp_path):
    sources = ("a", "b", "c", "d", "e", "f")
    runs = {Row(FULL, UNSURE): {0: 30.0, 1: 31.0}} | {Row(name, UNSURE): {0: 30.0 - i, 1: 31.0 - i} for i, name in enumerate(sources, 1)}
    labels = {
        Row(name, UNSURE): {"fidelity": [{"temperature": 1.0, "kl": i / 10, "lost": (7 - i) / 10, "total_variation": (i * 5 % 7) / 10}]}
        for i, name in enumerate(sources, 1)
    }
    one = evidence.Results("cpu", runs, labels, {}, [])
    found = prediction.points([one])
    assert [(point.row.source, point.cost, point.pairs) for point in found] == [(name, i, 2) for i, name in enumerate(sources, 1)]
    of_all = prediction.correlations(found)
    assert of_all["kl"].mean == pytest.approx(1)
    assert of_all["lost"].mean == pytest.approx(-1)
    assert of_all["total_variation"].low < of_all["total_variation"].mean < of_all["total_variation"].high
    assert "| On a CPU, T = 1 | 6 | +1.00 (+1.00 to +1.00) | -1.00 (-1.00 to -1.00) |" in prediction.render([one])
    prediction.draw([one], tmp_path)
    assert (tmp_path / prediction.FIGURE).stat().st_size > 10_000
    few = evidence.Results("cpu", dict(list(runs.items())[:4]), labels, {}, [])
    assert prediction.correlations(prediction.points([few])) == {}
    assert prediction.render([few]) == ""


def test_without_results_the_report_says_so(tmp_path):
    text = tables.render(evidence.load(tmp_path))
    assert "**Not run: the experiment on a GPU.**" in text
    assert "**Not run: the experiment on a CPU.**" in text
    assert "|" not in text


def test_intervals_are_those_of_compare():
    values, others = [30.1, 29.4, 30.6], [28.8, 28.1, 29.3]  # which vary alike
    found = welch(values, others)
    assert power.half_width(stdev(values), 3) == pytest.approx((found.high - found.low) / 2)


@pytest.mark.parametrize(("difference", "seeds"), [(1.0, 17), (0.8, 26), (0.5, 64), (0.2, 394)])
def test_seeds_that_a_difference_takes_are_those_of_textbooks(difference, seeds):
    assert power.seeds_needed(1.0, difference) == seeds  # of Cohen's tables, for a power of 0.8 at 5 %, two sides
    assert seeds == pytest.approx(16 / difference**2 + 1, rel=0.03)  # as docs/prove.md says


def test_students_that_differ_in_labels_only_are_paired():
    truth = {0: 20.0, 1: 22.0, 2: 21.0}
    runs = {
        Row(TRUTH): truth,
        Row(ONLINE, UNSURE): {seed: top1 + 5 for seed, top1 in truth.items()},
        Row(TRUTH, images=FEW): {0: 9.0, 1: 5.0},
    }
    runs[Row(MAPS, UNSURE)] = {0: 18.0}
    found = power.spread_of(evidence.Results("cpu", runs, {}, {}, []))
    assert (found.rows, found.runs, found.pairs) == (3, 8, 1)
    assert (found.one, found.paired) == (pytest.approx(np.sqrt((2 + 2 + 8) / 5)), pytest.approx(0))
    assert found.independent == pytest.approx(np.sqrt(2))


def test_the_page_on_seeds_has_the_tables_of_the_committed_results():
    assert power.tables(evidence.load()) in power.PAGE.read_text(), "python -m benchmarks.accuracy.power writes them"


def test_the_frontier_has_what_nothing_smaller_equals():
    points = [budget.Point(Row(FULL), size, top1) for size, top1 in ((30.0, [3.0]), (10.0, [1.0, 2.0]), (20.0, [1.5]), (10.0, [1.0]))]
    assert [(point.size, point.mean) for point in budget.frontier(points)] == [(10.0, 1.5), (30.0, 3.0)]


def test_accuracy_over_bytes(tmp_path):
    known = {"bytes": 100, "num_images": 10}
    rows = [Row(source, UNSURE, FEW, stored) for source, stored in ((FULL, 4), (FULL, 10), (TAIL, 4))]
    runs = {row: {0: 20.0 + number, 1: 21.0} for number, row in enumerate(rows)} | {Row(TRUTH, images=FEW): {0: 9.0}}
    labels = {row: {**known, "bytes": 100 + number} for number, row in enumerate(rows)}
    one = evidence.Results("cpu", runs, labels, {}, [])
    (panel,) = budget.panels([one])
    assert panel.lines == {"ground truth": 9.0}
    assert [point.size for point in panel.points] == [10.0, 10.1, 10.2]
    assert f"`{TAIL}`, M = 4, 10 bytes, 21.5 %" in budget.render([one])
    budget.draw([one], tmp_path)
    assert (tmp_path / budget.FIGURE).stat().st_size > 10_000
