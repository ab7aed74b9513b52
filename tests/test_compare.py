"""`compare`: the same student from several sources and seeds."""

import json
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import stats as scipy_stats
from shapes import COLORS, SAMPLER, SIDE, options, write_shape_labels, write_two_teachers

from softlabel_codec import AllViews, ArgumentError, MismatchError, Padding, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.compare import compare
from softlabel_codec.compare import run as comparison
from softlabel_codec.compare.outcome import welch
from softlabel_codec.compare.quality import label_quality
from softlabel_codec.container.whole_files import read_result
from softlabel_codec.images.paths import list_images
from softlabel_codec.label_maps.maps import LabelMaps, make_label_maps
from softlabel_codec.teacher import EncodeConfig, encode


def base(shapes, **more):
    made = options(shapes, shapes, **{"teacher": f"{shapes / 'teacher.py'}:build", "epochs": 2, **more})
    return {name: value for name, value in made.items() if name not in ("labels", "out")}


@pytest.fixture
def sources(shapes, tmp_path):
    write_shape_labels(shapes, tmp_path / "full.slc", "dense:values=f32")
    make_label_maps(shapes / "train", f"{shapes / 'teacher.py'}:build").save(tmp_path / "maps.npz")
    return {
        "full": str(tmp_path / "full.slc"),
        "small": str(shapes / "labels.slc"),
        "maps": str(tmp_path / "maps.npz"),
        "truth": "truth",
        "teacher in every step": "online",
    }


def test_a_comparison(shapes, sources, tmp_path):
    steps = []
    report = compare(sources, tmp_path / "out", base(shapes), seeds=(0, 1), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 100) for done in range(1, 101)]  # 5 sources, 2 seeds, 2 epochs of 5 steps
    rows = {row.name: row for row in report.rows}
    assert (list(rows), report.reference) == (list(sources), "full")
    assert all(row.seeds == [0, 1] and len(row.accuracies) == 2 for row in report.rows)
    assert rows["full"].difference is None
    small = rows["small"]
    assert small.difference == welch(small.accuracies, rows["full"].accuracies)
    found = small.difference
    assert small.within_margin == (None if found is None else found.low >= -0.5 and found.high <= 0.5)
    with SoftLabelReader(sources["small"]) as reader:
        assert small.bytes_per_crop == (shapes / "labels.slc").stat().st_size / reader.num_crops.sum()
        assert small.bytes_per_image == (shapes / "labels.slc").stat().st_size / len(reader)
    assert rows["truth"].bytes_per_crop is None
    assert rows["maps"].bytes_per_crop == (tmp_path / "maps.npz").stat().st_size / 480
    assert rows["truth"].quality.agreement == 1.0
    assert rows["teacher in every step"].quality is None
    assert 0 < rows["small"].kl < 0.5
    assert rows["full"].kl == 0
    assert rows["truth"].kl is None  # infinite
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["accuracies"] for row in written["rows"]] == [row.accuracies for row in report.rows]
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.size[0] > 500


def test_sources_without_crops_of_their_own_take_those_of_the_labels(shapes, sources, tmp_path):
    compare({"small": sources["small"], "truth": "truth"}, tmp_path, base(shapes, epochs=1), seeds=[4])
    done = json.loads((tmp_path / "runs" / "truth-seed=4" / "result.json").read_text())["config"]
    assert (tuple(done["scale"]), tuple(done["mean"]), done["seed"]) == (SAMPLER.scale, (0.5, 0.5, 0.5), 4)


def test_what_was_trained_is_not_trained_again(shapes, sources, tmp_path, monkeypatch):
    some = {name: sources[name] for name in ("small", "truth")}
    first = compare(some, tmp_path, base(shapes), seeds=(0, 1))
    trained = []
    original = comparison.train
    monkeypatch.setattr(comparison, "train", lambda made, *more: trained.append((made.labels, made.seed)) or original(made, *more))
    again = compare(some, tmp_path, base(shapes), seeds=(0, 1, 2))
    assert trained == [(sources["small"], 2), ("truth", 2)]
    assert [row.accuracies[:2] for row in again.rows] == [row.accuracies for row in first.rows]
    with pytest.raises(MismatchError, match=r"small-seed=0: was made with epochs=2, expected 3"):
        compare(some, tmp_path, base(shapes, epochs=3), seeds=(0, 1))
    write_shape_labels(shapes, tmp_path / "new.slc", seed=9)
    with pytest.raises(MismatchError, match=r"small-seed=0: was made with other labels than .*new\.slc"):
        compare({"small": str(tmp_path / "new.slc")}, tmp_path, base(shapes), seeds=(0, 1))


