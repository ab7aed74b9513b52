"""Copies of labels in another codec."""

import numpy as np
import pytest
from copies import LAYOUTS, NUM_CLASSES, contents, metadata_of, same, write

from softlabel_codec import ArgumentError, MismatchError, SoftLabelWriter, copy_labels


def transcoded(tmp_path, source, target, *, keys="abcdef", **options):
    one = write(tmp_path / "a.slc", keys, source, overwrite=True, **options)
    report = copy_labels(one, tmp_path / "b.slc", codec=target, overwrite=True)
    return contents(one), contents(tmp_path / "b.slc"), report


OF_ALL = ["marginal_smoothing:k=5", "marginal_renorm:t=0.1", "hard", "smoothing:values=f16", "dense:values=f16", "dense:values=log8"]


@pytest.mark.parametrize("target", OF_ALL)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_probabilities_become_what_a_writer_makes_of_them(tmp_path, target, layout):
    _, found, report = transcoded(tmp_path, "dense", target, counts=[5] * 6, **layout)
    direct = contents(write(tmp_path / "c.slc", "abcdef", target, counts=[5] * 6, **layout))
    same(found, direct)
    assert (report.codec, report.copied_blocks) == (target, 0)
    assert metadata_of(tmp_path / "b.slc") == {"temperature": 1.0, "transcoded_from": ["dense"]}


@pytest.mark.parametrize("target", ["marginal_smoothing:k=5,values=f32", "dense", "dense:values=log8,step=2.0"])
def test_full_probabilities_in_steps_become_others(tmp_path, target):
    before, found, report = transcoded(tmp_path, "dense:values=log8", target, counts=[5] * 6)
    assert report.copied_blocks == 0
    with SoftLabelWriter(tmp_path / "c.slc", NUM_CLASSES, target) as writer:
        for key, image in before.items():
            writer.add(key, image_size=image.image_size, crops=image.crops, flips=image.flips, probs=image.labels.dense())
    same(found, contents(tmp_path / "c.slc"))


def test_logits_in_steps_stay_logits_or_become_probabilities(tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
    with SoftLabelWriter(tmp_path / "a.slc", 4, "dense:content=logits") as writer:
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 5, flips=[False] * 5, vectors=logits)
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="dense:values=log8,step=0.04,content=logits")
    copy_labels(tmp_path / "b.slc", tmp_path / "c.slc", codec="dense")
    in_steps = contents(tmp_path / "b.slc")["a"].labels
    assert np.ptp(in_steps.vectors - logits, axis=1).max() <= 4 / 3 * 0.04 + 1e-5
    np.testing.assert_allclose(contents(tmp_path / "c.slc")["a"].labels.dense(), in_steps.dense(), rtol=1e-6)


@pytest.mark.parametrize("target", ["marginal_smoothing:t=0.1,tail=5", "marginal_smoothing:gain=0.02,tail=5"])
def test_a_tail_is_made_of_full_probabilities(tmp_path, target):
    _, found, _ = transcoded(tmp_path, "dense", target, counts=[9] * 6)
    same(found, contents(write(tmp_path / "c.slc", "abcdef", target, counts=[9] * 6)))


def test_logits_become_probabilities(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 4, "dense:content=logits") as writer:
        logits = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 5, flips=[False] * 5, vectors=logits)
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="dense")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(contents(tmp_path / "b.slc")["a"].labels.dense(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("marginal_smoothing:k=5,values=f32", "marginal_smoothing:k=3,values=f32"),
        ("marginal_smoothing:k=5,values=f32", "smoothing:values=f32"),
        ("marginal_smoothing:k=5,values=f32", "hard"),
        ("marginal_renorm:k=5,values=f32", "marginal_smoothing:k=5,values=f32"),
        ("marginal_smoothing:t=0.02,values=f32", "marginal_renorm:t=0.1,values=f32"),
        ("marginal_smoothing:t=0.02,values=f32", "smoothing:values=f32"),
        ("marginal_smoothing:k=10,values=f32", "marginal_smoothing:t=0.15,values=f32"),
    ],
)
def test_fewer_classes_of_exact_values(tmp_path, source, target):
    _, found, _ = transcoded(tmp_path, source, target, counts=[5] * 6)
    same(found, contents(write(tmp_path / "c.slc", "abcdef", target, counts=[5] * 6)))


