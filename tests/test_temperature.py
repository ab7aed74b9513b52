"""Labels read at another temperature than the one they were made with."""

import pickle

import numpy as np
import pytest
from conftest import random_probs, write_labels
from label_sets import write_set

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter, copy_labels
from softlabel_codec.labels import DenseLabels, SparseLabels, Tails, concatenate_labels
from softlabel_codec.quantise.temperature import to_power
from softlabel_codec.report import stats

WARM = {"temperature": 1.0}
POSSIBLE = [
    "marginal_smoothing:gain=0.005,tail=15",
    "marginal_smoothing:t=0.05,tail=6",
    "marginal_smoothing:k=3,tail=2",
    "marginal_smoothing:t=0.01,step=0.04,tail=20",
    "marginal_smoothing:k=20,tail=3",
    "marginal_smoothing:k=2,tail=all",
    "marginal_smoothing:t=0.1,step=1,tail=all,mean=log",
    "marginal_smoothing:k=20",
    "marginal_renorm:k=20,values=f32",
    "dense",
]


def softened(targets, power):
    """Return targets (R, C) to a power, normalised: what the definition says."""
    powers = targets.astype(np.float64) ** power
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("codec", POSSIBLE)
@pytest.mark.parametrize(("temperature", "power"), [(4, 0.25), (20.0, 0.05), (np.float32(0.5), 2.0), (1, 1.0)])
def test_labels_are_those_of_the_stored_ones_to_a_power(tmp_path, codec, temperature, power):
    write_labels(tmp_path / "a.slc", codec, metadata=WARM)
    with SoftLabelReader(tmp_path / "a.slc") as stored, SoftLabelReader(tmp_path / "a.slc", temperature=temperature) as reader:
        assert (reader.temperature, stored.temperature, reader.stored_temperature) == (temperature, 1, 1)
        for image, own in zip(reader, stored, strict=True):
            wanted = softened(own.labels.dense(), power)
            np.testing.assert_allclose(image.labels.dense(), wanted, rtol=3e-6, atol=1e-9)
            np.testing.assert_array_equal(image.crops, own.crops)
        few, whole = reader.read(2, [3, 0, 11]), reader.read_batch(range(len(reader)))
        np.testing.assert_allclose(few.labels.dense(), softened(stored[2].labels.dense()[[3, 0, 11]], power), rtol=3e-6, atol=1e-9)
        np.testing.assert_allclose(whole.labels.dense(), softened(stored.read_batch(range(4)).labels.dense(), power), rtol=3e-6, atol=1e-9)
        classes, probs = whole.labels.topk(4)
        np.testing.assert_array_equal(probs, -np.sort(-whole.labels.dense(), axis=1)[:, :4])
        np.testing.assert_array_equal(np.take_along_axis(whole.labels.dense(), classes, axis=1), probs)


def test_the_power_counts_from_the_temperature_of_the_labels(tmp_path):
    write_labels(tmp_path / "a.slc", "dense", metadata={"temperature": 2})
    with SoftLabelReader(tmp_path / "a.slc") as stored, SoftLabelReader(tmp_path / "a.slc", temperature=8) as reader:
        assert (stored.temperature, reader.temperature, reader.stored_temperature) == (2, 8, 2)
        np.testing.assert_allclose(reader[0].labels.dense(), softened(stored[0].labels.dense(), 0.25), rtol=1e-6)


@pytest.mark.parametrize("values", ["f16", "f32"])
def test_logits_are_divided(tmp_path, values):
    logits = np.random.default_rng(0).normal(0, 9, (5, 20)).astype(np.float16).astype(np.float32)
    with SoftLabelWriter(tmp_path / "a.slc", 20, f"dense:values={values},content=logits") as writer:
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 5, flips=[False] * 5, vectors=logits)
    with SoftLabelReader(tmp_path / "a.slc", temperature=4) as reader:
        assert (reader.temperature, reader.stored_temperature, reader.approximated) == (4, 1, False)
        np.testing.assert_array_equal(reader[0].labels.vectors, logits / 4)
        np.testing.assert_allclose(reader[0].labels.dense(), softened(np.exp(logits.astype(np.float64)), 0.25), rtol=1e-5)