def test_results_of_other_labels_are_not_taken(shapes, sources, tmp_path):
    def run(labels, name="a", **more):
        return compare({name: labels}, tmp_path / "out", base(shapes, **more), seeds=(0,))

    run(str(shapes / "labels.slc"))
    with pytest.raises(MismatchError, match="a-seed=0: was made with other labels than truth"):
        run("truth")
    maps = LabelMaps.load(sources["maps"])
    LabelMaps(maps.numbers, maps.indices, -maps.logits, maps.num_classes).save(tmp_path / "other.npz")
    run(sources["maps"], "m")
    with pytest.raises(MismatchError, match=r"m-seed=0: was made with other labels than .*other\.npz"):
        run(str(tmp_path / "other.npz"), "m")
    run("online", "o")
    assert run("online", "o", val=str(shapes / "val")).rows[0].name == "o"
    with pytest.raises(MismatchError, match="o-seed=0: was made with other labels than online"):
        run("online", "o", teacher=f"{write_teacher(shapes, tmp_path)}:four")
    shutil.copytree(shapes / "train", tmp_path / "train")
    shutil.copy(shapes / "train" / "red" / "1.png", tmp_path / "train" / "red" / "0.png")
    with pytest.raises(MismatchError, match="o-seed=0: was made with other images than .*train"):
        run("online", "o", images=str(tmp_path / "train"))


def write_teacher(shapes, folder):
    text = "\ndef four():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))\n"
    (folder / "other.py").write_text((shapes / "teacher.py").read_text() + text)
    return folder / "other.py"


def test_students_are_measured_with_the_images_that_are_given(shapes, tmp_path):
    some = {"small": str(shapes / "labels.slc")}
    first = compare(some, tmp_path / "out", base(shapes, epochs=8), seeds=(0,))
    shutil.copytree(shapes / "val", tmp_path / "val")
    for path in (tmp_path / "val" / "red").iterdir():
        shutil.copy(shapes / "val" / "blue" / path.name, path)
    other = compare(some, tmp_path / "out", base(shapes, epochs=8, val=str(tmp_path / "val")), seeds=(0,))
    assert other.rows[0].mean < first.rows[0].mean
    assert compare(some, tmp_path / "out", base(shapes, epochs=8), seeds=(0,)).rows[0].mean == first.rows[0].mean


def test_half_a_result_is_none(shapes, tmp_path):
    some = {"small": str(shapes / "labels.slc")}
    first = compare(some, tmp_path, base(shapes), seeds=(0,))
    path = tmp_path / "runs" / "small-seed=0" / "result.json"
    path.write_text(path.read_text()[:100])
    assert compare(some, tmp_path, base(shapes), seeds=(0,)).rows[0].accuracies == first.rows[0].accuracies