def test_another_use_of_the_remainder_changes_no_block(tmp_path):
    _, found, report = transcoded(tmp_path, "marginal_smoothing:k=5", "marginal_renorm:k=5")
    assert report.decoded_blocks == 0
    assert "transcoded_from" not in metadata_of(tmp_path / "b.slc")
    same(found, contents(write(tmp_path / "c.slc", "abcdef", "marginal_renorm:k=5")))


def test_coarser_values_of_the_same_classes(tmp_path):
    before, found, _ = transcoded(tmp_path, "marginal_smoothing:t=0.05,tail=6,values=f32", "marginal_smoothing:t=0.05,tail=6,step=0.5")
    for key, image in found.items():
        np.testing.assert_array_equal(image.labels.indices, before[key].labels.indices)
        np.testing.assert_array_equal(image.labels.tails.classes, before[key].labels.tails.classes)
        ratios = [np.log(labels.values[:, :1] / np.maximum(labels.values, 1e-9)) for labels in (image.labels, before[key].labels)]
        assert np.abs((ratios[0] - ratios[1])[image.labels.indices >= 0]).max() <= 0.25 + 1e-3


def test_tails_of_all_classes(tmp_path):
    log, few = "marginal_smoothing:t=0.05,values=f32,tail=all,mean=log", "marginal_smoothing:t=0.2,values=f32,tail=all,mean=log"
    before, found, _ = transcoded(tmp_path, "dense", log, counts=[9] * 6)
    same(found, contents(write(tmp_path / "c.slc", "abcdef", log, counts=[9] * 6)))
    before, found, _ = transcoded(tmp_path, log, log.replace("f32", "f16"), counts=[9] * 6)
    for key, image in found.items():
        np.testing.assert_array_equal(image.labels.tails.slopes, before[key].labels.tails.slopes)
        np.testing.assert_allclose(image.labels.dense(), before[key].labels.dense(), atol=2e-3)
    for target in (few, "marginal_smoothing:t=0.05,values=f32,tail=9", "marginal_smoothing:t=0.05,values=f32,tail=all"):
        before, found, _ = transcoded(tmp_path, log, target, counts=[9] * 6)
        away, even = [], []
        for key, image in found.items():
            targets = before[key].labels.dense()
            away.append(np.abs(image.labels.dense() - targets).sum())
            even.append(np.abs(image.labels.with_policy("uniform").dense() - targets).sum())
        assert sum(away) < 0.9 * sum(even)


