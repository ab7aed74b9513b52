"""From probabilities through a file to targets: against the printed formulas and the stated bounds."""

import math
import re

import numpy as np
import pytest
from conftest import random_probs
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fkd_target, full_tail_codes, full_tail_targets, kept_classes, log8_target, tail_targets

from softlabel_codec import ArgumentError, Codec, DenseLabels, SoftLabelWriter, SparseLabels, StateError
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.labels import Tails, concatenate_labels

STRATEGIES = ["hard", "smoothing", "marginal_smoothing:k=3", "marginal_renorm:k=3", "marginal_smoothing:t=0.05", "marginal_renorm:t=0.2"]


def through(probs: np.ndarray, codec: str, policy: str | None = None) -> SparseLabels:
    """Return what probabilities become: quantised and back."""
    parsed = Codec.parse(codec)
    quantiser = label_quantiser(parsed, probs.shape[1])
    return quantiser.dequantise(quantiser.quantise({"probs": probs}, len(probs)), policy or parsed.policy)


def with_values(codec: str, values: str) -> str:
    return codec if codec == "hard" else f"{codec}{',' if ':' in codec else ':'}values={values}"


@st.composite
def probabilities(draw):
    """Rows of probabilities with ties, zeros, and both sure and unsure ones."""
    num_classes = draw(st.integers(2, 12))
    rows = draw(st.lists(st.lists(st.integers(0, 6), min_size=num_classes, max_size=num_classes).filter(any), min_size=1, max_size=4))
    weights = np.array([[float(10**-exponent) if exponent < 6 else 0.0 for exponent in row] for row in rows])
    weights[weights.sum(axis=1) == 0, 0] = 1.0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@given(probabilities(), st.sampled_from(STRATEGIES))
@settings(max_examples=300, deadline=None)
def test_f32_targets_equal_the_formulas_of_fkd(probs, codec):
    parsed = Codec.parse(codec)
    if parsed.k is not None and parsed.k > probs.shape[1]:
        return
    found = through(probs, with_values(codec, "f32")).dense()
    threshold = None if parsed.t is None else float(np.float32(parsed.t))
    wanted = [fkd_target([float(p) for p in row], parsed.name, parsed.k, threshold) for row in probs]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@given(probabilities(), st.sampled_from(["marginal_smoothing:k=2", "marginal_smoothing:t=0.05"]), st.sampled_from([0.04, 0.2, 0.5, 1.0]))