def test_all_train_on_the_same_images(shapes, tmp_path):
    with SoftLabelReader(shapes / "labels.slc") as reader, SoftLabelWriter(tmp_path / "half.slc", 4, "hard") as writer:
        for key in reader.keys[::2]:
            image = reader[key]
            writer.add(key, image_size=(24, 24), crops=image.crops, flips=image.flips, probs=image.labels.dense())
    some = {"half": str(tmp_path / "half.slc"), "truth": "truth"}
    with (
        pytest.raises(MismatchError, match="'truth' would train on 40 images, 'half' on 20, and not the same ones"),
        pytest.warns(UserWarning, match="20 images .* have no labels"),
    ):
        compare(some, tmp_path / "out", base(shapes), seeds=(0,))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "vary", "message"),
    [
        ({}, {"crops_per_image": [1, 2, 16], "batch_size": [16]}, "crops_per_image: expected at most 12"),
        ({"batch_size": 96}, {}, "a step takes 48 images, but an epoch has only 20"),
        ({"student": "resnet5"}, {}, "student: unknown name"),
        ({"val": "nowhere"}, {}, "nowhere: does not exist: expected a folder of images"),
        ({"device": "abacus"}, {}, "device 'abacus' cannot be used"),
        ({}, {"seed": [1, 2]}, "seed: not allowed in a comparison, which sets it for each run"),
        ({}, {"labels": ["truth"]}, "labels: not allowed in a comparison"),
        ({"resume": True}, {}, "resume: not allowed in a comparison"),
        ({}, {"epochs": []}, r"epochs: expected values that differ, got \[\]"),
        ({}, {"epochs": [1, 1]}, r"epochs: expected values that differ, got \[1, 1\]"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(more, vary, message, shapes, tmp_path):
    some = {"truth": "truth", "small": str(shapes / "labels.slc")}
    with pytest.raises((ArgumentError, MismatchError), match=message):
        compare(some, tmp_path / "out", base(shapes, **more), seeds=(0,), vary=vary)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["scipy.stats", "matplotlib.figure"])
def test_what_is_not_installed_is_said_before_anything_is_trained(missing, shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ArgumentError, match=rf"{missing} is not installed: pip install 'softlabel_codec\[compare\]'"):
        compare({"truth": "truth"}, tmp_path / "out", base(shapes), seeds=(0,))
    assert not (tmp_path / "out").exists()


def test_sources_without_labels_of_their_own_are_prepared_as_the_others(shapes, tmp_path):
    how = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "exif_orientation": "applied"}
    write_shape_labels(shapes, tmp_path / "turned.slc", preprocessing=how, temperature=2.0)
    some = {"turned": str(tmp_path / "turned.slc"), "truth": "truth", "online": "online"}
    compare(some, tmp_path / "out", base(shapes, epochs=1), seeds=(0,))
    made = {name: json.loads((tmp_path / "out" / "runs" / f"{name}-seed=0" / "result.json").read_text())["config"] for name in some}
    assert all(made[name][option] == value for name in ("truth", "online") for option, value in how.items())
    assert (made["truth"]["temperature"], made["online"]["temperature"]) == (None, 2.0)
    make_label_maps(shapes / "train", f"{shapes / 'teacher.py'}:build").save(tmp_path / "maps.npz")
    with pytest.raises(MismatchError, match="labels were made with exif_orientation='ignored', expected 'applied'"):
        compare({**some, "maps": str(tmp_path / "maps.npz")}, tmp_path / "out", base(shapes, epochs=1), seeds=(0,))