def test_a_shorter_tail_and_a_tail_of_what_is_dropped(tmp_path):
    before, found, _ = transcoded(
        tmp_path, "marginal_smoothing:t=0.1,tail=9,values=f32", "marginal_smoothing:t=0.1,tail=2,values=f32", counts=[9] * 6
    )
    for key, image in found.items():
        assert set(image.labels.tails.classes[0]) <= set(before[key].labels.tails.classes[0])
    before, found, _ = transcoded(
        tmp_path, "marginal_smoothing:k=12,values=f32", "marginal_smoothing:k=1,tail=15,values=f32", counts=[3] * 6
    )
    flat, along = [], []
    for key, image in found.items():
        targets = before[key].labels.dense()
        along.append(np.abs(image.labels.dense() - targets).sum())
        flat.append(np.abs(image.labels.with_policy("uniform").dense() - targets).sum())
    assert sum(along) < 0.8 * sum(flat)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("hard", "marginal_smoothing:k=5", "the source keeps the top class without its probability"),
        ("hard", "smoothing", "the source keeps the top class without its probability"),
        ("smoothing", "marginal_smoothing:k=5", "the source keeps 1 of the 5 classes of each crop that are needed; the others are lost"),
        ("marginal_smoothing:t=0.1", "marginal_smoothing:k=5", "the source keeps as few as 1 of the 5 classes"),
        ("marginal_smoothing:t=0.1", "marginal_smoothing:t=0.05", "the source keeps classes with at least 0.1 only; the others are lost"),
        ("marginal_smoothing:k=5", "dense", r"what the source left out is lost. .*labels.dense\(\)"),
        ("dense", "dense:content=logits", "the source holds probabilities, and logits are lost"),
        ("marginal_smoothing:k=5", "marginal_smoothing:k=5,tail=3", "the source does not know how the remainder is distributed"),
        ("marginal_smoothing:k=5,tail=3", "marginal_smoothing:k=5,tail=all", "the source lists 3 classes in its tail"),
        ("marginal_smoothing:k=5,tail=all", "marginal_smoothing:k=5,tail=all,mean=log", "the source does not have the logarithms"),
        ("marginal_smoothing:k=9", "marginal_smoothing:k=5,tail=all,mean=log", "the source does not have the logarithms"),
        ("marginal_smoothing:k=5,tail=3", "marginal_smoothing:k=5,tail=4", "the source lists 3 classes in its tail"),
        ("marginal_smoothing:t=0.01,tail=9", "marginal_smoothing:gain=0.1,tail=9", "which classes gain enough depends on .* all"),
        ("marginal_smoothing:gain=0.01,tail=9", "marginal_smoothing:gain=0.1,tail=9", "which classes gain enough depends on .* all"),
        ("marginal_smoothing:gain=0.01,tail=9", "marginal_smoothing:t=0.1,tail=9", "the source keeps classes by what they gain"),
        ("marginal_smoothing:gain=0.01,tail=9", "marginal_smoothing:k=2,tail=9", "the source keeps as few as 1 of the 2 classes"),
    ],
)
def test_what_is_lost_cannot_be_made(tmp_path, source, target, reason):
    write(tmp_path / "a.slc", "ab", source)
    with pytest.raises(ArgumentError, match=f"a.slc: codec: labels of '.*' cannot become '.*': {reason}"):
        copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec=target)
    assert not (tmp_path / "b.slc").exists()


def test_features_stay_features(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 4, "dense:content=features") as writer:
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]], flips=[False], vectors=np.float32([[1, -2, 3, 7]]))
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="dense:content=features,values=f16")
    assert contents(tmp_path / "b.slc")["a"].labels.vectors.tolist() == [[1, -2, 3, 7]]
    with pytest.raises(ArgumentError, match="the source holds features, which are no probabilities"):
        copy_labels(tmp_path / "a.slc", tmp_path / "c.slc", codec="hard")


def test_a_crop_whose_other_classes_may_be_above_the_threshold(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 4, "marginal_smoothing:k=2,values=f32") as writer:
        probs = np.float32([[0.9, 0.06, 0.03, 0.01], [0.4, 0.3, 0.2, 0.1]])
        writer.add("x", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 2, flips=[False] * 2, probs=probs)
    with pytest.raises(MismatchError, match="a.slc: image 'x': crop 1: all 2 classes that the source keeps have at least 0.1"):
        copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="marginal_smoothing:t=0.1,values=f32")
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="marginal_smoothing:t=0.35,values=f32")
    assert contents(tmp_path / "b.slc")["x"].labels.counts.tolist() == [1, 1]


def test_sources_of_different_codecs_become_one(tmp_path):
    one = write(tmp_path / "a.slc", "abc", "dense")
    other = write(tmp_path / "b.slc", "def", "marginal_smoothing:k=5")
    report = copy_labels([one, other], tmp_path / "c.slc", codec="marginal_smoothing:k=5")
    assert report.copied_blocks
    assert report.decoded_blocks
    same(contents(tmp_path / "c.slc"), contents(write(tmp_path / "d.slc", "abc", "marginal_smoothing:k=5"), other))
    assert metadata_of(tmp_path / "c.slc")["merged_from"] == [{"transcoded_from": ["dense"]}, {"transcoded_from": None}]
    copy_labels(one, tmp_path / "e.slc", codec="marginal_smoothing:k=8")
    copy_labels(tmp_path / "e.slc", tmp_path / "f.slc", codec="hard")
    assert metadata_of(tmp_path / "f.slc")["transcoded_from"] == ["dense", "marginal_smoothing:k=8"]