@settings(max_examples=300, deadline=None)
def test_log8_targets_equal_the_specification(probs, codec, step):
    parsed = Codec.parse(codec)
    found = through(probs, f"{codec},step={step}").dense()
    threshold = None if parsed.t is None else float(np.float32(parsed.t))
    for row, target in zip(probs, found, strict=True):
        wanted = log8_target([float(p) for p in row], step, parsed.k, threshold)
        np.testing.assert_allclose(target, wanted, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("step", [0.04, 0.2, 0.25])
def test_log8_keeps_its_bound(step):
    probs = random_probs(np.random.default_rng(1), 500, 50)
    labels = through(probs, f"marginal_smoothing:k=8,step={step}")
    kept = np.take_along_axis(probs, labels.indices.astype(np.int64), axis=1).astype(np.float64)
    zero = labels.values == 0
    assert (kept[zero] <= (kept[:, :1] * math.exp(-254.5 * step)).repeat(8, axis=1)[zero] * (1 + 1e-6)).all()
    ratio = np.log(kept / kept[:, :1]) - np.log(np.where(zero, 1, labels.values.astype(np.float64)) / labels.values[:, :1])
    assert np.abs(ratio[~zero]).max() <= step / 2 + 1e-5
    error = np.log(np.where(zero, 1, labels.values)) - np.log(kept)
    assert np.abs(error[~zero]).max() <= step + 1e-5


def test_f16_keeps_its_bound():
    probs = random_probs(np.random.default_rng(2), 500, 50)
    labels = through(probs, "marginal_smoothing:k=8,values=f16")
    kept = np.take_along_axis(probs, labels.indices.astype(np.int64), axis=1).astype(np.float64)
    assert (np.abs(labels.values - kept) <= kept * 2.0**-11 + 2.0**-25).all()
    dense = through(probs, "dense:f16").dense()
    assert (np.abs(dense - probs.astype(np.float64)) <= probs * 2.0**-11 + 2.0**-25).all()


def test_dense_f32_is_exact():
    probs = random_probs(np.random.default_rng(3), 20, 30)
    np.testing.assert_array_equal(through(probs, "dense").dense(), probs)


def alike(rng, num_crops, num_classes):
    """Return logits of crops of one image, which vary together: float64 (M, C)."""
    profile, directions = rng.normal(0, 3, num_classes), rng.normal(0, 1, (3, num_classes))
    return profile + rng.normal(0, 2, (num_crops, 3)) @ directions + rng.normal(0, 0.3, (num_crops, num_classes))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def spread(difference):
    """Return by how much logarithms differ of each crop, but for a constant."""
    return np.ptp(difference, axis=1).max() if difference.size else 0.0


@pytest.mark.parametrize("step", [0.04, 0.25, 1.0, 2.0])
@pytest.mark.parametrize(("num_crops", "num_classes"), [(1, 2), (1, 1000), (2, 3), (9, 50), (40, 333), (300, 30), (600, 5)])
def test_dense_log8_keeps_its_bound(step, num_crops, num_classes):
    rng = np.random.default_rng(num_crops)
    for logits in (alike(rng, num_crops, num_classes), np.log(random_probs(rng, num_crops, num_classes).astype(np.float64))):
        probs = softmax(logits).astype(np.float32)
        found = through(probs, f"dense:values=log8,step={step}").dense()
        assert (found.shape, found.dtype) == (probs.shape, np.float32)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        floor = probs.max(axis=1, keepdims=True) * math.exp(-24)
        differences = np.log(np.maximum(found, 1e-37)) - np.log(np.maximum(probs, floor))
        assert spread(differences) <= 4 / 3 * step + 1e-4


@pytest.mark.parametrize("step", [0.04, 0.25, 1.0, 2.0])
def test_dense_log8_keeps_the_most_probable_classes_more_exactly(step):
    rng = np.random.default_rng(8)
    logits = alike(rng, 200, 60)
    top = np.argsort(-logits, axis=1)[:, :3]
    np.put_along_axis(logits, top, rng.uniform(30, 30 + step, top.shape), axis=1)
    probs = softmax(logits)
    found = through(probs.astype(np.float32), f"dense:values=log8,step={step}")
    errors = np.take_along_axis(np.log(found.dense()) - np.log(probs), top, axis=1)
    assert spread(errors) <= 3 / 8 * step + 1e-4
    assert (found.top1 == probs.argmax(axis=1)).mean() > 0.99


@pytest.mark.parametrize("step", [0.04, 1.0])
def test_dense_log8_keeps_logits_up_to_a_constant(step):
    logits = alike(np.random.default_rng(5), 60, 40).astype(np.float32) + np.float32(7) * np.arange(60, dtype=np.float32)[:, None]
    quantiser = label_quantiser(Codec.parse(f"dense:log8,step={step},content=logits"), 40)
    labels = quantiser.dequantise(quantiser.quantise({"vectors": logits}, 60), "uniform")
    assert (labels.content, labels.vectors.dtype) == ("logits", np.float32)
    assert spread(labels.vectors.astype(np.float64) - logits) <= 4 / 3 * step + 1e-4
    np.testing.assert_allclose(labels.dense(), softmax(labels.vectors.astype(np.float64)), rtol=1e-6)
    divergence = (softmax(logits.astype(np.float64)) * np.log(softmax(logits.astype(np.float64)) / labels.dense())).sum(axis=1)
    assert divergence.max() < step**2 / 2


def test_dense_log8_of_probabilities_of_0():
    found = through(np.float32([[0, 1, 0], [0.5, 0.5, 0], [0, 1, 0]]), "dense:values=log8").dense()
    assert found[0, [0, 2]].max() <= math.exp(-24 + 4 / 3)
    np.testing.assert_allclose(found[0, 1], 1, rtol=1e-6)
    np.testing.assert_allclose(found[1, 2], 0, atol=math.exp(-24 + 4 / 3))
    assert abs(math.log(found[1, 0] / found[1, 1])) <= 4 / 3


@pytest.mark.parametrize("row", [[0.25] * 4, [1, 0, 0, 0], [0.4, 0.3, 0.2, 0.1]])
def test_dense_log8_of_crops_that_are_all_equal(row):
    found = through(np.float32([row] * 300), "dense:values=log8,step=0.25").dense()
    assert (found == found[0]).all()
    np.testing.assert_allclose(np.log(found[0, :1] / found[0]), np.log(row[0] / np.maximum(row, row[0] * math.exp(-24))), atol=4 / 3 * 0.25)


def test_dense_log8_stores_once_what_crops_have_in_common(tmp_path):
    logits = alike(np.random.default_rng(6), 200, 500)
    stored = {}
    for name, rows in (("alike", logits), ("each of its own", np.random.default_rng(7).permuted(logits, axis=1))):
        with SoftLabelWriter(tmp_path / "a.slc", 500, "dense:values=log8,content=logits", overwrite=True) as writer:
            writer.add("a", image_size=(9, 9), crops=[[0, 0, 9, 9]] * 200, flips=[False] * 200, vectors=rows)
        stored[name] = (tmp_path / "a.slc").stat().st_size
    assert stored["alike"] < 0.25 * stored["each of its own"]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, math.nan], [1, 2]], "vectors: row 0: expected finite numbers"),
        ([[1.0, 2], [-math.inf, 2]], "vectors: row 1: expected finite numbers. Of masked classes, pass probabilities of 0"),
        ([[1.0, 2], [-1e9, 2]], "vectors: row 1: expected numbers within 4000 of each other, got 1e+09. Use values=f32"),
    ],
)
def test_logits_that_dense_log8_refuses(vectors, message):
    quantiser = label_quantiser(Codec.parse("dense:values=log8,content=logits"), 2)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        quantiser.quantise({"vectors": np.array(vectors)}, 2)