def test_stored_averages_are_compared_with_the_same_teachers_in_every_step(shapes, tmp_path):
    """All views, which stored labels and a run without them draw alike: students must be the same."""
    teachers, path = write_two_teachers(shapes, tmp_path), str(tmp_path / "both.slc")
    how = {"sampler": AllViews(SIDE, SIDE), "padding": Padding(1), "weights": (3, 1), "average": "logits", "temperature": 2.0}
    encode(EncodeConfig(str(shapes / "train"), path, teachers, "dense:values=f32", **how))
    common = base(shapes, size=SIDE, epochs=1, teacher=teachers[::-1])  # each still has its own share
    rows = compare({"stored": path, "online": "online"}, tmp_path / "out", common, seeds=(0,)).rows
    assert rows[0].accuracies == rows[1].accuracies
    losses = [read_result(tmp_path / "out" / "runs" / f"{row.name}-seed=0" / "result.json")["loss"] for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    found = config_of(tmp_path / "out", "online")
    assert (found["teacher_shares"], found["average"], found["teacher"]) == ([0.25, 0.75], "logits", teachers[::-1])


def test_one_teacher_sees_crops_of_the_size_of_the_labels(shapes, tmp_path):
    """Not of the student's size: else it would say something else than what is stored."""
    teachers = write_two_teachers(shapes, tmp_path)
    some = {"stored": str(shapes / "labels.slc"), "online": "online"}
    for name, teacher, expected in (("one", teachers[0], (16, None)), ("two", teachers, (None, None))):
        compare(some, tmp_path / name, base(shapes, size=20, epochs=1, teacher=teacher), seeds=(0,))
        assert (config_of(tmp_path / name, "online")["teacher_size"], config_of(tmp_path / name, "stored")["teacher_size"]) == expected


def config_of(folder, name):
    return json.loads((folder / "runs" / f"{name}-seed=0" / "result.json").read_text())["config"]


@pytest.mark.parametrize("store_crops", [False, True])
def test_all_views_of_padded_images_are_compared_with_the_same_views(store_crops, shapes, tmp_path):
    teacher, path = f"{shapes / 'teacher.py'}:build", str(tmp_path / "views.slc")
    how = {"sampler": AllViews(SIDE, SIDE), "padding": Padding(1, fill=(1, 2, 3)), "size": SIDE, "store_crops": store_crops}
    encode(EncodeConfig(str(shapes / "train"), path, teacher, "dense:values=f32", **how))
    some = {"views": path, "truth": "truth", "online": "online"}
    common = base(shapes, size=SIDE, epochs=1)
    accuracies = {row.name: row.accuracies for row in compare(some, tmp_path / "out", common, seeds=(0,)).rows}
    assert accuracies["online"] == accuracies["views"]
    for name in ("truth", "online"):
        found = config_of(tmp_path / "out", name)
        views = {"all_views": SIDE, "padding": 1, "padding_mode": "constant", "fill": [1, 2, 3], "scale": None}
        assert {option: found[option] for option in views} == views
    assert config_of(tmp_path / "out", "views")["padding"] is None
    make_label_maps(shapes / "train", teacher).save(tmp_path / "maps.npz")
    with pytest.raises(ArgumentError, match=r"padding: expected none with labels='.*maps\.npz', as label maps know nothing outside"):
        compare({**some, "maps": str(tmp_path / "maps.npz")}, tmp_path / "other", common)
    with pytest.raises(ArgumentError, match=r"all_views: expected at least 2 views of .*0\.png, as crops_per_image=2, got 0"):
        compare(some, tmp_path / "other", {**common, "all_views": SIDE + 3})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"all_views": SIDE, "padding": 2, "padding_mode": "reflect"}),
        ({"padding": 1}, {"all_views": SIDE, "padding": 1, "padding_mode": None}),
        ({"padding": 0}, {"all_views": SIDE, "padding": 0, "padding_mode": None}),
        ({"scale": [0.5, 1]}, {"all_views": None, "scale": [0.5, 1.0], "padding": 2, "padding_mode": "reflect"}),
    ],
)
def test_views_and_padding_that_are_given_take_the_place_of_those_of_the_labels(given, expected, shapes, tmp_path):
    labels = views_of(shapes, tmp_path / "views.slc", AllViews(SIDE, SIDE), Padding(2, "reflect"))
    compare({"truth": "truth", "views": labels}, tmp_path / "out", base(shapes, epochs=1, size=SIDE, **given), seeds=(0,))
    found = config_of(tmp_path / "out", "truth")
    assert {name: found[name] for name in expected} == expected


def test_views_that_are_given_take_the_place_of_random_crops_of_the_labels(shapes, sources, tmp_path):
    given = {"all_views": SIDE, "padding": 1, "size": SIDE}
    compare({"small": sources["small"], "truth": "truth"}, tmp_path, base(shapes, epochs=1, **given), seeds=(0,))
    found = config_of(tmp_path, "truth")
    assert (found["all_views"], found["padding"], found["scale"]) == (SIDE, 1, None)


def views_of(shapes, path, sampler, padding):
    """Write labels of a few views of each image, and return the path."""
    with SoftLabelWriter(path, 4, "hard", crops="derived", sampler=sampler, padding=padding) as writer:
        for key in list_images(shapes / "train"):
            writer.add(key, image_size=(SIDE, SIDE), probs=[np.float32(np.array(list(COLORS)) == key.split("/")[0])] * 2)
    return str(path)