def test_a_crop_keeps_classes_that_its_tail_lists():
    tails = Tails(np.int32([[1, 4, 6], [0, -1, -1]]), np.float32([[0.3, 0.2, 0.1], [0.5, 0, 0]]), np.float32([0.08, 1 / 14]))
    labels = SparseLabels(
        np.int32([[4, 1, -1], [2, 3, 5], [7, 0, -1], [0, -1, -1]]),
        np.float32([[0.6, 0.1, 0], [0.4, 0.3, 0.2], [0.5, 0.3, 0], [1, 0, 0]]),
        np.float32([0.3, 0.1, 0.2, 0]),
        8,
        "tail",
        tails,
        np.array([0, 0, 1, 1]),
    )
    for power in (0.25, 3.0):
        np.testing.assert_allclose(to_power(labels, power).dense(), softened(labels.dense(), power), rtol=1e-6)


def test_a_tail_that_says_nothing_of_what_is_left_is_spread_evenly():
    tails = Tails(np.int32([[2]]), np.float32([[1.0]]), np.float32([0.0]))
    labels = SparseLabels(np.int32([[2]]), np.float32([[0.7]]), np.float32([0.3]), 4, "tail", tails, np.array([0]))
    np.testing.assert_allclose(to_power(labels, 0.25).dense(), softened(np.float32([[0.1, 0.1, 0.7, 0.1]]), 0.25), rtol=1e-6)


def test_dense_targets_stay_32_bit_floats():
    softer = to_power(DenseLabels(np.float32([[0.5, 0.25, 0.25]]), "probs"), 0.25)
    assert softer.vectors.dtype == np.float32
    np.testing.assert_allclose(softer.vectors, softened(np.float32([[0.5, 0.25, 0.25]]), 0.25), rtol=1e-6)


def test_labels_of_which_a_part_was_made_of_poorer_ones_are_refused(tmp_path):
    write_labels(tmp_path / "a.slc", "dense", metadata={**WARM, "merged_from": [{}, {"transcoded_from": ["marginal_smoothing:k=5"]}]})
    with pytest.raises(ArgumentError, match="k=5', of which these were made,"):
        SoftLabelReader(tmp_path / "a.slc", temperature=4)


def test_what_the_policy_does_comes_after_the_temperature(tmp_path):
    write_labels(tmp_path / "a.slc", "marginal_smoothing:k=3,tail=6", metadata=WARM)
    with SoftLabelReader(tmp_path / "a.slc", temperature=4) as along:
        for policy in ("uniform", "renorm", "bucket"):
            with SoftLabelReader(tmp_path / "a.slc", temperature=4, policy=policy) as reader:
                mine, wanted = reader[1].labels, along[1].labels.with_policy(policy)
                assert mine.policy == policy
                for name in ("indices", "values", "remainder"):
                    np.testing.assert_array_equal(getattr(mine, name), getattr(wanted, name))


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        ("hard", "say which class is on top, and of no class how probable it is"),
        ("smoothing", "spread the remainder evenly: how probable each class is that was not kept is lost"),
        ("marginal_smoothing:k=5", "'marginal_smoothing:k=5' spread the remainder evenly: .*'dense:content=logits' keeps all, a tail"),
        ("marginal_smoothing:t=0.05", "spread the remainder evenly"),
        ("marginal_renorm:k=5", "drop the remainder: how probable each class is that was not kept is lost"),
        ("marginal_smoothing:k=5,values=f32,tail=4", r"know the remainder only as what the values \(f32\) lack to 1.*log8 keeps it"),
        ("marginal_smoothing:k=20,values=f16", "have lost small probabilities"),
        ("dense:f16", "have lost small probabilities, which float16 rounds to 0"),
    ],
)
def test_what_the_labels_do_not_know_is_refused(tmp_path, codec, why):
    write_labels(tmp_path / "a.slc", codec, metadata=WARM)
    for temperature in (4, 0.5):
        found = rf"a\.slc: temperature: expected 1, that of these labels, got {temperature}"
        with pytest.raises(ArgumentError, match=f"{found}: labels of .*{why}"):
            SoftLabelReader(tmp_path / "a.slc", temperature=temperature)
    with SoftLabelReader(tmp_path / "a.slc", temperature=1) as reader, SoftLabelReader(tmp_path / "a.slc") as stored:
        assert (reader.temperature, reader.approximated) == (1, False)
        np.testing.assert_array_equal(reader[0].labels.dense(), stored[0].labels.dense())