def test_the_remainder_never_becomes_negative():
    probs = np.array([[0.99951, 0.00049, 0.0]], np.float32)  # its two largest sum to more than 1 as float16
    labels = through(probs, "marginal_smoothing:k=2,values=f16")
    assert labels.values.sum() > 1
    assert labels.remainder.tolist() == [0.0]
    assert labels.dense()[0, 2] == 0


def test_ties_go_to_the_lowest_class():
    probs = np.full((1, 6), 1 / 6, np.float32)
    for codec in ("hard", "smoothing", "marginal_smoothing:k=3", "marginal_smoothing:t=0.5"):
        found = through(probs, codec).indices[0].tolist()
        assert found == list(range(len(found)))
    assert kept_classes(probs[0].tolist(), 3, None) == [0, 1, 2]


@pytest.mark.parametrize("values", ["f32", "f16", "log8"])
def test_keeping_all_classes_leaves_no_remainder(values):
    probs = random_probs(np.random.default_rng(4), 5, 4)
    labels = through(probs, f"marginal_smoothing:k=4,values={values}")
    assert labels.remainder.tolist() == [0.0] * 5
    np.testing.assert_allclose(labels.dense(), probs, rtol=0.23, atol=1e-7)


def test_a_reader_may_choose_the_other_policy():
    probs = random_probs(np.random.default_rng(5), 10, 12)
    stored = through(probs, "marginal_smoothing:k=3,values=f32")
    np.testing.assert_array_equal(stored.with_policy("renorm").dense(), through(probs, "marginal_renorm:k=3,values=f32").dense())
    np.testing.assert_array_equal(through(probs, "marginal_renorm:k=3,values=f32", "uniform").dense(), stored.dense())
    with pytest.raises(ArgumentError, match="expected one of uniform, renorm, bucket, got 'drop'"):
        stored.with_policy("drop")