@pytest.mark.parametrize("views", [AllViews(SIDE, SIDE - 1), AllViews(SIDE, SIDE, flips=False)], ids=str)
def test_fresh_crops_cannot_be_all_views_of_any_kind(views, shapes, tmp_path):
    labels = views_of(shapes, tmp_path / "a.slc", views, Padding(1))
    said = rf"of views of {SIDE} x {views.width} pixels \(height x width\), flips={views.flips}. Compare label files only"
    with pytest.raises(MismatchError, match=rf"'truth' can only be trained on square views, .*; the labels in .*a\.slc are {said}"):
        compare({"a": labels, "truth": "truth"}, tmp_path / "out", base(shapes))
    assert not (tmp_path / "out").exists()
    compare({"a": labels, "b": labels}, tmp_path / "out", base(shapes, epochs=1, crops_per_image=1), seeds=(0,))


def test_options_that_vary(shapes, sources, tmp_path):
    some = {"small": sources["small"], "truth": "truth"}
    report = compare(some, tmp_path, base(shapes), seeds=(0,), vary={"crops_per_image": [1, 2, 4], "stored_crops": [4, 12]})
    titles = [row.title for row in report.rows if row.name == "small"]
    assert titles[:2] == ["small, crops_per_image=1, stored_crops=4", "small, crops_per_image=1, stored_crops=12"]
    assert len(report.rows) == 12
    assert all(row.difference is None for row in report.rows)  # one student each
    with pytest.raises(ArgumentError, match="unknown option 'epoch'"):
        compare(some, tmp_path, base(shapes), seeds=(0,), vary={"epoch": [1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {}}, "a comparison needs at least one source and one seed"),
        ({"seeds": ()}, "a comparison needs at least one source and one seed"),
        ({"seeds": (0, 0)}, r"seeds: expected values that differ, got \[0, 0\]"),
        ({"reference": "nobody"}, "reference: expected one of small, got 'nobody'"),
        ({"options": {"val": None}}, "val: a comparison needs validation images"),
        ({"sources": {"a b": "truth", "a-b": "truth"}}, "two sources would have folders of the same name"),
    ],
)
def test_nothing_to_compare(change, message, shapes, tmp_path):
    given = {"sources": {"small": str(shapes / "labels.slc")}, "seeds": (0,), "reference": None, **change}
    with pytest.raises(ArgumentError, match=message):
        compare(
            given["sources"], tmp_path, {**base(shapes), **given.get("options", {})}, seeds=given["seeds"], reference=given["reference"]
        )


def test_intervals():
    found = welch([70.0, 71.0, 72.0], [69.0, 69.5, 70.0])
    assert found.mean == pytest.approx(1.5)
    expected = scipy_stats.ttest_ind([70.0, 71.0, 72.0], [69.0, 69.5, 70.0], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([5.0, 5.0], [4.0, 4.0]) is None  # no certainty: nothing is known of their spread
    half = 12.706 * 0.5  # Student's t of one degree of freedom, since only one of the two varies
    assert welch([5.0, 6.0], [4.0, 4.0]).high == pytest.approx(1.5 + half, rel=1e-4)


def test_label_quality_against_a_plain_reference(shapes, sources, tmp_path):
    found = label_quality(sources, str(shapes / "train"))
    with SoftLabelReader(sources["full"]) as full, SoftLabelReader(sources["small"]) as small:
        numbers = np.unique(np.linspace(0, 11, 8).astype(int))
        p = np.concatenate([image.labels.dense()[numbers] for image in full]).astype(np.float64)
        q = np.concatenate([image.labels.dense()[numbers] for image in small]).astype(np.float64)
    classes = np.repeat(np.repeat(np.arange(4), 10), len(numbers))
    assert found["full"].confidence == pytest.approx(p.max(axis=1).mean())
    assert found["full"].entropy == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), rel=1e-5)
    assert found["small"].agreement == (q.argmax(axis=1) == classes).mean()
    assert found["small"].cross_entropy["full"] == pytest.approx(-(p * np.log(q)).sum(axis=1).mean(), rel=1e-5)
    for at in found["small"].fidelity["full"]:
        softer, others = (rows ** (1 / at.temperature) / (rows ** (1 / at.temperature)).sum(axis=1, keepdims=True) for rows in (p, q))
        kl = (softer * np.log(softer / others)).sum(axis=1).mean()
        assert at.kl == pytest.approx(kl, abs=1e-5)
        assert at.lost == pytest.approx(kl / (softer * np.log(softer * 4)).sum(axis=1).mean(), abs=1e-4)
        assert at.total_variation == pytest.approx(np.abs(softer - others).sum(axis=1).mean() / 2, abs=1e-5)
    assert [at.temperature for at in found["small"].fidelity["full"]] == [1, 4, 20]
    assert found["truth"].fidelity["full"][0].kl is None
    assert found["small"].mean_probability_spread == pytest.approx(q.std(axis=0).mean() / np.sqrt(320), rel=1e-4)
    assert found["small"].kl("full", found["full"].entropy) == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), abs=1e-5)
    assert set(found) == {"full", "small", "maps", "truth"}
    write_shape_labels(shapes, tmp_path / "other.slc")
    assert label_quality({"truth": "truth"}, str(shapes / "train")) == {}