def test_features_have_no_temperature_before_training(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 4, "dense:content=features", WARM) as writer:
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]], flips=[False], vectors=np.ones((1, 4)))
    for temperature in (4, 1, 0.1):
        found = rf"a\.slc: temperature: expected none, as features are stored without one, got {temperature}"
        with pytest.raises(ArgumentError, match=rf"{found}\. Training chooses one: slcodec train --teacher-temperature T"):
            SoftLabelReader(tmp_path / "a.slc", temperature=temperature)


def test_a_copy_knows_no_more_than_what_it_was_made_of(tmp_path):
    write_labels(tmp_path / "even.slc", "marginal_smoothing:k=10", metadata=WARM)
    write_labels(tmp_path / "dense.slc", "dense", metadata=WARM)
    copy_labels(tmp_path / "even.slc", tmp_path / "a.slc", codec="marginal_smoothing:k=2,tail=5")
    with pytest.raises(ArgumentError, match="labels of 'marginal_smoothing:k=10', of which these were made, spread the remainder evenly"):
        SoftLabelReader(tmp_path / "a.slc", temperature=4)
    copy_labels(tmp_path / "dense.slc", tmp_path / "b.slc", codec="marginal_smoothing:k=2,tail=5")
    with SoftLabelReader(tmp_path / "b.slc", temperature=4) as reader:
        assert reader.approximated
    copy_labels(tmp_path / "a.slc", tmp_path / "c.slc", metadata={"note": ["no codec", 3]})
    with pytest.raises(ArgumentError, match="of which these were made"):
        SoftLabelReader(tmp_path / "c.slc", temperature=4)


def test_labels_that_do_not_say_their_temperature(tmp_path):
    write_labels(tmp_path / "a.slc", "dense")
    with SoftLabelReader(tmp_path / "a.slc", temperature=1) as reader:
        assert (reader.temperature, reader.stored_temperature) == (1, None)
    with pytest.raises(MismatchError, match=r"a\.slc: temperature: expected metadata that say .*slcodec copy .* --metadata temperature=1"):
        SoftLabelReader(tmp_path / "a.slc", temperature=4)
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", metadata={"temperature": 1})
    with SoftLabelReader(tmp_path / "b.slc", temperature=4) as reader, SoftLabelReader(tmp_path / "a.slc") as stored:
        np.testing.assert_allclose(reader[0].labels.dense(), softened(stored[0].labels.dense(), 0.25), rtol=1e-6)


@pytest.mark.parametrize("said", ["hot", True, 0, -1.0, 1e-300, 2e4, [1.0]])
def test_metadata_that_say_no_temperature(tmp_path, said):
    write_labels(tmp_path / "a.slc", "dense", metadata={"temperature": said})
    with SoftLabelReader(tmp_path / "a.slc") as reader:  # which is of no concern to who does not ask
        assert len(reader[0].labels) == 3
        with pytest.raises(MismatchError, match=r"a\.slc: its metadata say temperature=.*, expected a number from 0.0001 to 10000"):
            reader.temperature  # noqa: B018
    with pytest.raises(MismatchError, match="its metadata say temperature="):
        SoftLabelReader(tmp_path / "a.slc", temperature=4)