def test_top_k_input_gives_the_same_codes_as_probabilities():
    rng = np.random.default_rng(6)
    probs = random_probs(rng, 50, 40)
    order = np.argsort(-probs, axis=1, kind="stable")[:, :25]
    shuffled = rng.permuted(order, axis=1)
    for codec in ("hard", "smoothing", "marginal_smoothing:k=5", "marginal_renorm:k=5,values=f16", "marginal_smoothing:t=0.05"):
        quantiser = label_quantiser(Codec.parse(codec), 40)
        values = np.take_along_axis(probs, shuffled, axis=1)
        from_probs = quantiser.quantise({"probs": probs}, 50)
        from_topk = quantiser.quantise({"indices": shuffled, "values": values}, 50)
        for mine, theirs in zip(from_probs, from_topk, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_confident_teacher_that_underflows():
    probs = np.zeros((1, 1000), np.float32)
    probs[0, 7] = 1
    for codec in ("marginal_smoothing:k=5", "marginal_smoothing:k=5,values=f16", "marginal_renorm:k=5", "smoothing"):
        np.testing.assert_array_equal(through(probs, codec).dense(), probs)


def test_too_flat_for_f16_is_refused():
    with pytest.raises(ArgumentError, match="row 0: the largest probability, 1e-08, becomes 0 in float16: use values=f32"):
        label_quantiser(Codec.parse("smoothing:values=f16"), 2**31).quantise({"indices": np.array([[5]]), "values": np.array([[1e-8]])}, 1)


def test_features_have_no_targets():
    labels = label_quantiser(Codec.parse("dense:content=features"), 4)
    codes = labels.quantise({"vectors": np.array([[-1.0, 0, 2, 3]])}, 1)
    found = labels.dequantise(codes, "uniform")
    np.testing.assert_array_equal(found.vectors, [[-1, 0, 2, 3]])
    with pytest.raises(StateError, match="features, not probabilities"):
        found.dense()


def test_logits_become_their_softmax():
    labels = label_quantiser(Codec.parse("dense:content=logits"), 3)
    found = labels.dequantise(labels.quantise({"vectors": np.log([[0.2, 0.3, 0.5]]) + 100}, 1), "uniform")
    np.testing.assert_allclose(found.dense(), [[0.2, 0.3, 0.5]], rtol=1e-4)


@pytest.mark.parametrize("codec", ["marginal_smoothing:t=0.1", "marginal_smoothing:k=2,tail=3", "dense"])
def test_one_row(codec):
    labels = through(random_probs(np.random.default_rng(3), 5, 9), codec)
    np.testing.assert_array_equal(labels[-1].dense(), labels.dense()[4:])
    np.testing.assert_array_equal(labels[np.int64(2)].dense(), labels.dense()[2:3])
    np.testing.assert_array_equal(np.concatenate([row.dense() for row in labels]), labels.dense())
    with pytest.raises(IndexError):
        labels[5]


def test_concatenated_labels_are_padded_to_the_widest():
    probs = random_probs(np.random.default_rng(8), 6, 9)
    whole = through(probs, "marginal_smoothing:t=0.1,values=f32")
    parts = [through(probs[rows], "marginal_smoothing:t=0.1,values=f32") for rows in (slice(0, 1), slice(1, 6))]
    np.testing.assert_array_equal(concatenate_labels(parts).dense(), whole.dense())
    with pytest.raises(ArgumentError, match="cannot be concatenated"):
        concatenate_labels([parts[0], parts[1].with_policy("renorm")])


@given(probabilities(), st.sampled_from(["k=1", "k=2", "t=0.05", "t=0.4"]), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_targets_with_a_tail_equal_the_specification(probs, selection, tail):
    codec = f"marginal_smoothing:{selection},values=f32,tail={min(tail, probs.shape[1])}"
    parsed = Codec.parse(codec)
    found = through(probs, codec).dense()
    threshold = None if parsed.t is None else float(np.float32(parsed.t))
    wanted = tail_targets([[float(p) for p in row] for row in probs], parsed.tail, parsed.k, threshold)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@given(probabilities(), st.sampled_from(["k=1", "k=2", "t=0.05", "t=0.4"]))
@settings(max_examples=300, deadline=None)
def test_targets_with_a_tail_of_all_classes_equal_the_specification(probs, selection):
    parsed = Codec.parse(f"marginal_smoothing:{selection},values=f32,tail=all,mean=log")
    quantiser = label_quantiser(parsed, probs.shape[1])
    codes = quantiser.quantise({"probs": probs}, len(probs))
    rows, threshold = [[float(p) for p in row] for row in probs], None if parsed.t is None else float(np.float32(parsed.t))
    levels, slopes = codes.tails.codes[0] // 8, codes.tails.codes[0] % 8 - 4.0
    wanted = np.array(full_tail_codes(rows, parsed.k, threshold))
    assert np.abs(levels - wanted[:, 0]).max() <= 1  # either side of a half
    assert np.abs(slopes - wanted[:, 1]).max() <= 1
    assert (np.stack([levels, slopes], axis=1) == wanted).all(axis=1).mean() >= 0.5
    stored = list(zip(levels.tolist(), slopes.tolist(), strict=True))
    found = quantiser.dequantise(codes, "tail").dense()
    np.testing.assert_allclose(found, full_tail_targets(rows, stored, parsed.k, threshold), rtol=1e-5, atol=1e-7)


def softened(targets: np.ndarray, temperature: float) -> np.ndarray:
    powers = targets.astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def test_means_of_logarithms_hold_at_a_high_temperature():
    rng = np.random.default_rng(9)
    sureness = rng.uniform(0, 1, (200, 1))
    logits = rng.normal(0, 1, 300) + rng.normal(0, 2, 300) * sureness + rng.normal(0, 0.5, (200, 300))
    logits[:, 7] += 12 * sureness[:, 0]
    probs = np.asarray(softened(np.exp(logits), 1), np.float32)

    def divergence(codec, temperature):
        wanted, found = softened(probs, temperature), softened(through(probs, codec).dense(), temperature)
        return float((wanted * np.log(wanted / found)).sum(axis=1).mean())

    log, arithmetic, listed = (f"marginal_smoothing:t=0.1,tail={tail}" for tail in ("all,mean=log", "all", "100"))
    assert divergence(log, 4) < 0.7 * divergence(arithmetic, 4) < 0.7 * divergence(listed, 4)
    assert divergence(log, 1) < divergence(listed, 1)


def test_what_was_left_out_may_be_given_for_a_tail_of_all_classes_of_arithmetic_means():
    probs = random_probs(np.random.default_rng(11), 30, 40)
    order = np.argsort(-probs, axis=1, kind="stable")
    values = np.take_along_axis(probs, order, axis=1)
    left_out = np.zeros(40)
    np.add.at(left_out, order[:, 4:], values[:, 4:])
    topk = {"indices": order[:, :4], "values": values[:, :4], "left_out": left_out}
    arithmetic, log = (label_quantiser(Codec.parse(f"marginal_smoothing:k=4,tail=all,mean={mean}"), 40) for mean in ("arithmetic", "log"))
    np.testing.assert_array_equal(arithmetic.quantise(topk, 30).tails.codes, arithmetic.quantise({"probs": probs}, 30).tails.codes)
    for given_labels in (topk, {name: topk[name] for name in ("indices", "values")}):
        with pytest.raises(ArgumentError, match=r"expected probs, got indices and values.* with mean=arithmetic it can"):
            log.quantise(given_labels, 30)


def test_tails_of_all_classes_stay_with_their_crops():
    rng = np.random.default_rng(12)
    labels = [through(random_probs(rng, 5, 30), "marginal_smoothing:k=2,tail=all,mean=log") for _ in range(3)]
    joined = concatenate_labels(labels)
    np.testing.assert_array_equal(joined.dense(), np.concatenate([part.dense() for part in labels]))
    np.testing.assert_array_equal(joined[[12, 0]].dense(), joined.dense()[[12, 0]])
    listed = through(random_probs(rng, 5, 30), "marginal_smoothing:k=2,tail=5")
    with pytest.raises(ArgumentError, match="tails of all classes and of some cannot be concatenated"):
        concatenate_labels([*labels, listed])


def test_a_tail_brings_the_targets_closer_to_the_teacher():
    rng = np.random.default_rng(9)
    profile = rng.normal(0, 3, 200)
    logits = profile + rng.normal(0, 1, (40, 200))
    probs = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)

    def divergence(codec):
        return float((probs * np.log(probs / through(probs, codec).dense())).sum(axis=1).mean())

    assert divergence("marginal_smoothing:k=3,tail=50") < 0.5 * divergence("marginal_smoothing:k=3")


def test_labels_with_a_tail_may_be_read_without_it():
    probs = random_probs(np.random.default_rng(10), 10, 12)
    labels = through(probs, "marginal_smoothing:k=3,tail=5,step=0.2")
    plain = through(probs, "marginal_smoothing:k=3")
    np.testing.assert_array_equal(labels.with_policy("uniform").dense(), plain.dense())
    np.testing.assert_array_equal(labels.with_policy("renorm").dense(), plain.with_policy("renorm").dense())
    with pytest.raises(ArgumentError, match="expected one of uniform, renorm, bucket, got 'tail'"):
        plain.with_policy("tail")
    with pytest.raises(ArgumentError, match="with and without tails"):
        concatenate_labels([labels.with_policy("uniform"), plain])


def test_what_was_left_out_may_be_given_with_top_k():
    probs = random_probs(np.random.default_rng(11), 30, 40)
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:k=4,tail=9"), 40)
    order = np.argsort(-probs, axis=1, kind="stable")
    values = np.take_along_axis(probs, order, axis=1)
    left_out = np.zeros(40)
    np.add.at(left_out, order[:, 4:], values[:, 4:])
    from_topk = quantiser.quantise({"indices": order[:, :4], "values": values[:, :4], "left_out": left_out}, 30)
    from_probs = quantiser.quantise({"probs": probs}, 30)
    for mine, theirs in zip(from_topk.tails, from_probs.tails, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ArgumentError, match="expected probs, or indices and values and left_out, got indices and values"):
        quantiser.quantise({"indices": order[:, :4], "values": values[:, :4]}, 30)
    with pytest.raises(ArgumentError, match="left_out: expected sums of probabilities, finite and not negative"):
        quantiser.quantise({"indices": order[:, :4], "values": values[:, :4], "left_out": -left_out}, 30)


def test_concatenated_tails_stay_with_their_crops():
    rng = np.random.default_rng(12)
    parts = [random_probs(rng, 5, 30) for _ in range(3)]
    labels = [through(probs, codec) for probs, codec in zip(parts, [f"marginal_smoothing:k=2,tail={n}" for n in (3, 9, 5)], strict=True)]
    joined = concatenate_labels(labels)
    np.testing.assert_array_equal(joined.dense(), np.concatenate([part.dense() for part in labels]))
    np.testing.assert_array_equal(joined[[12, 0]].dense(), joined.dense()[[12, 0]])


TAILS = [f"{selection},tail={tail},step={step}" for selection in ("k=1", "t=0.1") for tail in (1, 4, 12) for step in (0.2, 1.0)]
CODECS = [
    *(with_values(codec, values) for codec in STRATEGIES for values in ("f32", "f16", "log8")),
    *(f"marginal_smoothing:{tail}" for tail in (*TAILS, "k=1,tail=all", "t=0.1,tail=all,mean=log")),
    "dense",
    "dense:values=f16,content=logits",
    "dense:values=log8",
]


def largest(targets: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    classes = np.argsort(-targets, axis=1, kind="stable")[:, :k]
    return classes, np.take_along_axis(targets, classes, axis=1)


@given(st.lists(probabilities(), min_size=1, max_size=3), st.sampled_from(CODECS), st.data())
@settings(max_examples=600, deadline=None)
def test_the_largest_targets_are_those_of_all_classes_sorted(images, codec, data):
    num_classes = min(image.shape[1] for image in images)
    parsed = Codec.parse(codec)
    if max(parsed.k or 1, 0 if parsed.full_tail else parsed.tail) > num_classes:
        return
    images = [normal(image[:, :num_classes]) for image in images]
    if parsed.content == "logits":
        labels = concatenate_labels([DenseLabels(image * 40, "logits") for image in images])
    else:
        labels = concatenate_labels([through(image, codec) for image in images])
    for policy in [None] if parsed.name == "dense" else [None, "uniform", "renorm"]:
        read = labels if policy is None else labels.with_policy(policy)
        for k in {1, data.draw(st.integers(1, num_classes)), num_classes}:
            classes, probs = read.topk(k)
            wanted_classes, wanted_probs = largest(read.dense(), k)
            assert (classes.dtype, probs.dtype) == (np.int32, np.float32)
            np.testing.assert_array_equal(classes, wanted_classes)
            np.testing.assert_array_equal(probs, wanted_probs)


def normal(weights: np.ndarray) -> np.ndarray:
    """Return probabilities; those of a row without any are even."""
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, np.float32(1))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.9]))
def test_classes_of_a_tail_may_exceed_kept_ones(seed, share):
    rng = np.random.default_rng(seed)
    tails = Tails(np.int32([[0, 3, 7], [1, 2, -1]]), np.float32([[0.25, 0.25, share], [0.5, 0.25, 0]]), np.float32([0.02, 0.03]))
    indices = np.int32([rng.permutation(9)[:3] for _ in range(6)])
    indices[rng.random(6) < 0.5, 2] = -1
    values = np.where(indices >= 0, np.float32(rng.choice([0.0, 0.05, 0.2], (6, 3))), 0).astype(np.float32)
    labels = SparseLabels(indices, values, np.float32(rng.random(6)), 9, "tail", tails, rng.integers(0, 2, 6))
    for k in (1, 4, 9):
        for found, wanted in zip(labels.topk(k), largest(labels.dense(), k), strict=True):
            np.testing.assert_array_equal(found, wanted)
    exceeded = SparseLabels(np.int32([[5]]), np.float32([[0.1]]), np.float32([0.9]), 9, "tail", tails[:1], np.zeros(1, np.int64))
    assert exceeded.topk(1)[0].item() != 5