def test_labels_of_other_crops_are_not_compared(shapes, tmp_path, monkeypatch):
    import shapes as module

    from softlabel_codec.sampler import CropSampler

    monkeypatch.setattr(module, "SAMPLER", CropSampler(seed=99))
    write_shape_labels(shapes, tmp_path / "other.slc")
    found = label_quality({"small": str(shapes / "labels.slc"), "other": str(tmp_path / "other.slc")}, str(shapes / "train"))
    assert found["other"].cross_entropy == {}
    assert found["other"].confidence > 0.5


@pytest.mark.parametrize("change", ["flips", "padding"])
def test_other_pictures_at_the_same_places_are_not_compared(shapes, tmp_path, change):
    paths = {"one": tmp_path / "one.slc", "other": tmp_path / "other.slc"}
    for name, path in paths.items():
        differs = name == "other"
        padding = Padding(2, "edge" if differs and change == "padding" else "reflect")
        with SoftLabelWriter(path, 3, "dense", padding=padding) as writer:
            for key in ("red/0.png", "green/1.png"):
                flips = [differs and change == "flips"]
                writer.add(key, image_size=(SIDE, SIDE), crops=[[0, 0, 8, 8]], flips=flips, probs=np.float32([[0.2, 0.3, 0.5]]))
    found = label_quality({name: str(path) for name, path in paths.items()}, str(shapes / "train"))
    assert found["other"].cross_entropy == {}


def test_the_command(shapes, sources, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(base(shapes, epochs=1)))
    arguments = ["compare", str(tmp_path / "out"), "--config", str(tmp_path / "base.json"), "--seeds", "2", "--margin", "50"]
    named = ["--source", f"full={sources['full']}", "--source", "plain=truth"]
    done = CliRunner().invoke(main, [*arguments, *named, "--json"])
    assert done.exit_code == 0, done.output
    assert [row["name"] for row in json.loads(done.output)["rows"]] == ["full", "plain"]
    done = CliRunner().invoke(main, [*arguments, *named])
    assert all(text in done.output for text in ("differences from full", "plain", "KL from full", "compare.png", "spread"))
    assert "How near they are to full, both at temperature T" in done.output
    varied = CliRunner().invoke(main, [*arguments[:2], *arguments[2:], *named, "--vary", "crops_per_image=1,2", "--json"])
    assert [row["varied"] for row in json.loads(varied.output)["rows"]] == [{"crops_per_image": 1}] * 2 + [{"crops_per_image": 2}] * 2
    wrong = CliRunner().invoke(main, [*arguments, "--source", "truth"])
    assert (wrong.exit_code, wrong.output) == (2, "slcodec: --source: expected NAME=VALUE, got 'truth'\n")
    (tmp_path / "base.json").write_text('{"seed": 3}')
    wrong = CliRunner().invoke(main, [*arguments, *named])
    assert (wrong.exit_code, wrong.output) == (2, "slcodec: seed: not allowed in a comparison, which sets it for each run\n")