@pytest.mark.parametrize("wrong", [0, -1, 1e-300, 1e5, 10**400, float("nan"), float("inf"), "4", True, [4.0], np.ones(1)])
def test_temperatures_that_are_none(tmp_path, wrong):
    write_labels(tmp_path / "a.slc", "dense", metadata=WARM)
    with pytest.raises(ArgumentError, match="temperature: expected a number from 0.0001 to 10000, got"):
        SoftLabelReader(tmp_path / "a.slc", temperature=wrong)


def test_sets_and_copies_of_readers(tmp_path):
    codec = "marginal_smoothing:t=0.1,tail=5"
    folder = write_set(tmp_path / "set", codec=codec)
    with SoftLabelReader(folder) as stored, SoftLabelReader(folder, temperature=4) as reader:
        wanted = softened(stored.read_batch([0, 5]).labels.dense(), 0.25)
        with pickle.loads(pickle.dumps(reader)) as copy:
            for one in (reader, copy):
                assert (one.temperature, one.approximated) == (4, True)
                np.testing.assert_allclose(one.read_batch([0, 5]).labels.dense(), wanted, rtol=3e-6, atol=1e-9)
    write_set(tmp_path / "even", codec="marginal_smoothing:k=5")
    with pytest.raises(ArgumentError, match=r"x\.slc\.index\.json: temperature: .*spread the remainder evenly"):
        SoftLabelReader(tmp_path / "even", temperature=4)


@pytest.mark.parametrize("margin", [18, 30])  # 1e-6 and 1e-11 for all others together
def test_a_sure_teacher_keeps_its_remainder(tmp_path, margin):
    logits = np.random.default_rng(3).normal(0, 1, (8, 50)) + margin * np.eye(50)[:8]
    probs = softened(np.exp(logits), 1.0).astype(np.float32)
    with SoftLabelWriter(tmp_path / "a.slc", 50, "marginal_smoothing:t=0.05,tail=50", WARM) as writer:
        writer.add("a", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 8, flips=[False] * 8, probs=probs)
    with SoftLabelReader(tmp_path / "a.slc", temperature=20) as reader:
        wanted = softened(np.exp(logits), 1 / 20)
        np.testing.assert_allclose(reader[0].labels.values[:, 0], wanted.max(axis=1), rtol=0.05)
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", codec="marginal_smoothing:t=0.05,step=0.25,tail=50")
    with SoftLabelReader(tmp_path / "b.slc", temperature=20) as reader:
        np.testing.assert_allclose(reader[0].labels.values[:, 0], wanted.max(axis=1), rtol=0.05)


def labels_of_full_tails(seed, rows=40, num_classes=9, images=3):
    """Return labels whose tails of all classes change much with the main class."""
    rng = np.random.default_rng(seed)
    weights, slopes = rng.random((images, num_classes)).astype(np.float32), rng.uniform(-6, 4.5, (images, num_classes)).astype(np.float32)
    classes = np.broadcast_to(np.arange(num_classes, dtype=np.int32), weights.shape)
    tails = Tails(classes, weights, np.zeros(images, np.float32), slopes, rng.integers(0, num_classes, images).astype(np.int32))
    probs = random_probs(rng, rows, num_classes)
    order = np.argsort(-probs, axis=1)[:, :3].astype(np.int32)
    values = np.take_along_axis(probs, order, axis=1)
    return SparseLabels(order, values, 1 - values.sum(axis=1), num_classes, "tail", tails, rng.integers(0, images, rows))