def test_the_largest_targets_of_very_many_classes():
    labels = SparseLabels(np.int32([[2**30, 1], [7, -1]]), np.float32([[0.5, 0.25], [1, 0]]), np.float32([0.25, 0]), 2**31)
    classes, probs = labels.topk(3)
    assert classes.tolist() == [[2**30, 1, 0], [7, 0, 1]]
    assert probs[:, :2].tolist() == [[0.5, 0.25], [1, 0]]


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=2,tail=3", "marginal_smoothing:k=2", "dense"])
def test_the_largest_targets_are_at_most_as_many_as_classes(codec):
    labels = through(random_probs(np.random.default_rng(3), 5, 9), codec)
    with pytest.raises(ArgumentError, match="k: expected at most 9, the number of classes, got 10"):
        labels.topk(10)
    for wrong in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="k: expected an integer of at least 1"):
            labels.topk(wrong)
    assert [array.shape for array in labels[:0].topk(2)] == [(0, 2), (0, 2)]


def test_the_most_probable_class_is_the_teachers_even_if_rounding_made_targets_equal():
    labels = through(np.float32([[0.1, 0.44999, 0.45001]]), "marginal_smoothing:k=3,values=f16")
    assert labels.top1.tolist() == [2]
    assert labels.topk(1)[0].tolist() == [[1]]


def test_features_have_no_largest_targets():
    with pytest.raises(StateError, match="features, not probabilities"):
        DenseLabels(np.float32([[1, 2]]), "features").topk(1)