@pytest.mark.parametrize("power", [0.05, 0.25, 2.0, 8.0])
def test_tails_of_all_classes_change_with_the_value_of_the_main_class_as_it_was_stored(power):
    labels, other = labels_of_full_tails(1), labels_of_full_tails(2)
    wanted, softer = softened(labels.dense(), power), to_power(labels, power)
    np.testing.assert_allclose(softer.dense(), wanted, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(softer[[7, 0, 31]].dense(), wanted[[7, 0, 31]], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(to_power(softer, 0.5).dense(), softened(labels.dense(), power / 2), rtol=1e-5, atol=1e-9)
    joined = concatenate_labels([other, softer])
    np.testing.assert_allclose(joined.dense(), np.concatenate([other.dense(), wanted]), rtol=1e-5, atol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("power", [0.05, 0.25, 2.0, 8.0])
def test_targets_of_tails_of_all_classes_at_another_temperature(power):
    import torch

    from softlabel_codec.torch.targets import to_targets

    other, softer = labels_of_full_tails(2), to_power(labels_of_full_tails(1), power)
    joined = concatenate_labels([other, softer])
    for targets in (to_targets(joined), torch.cat([to_targets(other), to_targets(softer)])):
        np.testing.assert_allclose(targets.dense(), joined.dense(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(targets[[50]].with_tail_per_crop().dense(), joined.dense()[[50]], rtol=1e-5, atol=1e-7)


def test_a_temperature_for_which_tails_of_all_classes_are_too_coarse(tmp_path):
    write_labels(tmp_path / "a.slc", "marginal_smoothing:t=0.1,tail=all,mean=log", metadata={"temperature": 2.0})
    with pytest.raises(ArgumentError, match=r"a\.slc: temperature: expected at least 0\.25 for labels of '.*tail=all.*, got 0\.2"):
        SoftLabelReader(tmp_path / "a.slc", temperature=0.2)
    with SoftLabelReader(tmp_path / "a.slc", temperature=0.25) as reader, SoftLabelReader(tmp_path / "a.slc") as stored:
        np.testing.assert_allclose(reader[2].labels.dense(), softened(stored[2].labels.dense(), 8.0), rtol=1e-4, atol=1e-9)


def test_statistics_of_tails_of_all_classes_at_another_temperature(tmp_path):
    write_labels(tmp_path / "a.slc", "marginal_smoothing:t=0.1,tail=all,mean=log", metadata=WARM)
    with SoftLabelReader(tmp_path / "a.slc", temperature=4) as reader:
        targets = reader.read_batch(range(4)).labels.dense().astype(np.float64)
    found = stats(tmp_path / "a.slc", temperature=4)
    assert found.entropy.mean == pytest.approx(-(targets * np.log(targets)).sum(axis=1).mean(), rel=1e-5)


def test_random_labels_against_the_definition():
    rng = np.random.default_rng(11)
    for _ in range(50):
        num_classes, images = int(rng.integers(2, 12)), 3
        listed = np.sort(np.where(rng.random((images, num_classes)) < 0.5, np.arange(num_classes), num_classes), axis=1)
        classes = np.where(listed == num_classes, -1, listed).astype(np.int32)
        weights = np.where(classes >= 0, rng.random(classes.shape), 0).astype(np.float32)
        tails = Tails(classes, weights, (rng.random(images) * (rng.random(images) < 0.7)).astype(np.float32))
        probs = random_probs(rng, 6, num_classes)
        order = np.argsort(-probs, axis=1)[:, : int(rng.integers(1, num_classes + 1))]
        values = np.take_along_axis(probs, order, axis=1)
        rest = np.maximum(0, 1 - values.sum(axis=1)) * (order.shape[1] < num_classes)
        labels = SparseLabels(
            order.astype(np.int32), values, rest.astype(np.float32), num_classes, "tail", tails, rng.integers(0, images, 6)
        )
        for policy in ("tail", "uniform"):
            read = labels if policy == "tail" else SparseLabels(labels.indices, labels.values, labels.remainder, num_classes)
            np.testing.assert_allclose(to_power(read, 0.25).dense(), softened(read.dense(), 0.25), rtol=1e-5, atol=1e-7)
