"""From probabilities to integers and back: which classes are kept, how values and tails become codes (sparse-v1.md, sections 3 to 6)."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import reference

from softlabel_codec import ArgumentError, Codec, CorruptError
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.quantise.dense import bits_to_vectors, vectors_to_bits
from softlabel_codec.quantise.gain import select_by_gain
from softlabel_codec.quantise.selection import Selection, check_left_out, check_probs, check_topk, select_from_probs, select_from_topk
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.quantise.tails import TailCodes, concatenate_tails, dequantise_tails, left_out_of, quantise_tail
from softlabel_codec.quantise.values import value_encoding


def refused(error, message):
    """Expect an error that says this."""
    return pytest.raises(error, match=re.escape(message))


def encoding(codec, num_classes=1000):
    return value_encoding(Codec.parse(codec), num_classes)


def selection(indices, values, num_classes=1000):
    """Return a selection whose remainder is what the values leave of 1, 0 if all classes are kept."""
    indices, values = np.array(indices), np.array(values, np.float32)
    left = np.maximum(0, 1 - values.sum(axis=1, dtype=np.float64))
    return Selection(indices, values, np.where((indices >= 0).sum(axis=1) == num_classes, 0, left))


# Which classes are kept (sparse-v1.md, sections 1 and 5)


def kept(probs, codec):
    found = select_from_probs(np.array(probs, np.float32), Codec.parse(codec))
    assert found.indices.dtype == np.int64
    assert found.values.dtype == np.float32
    assert found.remainder.dtype == np.float64
    return found.indices.tolist(), found.values.tolist(), found.remainder.tolist()


def test_the_top_class():
    for codec in ("hard", "smoothing", "marginal_smoothing:k=1"):
        assert kept([[0.25, 0.5, 0.25], [0.5, 0.0, 0.5]], codec) == ([[1], [0]], [[0.5], [0.5]], [0.5, 0.5])


def test_the_k_most_probable_classes():
    probs = [[0.125, 0.5, 0.125, 0.25], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]]
    indices = [[1, 3], [0, 1], [3, 0]]
    assert kept(probs, "marginal_smoothing:k=2") == (indices, [[0.5, 0.25], [0.25, 0.25], [1.0, 0.0]], [0.25, 0.5, 0.0])


def test_all_classes_leave_exactly_nothing():
    probs = [[0.1, 0.2, 0.3, 0.39999]]
    assert kept(probs, "marginal_smoothing:k=4")[0] == [[3, 2, 1, 0]]
    assert kept(probs, "marginal_smoothing:k=4")[2] == [0.0]
    assert kept(probs, "marginal_smoothing:t=0.01")[2] == [0.0]
    assert kept(probs, "marginal_smoothing:k=3")[2][0] > 0.09


def test_classes_above_a_threshold():
    """A class at the threshold is kept, the top class always, and rows are padded with -1 and 0."""
    probs = [[0.125, 0.5, 0.125, 0.25], [0.0, 0.25, 0.5, 0.25], [0.0625] * 4, [0.125, 0.125, 0.75, 0.0]]
    indices, values, remainder = kept(probs, "marginal_smoothing:t=0.25")
    assert indices == [[1, 3, -1], [2, 1, 3], [0, -1, -1], [2, -1, -1]]
    assert values == [[0.5, 0.25, 0], [0.5, 0.25, 0.25], [0.0625, 0, 0], [0.75, 0, 0]]
    assert remainder == [0.25, 0.0, 0.9375, 0.25]


def test_a_threshold_is_compared_as_binary32():
    assert kept([[0.1, 0.8, 0.1]], "marginal_smoothing:t=0.1")[0] == [[1, 0, 2]]


def test_negative_zeros_become_zeros():
    values = kept([[1.0, -0.0, -0.0]], "marginal_smoothing:k=2")[1]
    assert math.copysign(1, values[0][1]) == 1


def test_sums_above_1_leave_nothing():
    assert kept([[0.5, 0.5004, 0.0]], "marginal_smoothing:k=2")[2] == [0.0]


# The same from top-K


def kept_of(indices, values, codec, num_classes=10):
    found = select_from_topk(np.array(indices, np.int32), np.array(values, np.float64), Codec.parse(codec), num_classes)
    assert (found.indices.dtype, found.values.dtype, found.remainder.dtype) == (np.int64, np.float32, np.float64)
    return found.indices.tolist(), found.values.tolist(), found.remainder.tolist()


def test_top_k_in_any_order():
    indices, values = [[7, 2, 5], [1, 0, 3]], [[0.25, 0.125, 0.5], [0.25, 0.25, 0.25]]
    assert kept_of(indices, values, "marginal_smoothing:k=2") == ([[5, 7], [0, 1]], [[0.5, 0.25], [0.25, 0.25]], [0.25, 0.5])
    assert kept_of(indices, values, "marginal_smoothing:k=3")[0] == [[5, 7, 2], [0, 1, 3]]
    assert kept_of(indices, values, "smoothing") == ([[5], [0]], [[0.5], [0.25]], [0.5, 0.75])
    assert kept_of([[1, 2]], [[0.25, 0.5]], "marginal_smoothing:k=2")[0] == [[2, 1]]
    assert kept_of([[0, 5, 3]], [[0.25, 0.25, 0.25]], "marginal_smoothing:k=3")[0] == [[0, 3, 5]]


def test_top_k_in_order_already():
    assert kept_of([[5, 7, 2]], [[0.5, 0.25, 0.25]], "marginal_smoothing:k=3")[0] == [[5, 2, 7]]
    assert kept_of([[5, 2, 7]], [[0.5, 0.25, 0.25]], "marginal_smoothing:k=3")[0] == [[5, 2, 7]]
    assert kept_of([[5, 2, 7]], [[0.5, 0.25, 0.125]], "marginal_smoothing:k=3") == ([[5, 2, 7]], [[0.5, 0.25, 0.125]], [0.125])
    assert kept_of([[9]], [[0.5]], "hard") == ([[9]], [[0.5]], [0.5])


def test_top_k_above_a_threshold():
    indices, values = [[5, 2, 7], [1, 0, 3], [4, 6, 8]], [[0.5, 0.25, 0.125], [0.125, 0.0625, 0], [0.375, 0.375, 0.125]]
    found = kept_of(indices, values, "marginal_smoothing:t=0.25")
    assert found == ([[5, 2], [1, -1], [4, 6]], [[0.5, 0.25], [0.125, 0.0], [0.375, 0.375]], [0.25, 0.875, 0.25])


def test_top_k_that_may_be_incomplete():
    message = "values: row 1: the 2 given classes all have p >= t=0.25, so more may be missing: pass more classes"
    with refused(ArgumentError, message):
        kept_of([[1, 2], [3, 4]], [[0.5, 0.125], [0.375, 0.25]], "marginal_smoothing:t=0.25")


def test_top_k_that_cannot_be_incomplete():
    """All classes are there, or so many that more of them would sum to more than 1."""
    assert kept_of([[1, 0]], [[0.5, 0.5]], "marginal_smoothing:t=0.25", num_classes=2)[0] == [[0, 1]]
    assert kept_of([[1, 2, 3]], [[0.5, 0.25, 0.25]], "marginal_smoothing:t=0.2", num_classes=3)[0] == [[1, 2, 3]]
    assert kept_of([[1, 2, 3, 4]], [[0.255] * 4], "marginal_smoothing:t=0.251", num_classes=9)[0] == [[1, 2, 3, 4]]
    with refused(
        ArgumentError, "values: row 0: the 4 given classes all have p >= t=0.25025, so more may be missing: pass more classes"
    ):  # which sum to 1.001
        kept_of([[1, 2, 3, 4]], [[0.255] * 4], "marginal_smoothing:t=0.25025", num_classes=9)


def test_fewer_classes_than_the_codec_keeps():
    with refused(ArgumentError, "codec 'marginal_smoothing:k=3': expected at least 3 classes per crop, got 2"):
        kept_of([[1, 2]], [[0.5, 0.25]], "marginal_smoothing:k=3")


# What a caller may pass


NOT_1 = "expected probabilities that sum to 1 (within 0.001), got a sum of {}. Pass softmax(logits), not logits."


def test_probabilities():
    probs = [[0.5, 0.5], [1.0, 0.0]]
    assert check_probs(probs, 2, 2).tolist() == probs
    assert check_probs(np.array(probs, np.float16), 2, 2).dtype == np.float16
    for total in (0.9991, 1.0009):
        check_probs([[total - 0.5, 0.5]], 1, 2)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([[1, 0], [1, 0]], "probs: expected floats of shape (2, 2), got int64 of shape (2, 2)"),
        ([[1.0, 0.0]], "probs: expected floats of shape (2, 2), got float64 of shape (1, 2)"),
        ([[0.5, 0.5], [math.nan, 1.0]], "probs: row 1: holds NaN or infinity"),
        ([[math.inf, 0.5], [0.0, 1.0]], "probs: row 0: holds NaN or infinity"),
        ([[0.5, 0.5], [1.5, -0.5]], "probs: row 1: holds a negative probability"),
        ([[1.0, 0.0], [0.998, 0.0]], "probs: row 1: " + NOT_1.format("0.998")),
        ([[7.0, 1.0], [1.0, 0.0]], "probs: row 0: " + NOT_1.format("8")),
        ([[1.0, 0.0], [1.0, 0.0011]], "probs: row 1: " + NOT_1.format("1.0011")),
    ],
)
def test_probabilities_that_are_refused(probs, message):
    with refused(ArgumentError, message):
        check_probs(probs, 2, 2)


def test_probabilities_are_summed_in_binary64():
    sum_of_1_00122 = np.array([[0.5009765625, 0.25, 0.250244140625]], np.float16)  # as binary16 it is less than 1.001
    with refused(ArgumentError, "probs: row 0: " + NOT_1.format("1.00122")):
        check_probs(sum_of_1_00122, 1, 3)
    with refused(ArgumentError, "values: row 0: expected probabilities that sum to at most 1 and more than 0"):
        check_topk([[0, 1, 2]], sum_of_1_00122, 1, 3)


def test_arrays_that_are_none():
    with pytest.raises(ArgumentError, match="^probs: expected an array, got list that numpy cannot convert: "):
        check_probs([[1.0], [0.5, 0.5]], 2, 2)
    with pytest.raises(ArgumentError, match="^indices: expected an array, got list that numpy cannot convert: "):
        check_topk([[1], [1, 2]], [[0.5], [0.5]], 2, 3)


def test_top_k():
    for dtype in (np.uint8, np.int64):
        indices, values = check_topk(np.array([[0, 9]], dtype), [[0.5, 0.5]], 1, 10)
        assert (indices.tolist(), values.tolist()) == ([[0, 9]], [[0.5, 0.5]])
    check_topk([[3]], [[1.001]], 1, 10)
    check_topk([[3]], [[1e-9]], 1, 10)
    check_topk(np.arange(65535)[None], np.full((1, 65535), 1 / 65535), 1, 65536)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([[0.0]], [[0.5]], "indices: expected integers of shape (1, K), got float64 of shape (1, 1)"),
        ([0], [[0.5]], "indices: expected integers of shape (1, K), got int64 of shape (1,)"),
        ([[0], [1]], [[0.5], [0.5]], "indices: expected integers of shape (1, K), got int64 of shape (2, 1)"),
        (np.zeros((1, 0), int), [[]], "indices: expected integers of shape (1, K), got int64 of shape (1, 0)"),
        (np.arange(65536)[None], [[0.5]], "indices: expected integers of shape (1, K), got int64 of shape (1, 65536)"),
        ([[0, 1]], [[0.5]], "values: expected floats of shape (1, 2), got float64 of shape (1, 1)"),
        ([[0, 10]], [[0.5, 0.5]], "indices: row 0: holds a class outside 0..9"),
        ([[-1, 0]], [[0.5, 0.5]], "indices: row 0: holds a class outside 0..9"),
        ([[4, 3, 4]], [[0.5, 0.25, 0.25]], "indices: row 0: holds a class twice"),
        ([[4, 3]], [[0.5, math.nan]], "values: row 0: holds NaN or infinity"),
        ([[4, 3]], [[0.5, -0.25]], "values: row 0: holds a negative probability"),
        ([[4, 3]], [[0.5, 0.502]], "values: row 0: expected probabilities that sum to at most 1 and more than 0"),
        ([[4, 3]], [[0.0, 0.0]], "values: row 0: expected probabilities that sum to at most 1 and more than 0"),
    ],
)
def test_top_k_that_is_refused(indices, values, message):
    with refused(ArgumentError, message):
        check_topk(indices, values, 1, 10)


def test_errors_name_the_first_bad_row():
    good, values = [[0, 1]] * 2, [[0.5, 0.25]] * 2
    for indices, message in (([[0, 10], [1, 1]], "outside 0..9"), ([[3, 3], [10, 11]], "outside 0..9"), ([[3, 3]] * 2, "twice")):
        with pytest.raises(ArgumentError, match=message):
            check_topk(good + indices, values * 2, 4, 10)
    for row, wrong, problem in (
        ([0, -1], [0.5, 0.25], "indices: row 2: holds a class outside 0..9"),
        ([0, 10], [0.5, 0.25], "indices: row 2: holds a class outside 0..9"),
        ([0, 1], [0.5, -0.25], "values: row 2: holds a negative probability"),
        ([0, 1], [0.5, math.nan], "values: row 2: holds NaN or infinity"),
        ([0, 1], [0.5, 0.75], "values: row 2: expected probabilities that sum to at most 1 and more than 0"),
    ):
        with refused(ArgumentError, problem):
            check_topk([*good, row], [*values, wrong], 3, 10)
    with refused(ArgumentError, "indices: row 2: holds a class twice"):
        check_topk([*good, [3, 3], [4, 4]], values * 2, 4, 10)


def test_what_was_left_out():
    assert check_left_out(np.array([0.5, 0], np.float32), 2).dtype == np.float64
    for wrong in ([0.5, -0.1], [math.inf, 0.5], [math.nan, 0.5]):
        with refused(ArgumentError, "left_out: expected sums of probabilities, finite and not negative"):
            check_left_out(wrong, 2)
    with refused(ArgumentError, "left_out: expected floats of shape (2,), got float64 of shape (3,)"):
        check_left_out([0.5, 0.25, 0.0], 2)


# Values (sparse-v1.md, section 5)


def test_hard_labels_have_no_values():
    hard = encoding("hard")
    assert hard.quantise(selection([[3]], [[0.5]])) == (None, None)
    values, remainders = hard.dequantise(np.array([[3], [4]]), None, None)
    assert (values.tolist(), remainders.tolist()) == ([[1.0], [1.0]], [0.0, 0.0])
    assert values.dtype == remainders.dtype == np.float32


@pytest.mark.parametrize(("values", "one", "half", "modulus"), [("f16", 0x3C00, 0x3800, 2**16), ("f32", 0x3F800000, 0x3F000000, 2**32)])
def test_floats_count_down_from_one(values, one, half, modulus):
    floats = encoding(f"marginal_smoothing:k=3,values={values}", 4)
    codes, remainders = floats.quantise(selection([[1, 2, 3], [0, 1, 2]], [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    assert remainders is None
    assert codes.tolist() == [[one - half, one - half, one], [0, one, one]]
    assert codes.dtype == np.int64
    found, rest = floats.dequantise(np.array([[1, 2, 3], [0, 1, 2]]), codes, None)
    assert (found.tolist(), rest.tolist()) == ([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], [0.0, 0.0])
    assert found.dtype == rest.dtype == np.float32
    above_one = np.array([[modulus - 1, one, one + modulus]])  # as the sum of differences may be
    found, rest = floats.dequantise(np.array([[1, 2, 3]]), above_one, None)
    assert found[0, 0] > 1
    assert (found[0, 1:].tolist(), rest.tolist()) == ([0.0, 0.0], [0.0])


def test_floats_add_up_to_hardly_more_than_1():
    floats = encoding("marginal_smoothing:k=2,values=f32", 4)
    bits = np.float32([[0.5, 0.5 + 2.0**-8], [0.75, 0.25]])[:, ::-1].view(np.uint32).astype(np.int64)
    codes = 0x3F800000 - bits
    found, rest = floats.dequantise(np.array([[1, 2]]), codes[:1], None)
    assert (found[0].tolist(), rest.tolist()) == ([0.5 + 2.0**-8, 0.5], [0.0])
    with refused(CorruptError, "the values of a crop add up to more than 1.00391"):
        floats.dequantise(np.array([[1, 2], [1, 2]]), codes[:1] - [[1, 0], [2**24, 0]], None)


def test_floats_leave_a_remainder():
    floats = encoding("marginal_smoothing:t=0.01,values=f16", 2)
    codes, _ = floats.quantise(selection([[1, 0], [1, -1]], [[0.5, 0.25], [0.5, 0.0]], 2))
    values, rest = floats.dequantise(np.array([[1, 0], [1, -1]]), codes, None)
    assert values.tolist() == [[0.5, 0.25], [0.5, 0.0]]
    assert rest.tolist() == [0.0, 0.5]  # the first crop keeps all classes
    padding = np.array([[0x3C00 - 0x3800, 0x7777]])  # whatever stands there
    assert floats.dequantise(np.array([[1, -1]]), padding, None)[0].tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize(
    "row",
    [
        [0x3800, 0x3801, 0],  # above the one before
        [0x3800, 0, 1],
        [0, 0, 0],  # a top value of 0
        [0x8000, 0x8000, 0x8000],  # of -0
        [0xB800, 0xB801, 0xB802],  # negative
        [0x3800, 0x3400, 0xB800],
        [0x7C00, 0, 0],  # infinite
        [0x7E00, 0, 0],  # not a number
        [0x3800, 0x7E00, 0],
        [0x3800, 0x3800, 0x7E00],
    ],
)
def test_floats_that_are_no_values(row):
    floats = encoding("marginal_smoothing:k=3,values=f16")
    codes = 0x3C00 - np.array([[0x3800, 0x3800, 0], row])
    with refused(CorruptError, "the values of a crop are not finite, positive and descending"):
        floats.dequantise(np.array([[1, 2, 3], [1, 2, 3]]), codes, None)


def test_one_value_that_is_none():
    floats = encoding("smoothing:values=f16")
    for bits in (0, 0xB800, 0x7C00):
        with refused(CorruptError, "the values of a crop are not finite, positive and descending"):
            floats.dequantise(np.array([[1]]), 0x3C00 - np.array([[bits]]), None)


def test_top_values_that_round_to_zero():
    floats = encoding("smoothing:values=f16", 2**31)
    with refused(ArgumentError, "values: row 1: the largest probability, 2.5e-08, becomes 0 in float16: use values=f32"):
        floats.quantise(selection([[0], [0]], [[0.5], [2.5e-8]]))


def weights_of(step, values, remainder, **options):
    """Quantise one crop with log8 and return its value codes and its remainder code."""
    log8 = encoding(f"marginal_smoothing:k={len(values)},step={step}", **options)
    chosen = Selection(np.arange(len(values))[None], np.array([values], np.float32), np.array([remainder]))
    codes, remainders = log8.quantise(chosen)
    assert codes.dtype == remainders.dtype == np.int64
    return codes[0].tolist(), remainders[0]


def test_log8_counts_steps_below_the_top_class():
    """ln 2 is 3.47 steps of 0.2, ln 4 is 6.93, ln 8 is 10.4."""
    assert weights_of(0.2, [0.5, 0.25, 0.125], 0.125) == ([0, 3, 7], 7)
    assert weights_of(0.2, [0.5, 0.5, 0.0], 0.0) == ([0, 0, 255], 255)
    assert weights_of(0.2, [0.125, 0.0625], 0.8125) == ([0, 3], -9)
    assert weights_of(1.0, [0.5, 0.25, 0.125], 0.125) == ([0, 1, 1], 1)


@pytest.mark.parametrize(("steps", "code"), [(0.49, 0), (0.51, 1), (253.6, 254), (254.4, 254), (254.6, 255), (400, 255)])
def test_log8_stops_at_255(steps, code):
    assert weights_of(0.2, [0.9, 0.9 * math.exp(-steps * 0.2)], 0.9 * math.exp(-steps * 0.2)) == ([0, code], code)


def test_log8_refuses_what_is_flatter_than_any_teacher():
    assert weights_of(0.2, [math.exp(-23)], 1.0) == ([0], -115)
    message = "values: row 0: a largest probability of 9.2095e-11 is too small for 2^31 classes"
    with refused(ArgumentError, message):
        weights_of(0.2, [math.exp(-23.1082)], 1.0)
    with refused(ArgumentError, "values: row 0: a largest probability of 0 is too small for 2^31 classes"):
        weights_of(0.2, [0.0], 0.0)


def test_log8_names_the_row():
    log8 = encoding("smoothing")
    chosen = Selection(np.array([[0], [0]]), np.array([[0.5], [0.0]], np.float32), np.array([0.5, 1.0]))
    with pytest.raises(ArgumentError, match=r"^values: row 1: a largest probability of 0 is"):
        log8.quantise(chosen)


def log8_targets(codes, remainder, step):
    """Return values and remainder of one crop, as section 5.3 says it."""
    e = [1.0] + [0.0 if q == 255 else math.exp(-(q or 0.25) * step) for q in codes[1:]]
    rest = 0.0 if remainder == 255 else math.exp(-remainder * step)
    total = sum(e) + rest
    return [value / total for value in e], rest / total


@pytest.mark.parametrize("step", [0.04, 0.2, 1.0])
@pytest.mark.parametrize(
    ("codes", "remainder"),
    [([0, 3, 7], 7), ([0, 0, 0], 255), ([0, 1, 255], 0), ([0, 254, 254], 254), ([0, 255, 255], 255), ([0, 0, 1], -23)],
)
def test_log8_decodes_as_the_specification_says(codes, remainder, step):
    for codec in ("marginal_smoothing:k=3", "marginal_smoothing:t=0.1"):
        values, rest = encoding(f"{codec},step={step}").dequantise(np.array([[5, 6, 7]]), np.array([codes]), np.array([remainder]))
        wanted, wanted_rest = log8_targets(codes, remainder, step)
        np.testing.assert_allclose(values[0], wanted, rtol=1e-7, atol=1e-45)
        np.testing.assert_allclose(rest, [wanted_rest], rtol=1e-7, atol=1e-45)
        assert values.dtype == rest.dtype == np.float32


def test_log8_looks_at_no_padding():
    log8 = encoding("marginal_smoothing:t=0.1")
    codes, remainders = np.array([[0, 3], [0, 999]]), np.array([5, 255])
    values, rest = log8.dequantise(np.array([[5, 0], [7, -1]]), codes, remainders)
    np.testing.assert_allclose(values[0], log8_targets([0, 3], 5, 0.2)[0], rtol=1e-7)
    assert (values[1].tolist(), rest[1]) == ([1.0, 0.0], 0.0)


def test_log8_of_no_crops():
    values, rest = encoding("marginal_smoothing:k=2").dequantise(np.zeros((0, 2), int), np.zeros((0, 2), int), np.zeros(0, int))
    assert (values.shape, rest.shape) == ((0, 2), (0,))


@pytest.mark.parametrize(("step", "lowest"), [(0.2, -115), (0.5, -46), (1.0, -23), (0.04, -575), (0.7, -32)])
def test_log8_remainders_have_a_range(step, lowest):
    log8 = encoding(f"smoothing:step={step}")
    assert log8.lowest == lowest
    one, nothing = np.array([[3]]), np.zeros((1, 1), int)
    for remainder in (lowest, 255):
        log8.dequantise(one, nothing, np.array([remainder]))
    for remainder in (lowest - 1, lowest - 300, 256):
        with refused(CorruptError, "log8 code out of range"):
            log8.dequantise(one, nothing, np.array([remainder]))


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=2", "marginal_smoothing:t=0.1"])
def test_log8_codes_above_255(codec):
    with refused(CorruptError, "log8 code out of range"):
        encoding(codec).dequantise(np.array([[3, 4]]), np.array([[0, 256]]), np.array([0]))


def test_log8_of_all_classes_leaves_nothing():
    log8 = encoding("marginal_smoothing:t=0.1", 2)
    log8.dequantise(np.array([[0, 1], [1, -1]]), np.array([[0, 1], [0, 0]]), np.array([255, 7]))
    with refused(CorruptError, "a crop that keeps all classes has a remainder"):
        log8.dequantise(np.array([[0, 1], [1, -1]]), np.array([[0, 1], [0, 0]]), np.array([254, 7]))


# Dense vectors (dense-v1.md)


def test_dense_vectors():
    bits = vectors_to_bits(np.array([[0.5, 1.0], [0.0, 2.0]]), "f16")
    assert (bits.tolist(), bits.dtype) == ([[0x3800, 0x3C00], [0, 0x4000]], np.uint16)
    bits = vectors_to_bits(np.array([[0.5, -1.0]]).T[:, ::-1].T, "f32")
    assert (bits.tolist(), bits.dtype) == ([[0x3F000000, 0xBF800000]], np.uint32)
    for values, halves in (("f16", np.array([[0x3800, 0x3800]], np.uint16)), ("f32", np.array([[0x3F000000, 0x3F000000]], np.uint32))):
        found = bits_to_vectors(np.repeat(halves, 2, axis=1)[:, ::2], values, "probs")
        assert (found.tolist(), found.dtype) == ([[0.5, 0.5]], np.float32)


def test_dense_probabilities_add_up_to_1():
    for good in ([0.5, 0.5], [0.5, 0.5 + 2.0**-8], [0.5, 0.5 - 2.0**-8]):
        assert bits_to_vectors(np.float32([good]).view(np.uint32), "f32", "probs").tolist() == [good]
    for wrong in ([0.5, 0.6], [0.5, 0.4], [0, 0], [1e30, 0]):
        with refused(CorruptError, "the probabilities of a crop do not add up to 1"):
            bits_to_vectors(np.float32([wrong]).view(np.uint32), "f32", "probs")
        assert bits_to_vectors(np.float32([wrong]).view(np.uint32), "f32", "logits").tolist() == [list(np.float32(wrong))]


def test_dense_vectors_beyond_their_range():
    for wrong in (65520.0, math.nan, -math.inf):
        with refused(ArgumentError, "vectors: row 1: expected finite numbers within the range of f16"):
            vectors_to_bits(np.array([[1.0, 65519.0], [1.0, wrong]]), "f16")


@pytest.mark.parametrize("content", ["probs", "logits", "features"])
def test_dense_vectors_that_are_refused(content):
    bits = np.array([[0x3800, 0xB800]], np.uint16)
    if content == "probs":
        with refused(CorruptError, "probs of a crop are not finite and positive"):
            bits_to_vectors(bits, "f16", content)
    else:
        assert bits_to_vectors(bits, "f16", content).tolist() == [[0.5, -0.5]]
    with refused(CorruptError, f"{content} of a crop are not finite{' and positive' if content == 'probs' else ''}"):
        bits_to_vectors(np.array([[0x7C00, 0]], np.uint16), "f16", content)
    assert bits_to_vectors(np.array([[0x3C00, 0x8000]], np.uint16), "f16", content).tolist() == [[1, 0]]


# Tails (sparse-v1.md, section 6)


def test_what_crops_leave_out_of_each_class():
    probs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32)
    chosen = Selection(np.array([[0, -1], [1, 2]]), np.array([[0.5, 0], [0.5, 0.25]], np.float32), np.array([0.5, 0.25]))
    left_out = left_out_of(probs, chosen)
    assert (left_out.tolist(), left_out.dtype) == ([0.25, 0.25, 0.25], np.float64)


def test_little_that_many_crops_leave_out_adds_up():
    probs = np.array([[1, 0]] + [[1e-8, 1]] * 1000, np.float32)
    chosen = Selection(np.array([[0]] + [[1]] * 1000), np.ones((1001, 1), np.float32), np.zeros(1001))
    np.testing.assert_allclose(left_out_of(probs, chosen), [1e-5, 0], rtol=1e-6)


def test_rounding_leaves_nothing_negative_out():
    probs = np.array([[0.1, 0.9, 0.0]] * 3, np.float32)
    chosen = Selection(np.array([[1]] * 3), np.array([[0.9001]] * 3, np.float32), np.array([0.1] * 3))
    assert left_out_of(probs, chosen)[1] == 0


def tail_of(left_out, indices, remainder, tail):
    chosen = SimpleNamespace(indices=np.array(indices), remainder=np.array(remainder, np.float64))
    codes = quantise_tail(np.array(left_out, np.float64), chosen, tail)
    assert all(array.dtype == np.int64 for array in codes)
    return [array.tolist() for array in codes]


def test_a_tail():
    """Three crops of remainder 0.5: w is what is left out of a class divided by the remainders of the crops that do not keep it."""
    indices, remainder = [[0], [1], [0]], [0.5, 0.5, 0.5]
    left_out = [0.25, 0.25, 0.375, 0.125, 0.0]  # w: 0.25 / 0.5, 0.25 / 1, 0.375 / 1.5, 0.125 / 1.5, 0
    # ln(0.5 / 0.25) / 0.5 is 1.39, ln(0.5 / 0.0833) / 0.5 is 3.58; floors: mean of what is not listed
    assert tail_of(left_out, indices, remainder, 3) == [[[0, 1, 2]], [[0, 1, 1]], [round(math.log(0.5 / (0.125 / 1.5 / 2)) / 0.5)]]
    assert tail_of(left_out, indices, remainder, 2) == [[[0, 1]], [[0, 1]], [round(math.log(0.5 / ((0.25 + 0.125 / 1.5) / 3)) / 0.5)]]
    assert tail_of(left_out, indices, remainder, 4) == [[[0, 1, 2, 3]], [[0, 1, 1, 4]], [255]]
    assert tail_of(left_out, indices, remainder, 5) == [[[0, 1, 2, 3]], [[0, 1, 1, 4]], [255]]


def test_classes_of_a_tail_ascend():
    assert tail_of([0.0625, 0.25, 0.5, 0.1875], [[0]], [1.0], 3) == [[[1, 2, 3]], [[1, 0, 2]], [255]]
    assert tail_of([0.5, 0.125, 0.125, 0.125], [[0]], [1.0], 1) == [[[1]], [[0]], [round(math.log(0.125 * 3 / 0.25) / 0.5)]]


def test_a_floor_as_high_as_the_listed_classes():
    assert tail_of([0.25, 0.25, 0.5], [[0], [1]], [0.5, 0.5], 1) == [[[0]], [[0]], [0]]


def test_of_many_equal_classes_the_first_are_listed():
    assert tail_of([0.0] + [0.25] * 40 + [0.5], [[0]], [1.0], 5)[0] == [[1, 2, 3, 4, 41]]


def test_a_class_that_every_crop_keeps_has_no_weight():
    assert tail_of([0.5, 0.25, 0.25], [[0], [0]], [0.25, 0.25], 3) == [[[1, 2]], [[0, 0]], [255]]


def test_remainders_of_rounding_give_no_weight():
    assert tail_of([1e-9, 0.5], [[1], [0]], [1e-9, 1.0], 2) == [[[1]], [[0]], [255]]
    assert tail_of([1e-8, 0.5], [[1], [0]], [1e-8, 1.0], 2) == [[[0, 1]], [[0, 1]], [255]]
    assert tail_of([0.5, 1e-9], [[1, -1], [1, -1]], [1.0, 1.0], 2) == [[[0]], [[0]], [255]]


def test_weights_that_are_too_small_are_not_listed():
    """254.4 levels down a class is listed, 254.6 levels down it has no weight, and neither has the floor."""
    for levels, wanted in ((254.4, [[[1, 2]], [[0, 254]], [255]]), (254.6, [[[1]], [[0]], [255]])):
        assert tail_of([0.0, 0.5, 0.5 * math.exp(-levels * 0.5)], [[0]], [1.0], 2) == wanted
    for levels, floor in ((252.8, 254), (253.0, 254), (253.3, 255), (400, 255)):  # the mean of two is ln 2 / 0.5 = 1.39 further down
        assert tail_of([0.0, 0.5, 0.5 * math.exp(-levels * 0.5)], [[0]], [1.0], 1) == [[[1]], [[0]], [floor]]


def test_an_image_that_leaves_nothing_out():
    assert tail_of([0.0, 0.0], [[0], [1]], [0.0, 0.0], 2) == [[[-1]], [[0]], [255]]


def test_tails_become_weights():
    codes = TailCodes(np.array([[1, 3], [2, -1]]), np.array([[0, 4], [255, 77]]) * [[1, 1], [0, 1]], np.array([2, 255]))
    tails = dequantise_tails(codes, 5)
    total = 1 + math.exp(-2) + 3 * math.exp(-1)
    np.testing.assert_allclose(tails.weights, [[1 / total, math.exp(-2) / total], [1, 0]], rtol=1e-7)
    np.testing.assert_allclose(tails.floor, [math.exp(-1) / total, 0], rtol=1e-7)
    np.testing.assert_allclose(tails.dense(5).sum(axis=1), 1, rtol=1e-6)
    assert tails.classes.tolist() == [[1, 3], [2, -1]]
    assert [array.dtype for array in (tails.classes, tails.weights, tails.floor)] == [np.int32, np.float32, np.float32]


def test_a_tail_without_any_weight():
    tails = dequantise_tails(TailCodes(np.array([[-1]]), np.array([[0]]), np.array([255])), 5)
    assert tails.dense(5).tolist() == [[0.0] * 5]


def test_an_even_tail():
    tails = dequantise_tails(TailCodes(np.array([[-1]]), np.array([[0]]), np.array([254])), 5)
    np.testing.assert_allclose(tails.dense(5), [[0.2] * 5], rtol=1e-6)


def test_tails_that_are_refused():
    for level in (255, 256):
        with refused(CorruptError, "a class of a tail has no weight"):
            dequantise_tails(TailCodes(np.array([[1, 2]]), np.array([[0, level]]), np.array([0])), 5)
    for classes in ([1, 1, -1], [2, 1, -1], [1, 2, 2]):
        with refused(CorruptError, "a class appears twice in a tail"):
            dequantise_tails(TailCodes(np.array([[1, 3, 4], classes]), np.zeros((2, 3), int), np.array([0, 0])), 5)


def test_tails_side_by_side():
    narrow = TailCodes(np.array([[4]]), np.array([[7]]), np.array([9]))
    wide = TailCodes(np.array([[1, 2, 3]]), np.array([[4, 5, 6]]), np.array([8]))
    for parts, classes, levels, floors in (
        ((narrow, wide), [[4, -1, -1], [1, 2, 3]], [[7, 0, 0], [4, 5, 6]], [9, 8]),
        ((wide, narrow, narrow), [[1, 2, 3], [4, -1, -1], [4, -1, -1]], [[4, 5, 6], [7, 0, 0], [7, 0, 0]], [8, 9, 9]),
    ):
        assert [array.tolist() for array in concatenate_tails(parts)] == [classes, levels, floors]


# All of it together


PROBS = np.array([[0.5, 0.25, 0.125, 0.125], [0.0, 0.25, 0.75, 0.0]], np.float32)


def quantised(codec, labels, num_crops=2):
    return label_quantiser(Codec.parse(codec), 4).quantise(labels, num_crops)


def test_codes_of_probabilities():
    codes = quantised("marginal_smoothing:k=2", {"probs": PROBS})
    assert (codes.indices.tolist(), codes.values.tolist(), codes.remainders.tolist()) == ([[0, 1], [2, 1]], [[0, 3], [0, 5]], [3, 255])
    assert (codes.tails, codes.tail_of) == (None, None)
    for probs in (PROBS.astype(np.float64), PROBS.astype(np.float16), PROBS.tolist()):
        same = quantised("marginal_smoothing:k=2", {"probs": probs})
        assert same.indices.tolist() == codes.indices.tolist()


def test_probabilities_are_looked_at_as_binary32():
    assert quantised("marginal_smoothing:t=0.1", {"probs": [[0.1, 0.8, 0.1, 0.0]]}, 1).indices.tolist() == [[1, 0, 2]]


def test_codes_of_top_k():
    codes = quantised("marginal_smoothing:k=2", {"indices": [[1, 0], [2, 1]], "values": [[0.25, 0.5], [0.75, 0.25]]})
    assert (codes.indices.tolist(), codes.values.tolist(), codes.remainders.tolist()) == ([[0, 1], [2, 1]], [[0, 3], [0, 5]], [3, 255])
    assert (codes.tails, codes.tail_of) == (None, None)


def test_codes_of_top_k_with_a_tail():
    labels = {"indices": [[0], [2]], "values": [[0.5], [0.75]], "left_out": [0.0, 0.5, 0.125, 0.125]}
    codes = quantised("marginal_smoothing:k=1,tail=2", labels)
    assert (codes.indices.tolist(), codes.tail_of.tolist()) == ([[0], [2]], [0, 0])
    assert [array.tolist() for array in codes.tails] == [[[1, 2]], [[0, 2]], [4]]
    from_probs = quantised("marginal_smoothing:k=1,tail=2", {"probs": PROBS})
    assert [array.tolist() for array in from_probs.tails] == [[[1, 2]], [[0, 2]], [4]]
    assert from_probs.tail_of.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("codec", "labels", "message"),
    [
        ("hard", {}, "codec 'hard': expected probs, or indices and values, got no labels"),
        ("hard", {"vectors": 0}, "codec 'hard': expected probs, or indices and values, got vectors"),
        ("hard", {"probs": 0, "indices": 0}, "codec 'hard': expected probs, or indices and values, got probs and indices"),
        (
            "hard",
            {"indices": 0, "values": 0, "left_out": 0},
            "codec 'hard': expected probs, or indices and values, got indices and values and left_out",
        ),
        (
            "marginal_smoothing:k=1,tail=2",
            {"indices": 0, "values": 0},
            "codec 'marginal_smoothing:k=1,tail=2': expected probs, or indices and values and left_out, got indices and values",
        ),
        ("dense", {"vectors": 0}, "codec 'dense': expected probs, got vectors"),
        ("dense", {}, "codec 'dense': expected probs, got no labels"),
        ("dense:content=logits", {"probs": 0}, "codec 'dense:content=logits': expected vectors, got probs"),
        ("dense:content=logits", {"vectors": [[1.0]]}, "vectors: expected floats of shape (2, 4), got float64 of shape (1, 1)"),
        ("dense", {"probs": [[1.0] * 4] * 2}, "probs: row 0: " + NOT_1.format("4")),
        ("hard", {"probs": [[1.0]]}, "probs: expected floats of shape (2, 4), got float64 of shape (1, 1)"),
        ("hard", {"indices": [[4], [0]], "values": [[0.5], [0.5]]}, "indices: row 0: holds a class outside 0..3"),
        ("hard", {"indices": [[3]], "values": [[0.5]]}, "indices: expected integers of shape (2, K), got int64 of shape (1, 1)"),
    ],
)
def test_labels_that_are_refused(codec, labels, message):
    with refused(ArgumentError, message):
        quantised(codec, labels)


def test_labels_come_back():
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:k=2,values=f32"), 4)
    labels = quantiser.dequantise(quantiser.quantise({"probs": PROBS}, 2), "renorm")
    assert (labels.indices.tolist(), labels.values.tolist()) == ([[0, 1], [2, 1]], [[0.5, 0.25], [0.75, 0.25]])
    assert (labels.remainder.tolist(), labels.num_classes, labels.policy) == ([0.25, 0.0], 4, "renorm")
    assert (labels.tails, labels.tail_of, labels.indices.dtype) == (None, None, np.int32)
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:k=1,tail=1"), 4)
    labels = quantiser.dequantise(quantiser.quantise({"probs": PROBS}, 2), "tail")
    assert (labels.policy, labels.tails.classes.tolist(), labels.tail_of.tolist()) == ("tail", [[1]], [0, 0])
    with refused(CorruptError, "probs of a crop are not finite and positive"):
        label_quantiser(Codec.parse("dense:f16"), 4).dequantise(np.array([[0xB800, 0, 0, 0]], np.uint16), "uniform")
    dense = label_quantiser(Codec.parse("dense:f16,content=logits"), 4)
    vectors = dense.dequantise(dense.quantise({"vectors": PROBS - 1}, 2), "uniform")
    assert (vectors.vectors.tolist(), vectors.content) == ((PROBS - 1).tolist(), "logits")


def test_how_much_codes_hold():
    codes = quantised("marginal_smoothing:t=0.2", {"probs": PROBS})
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:t=0.2"), 4)
    assert quantiser.num_entries(codes) == (4, 2, 0)
    uneven = SparseCodes(np.array([[1, 2, 3], [0, -1, -1]]), np.zeros((2, 3), int), np.zeros(2, int))
    assert quantiser.num_entries(uneven) == (4, 3, 0)
    assert quantiser.expected_bytes(uneven) == 4 * 2 + 2
    assert quantiser.most_bytes(uneven) == 8 * 6
    tails = uneven._replace(tails=TailCodes(np.array([[1, 2]]), np.zeros((1, 2), int), np.zeros(1, int)))
    assert quantiser.num_entries(tails) == (4, 3, 2)
    assert quantiser.expected_bytes(tails) == 4 * 2 + 2 + 2 * 2
    assert quantiser.most_bytes(tails) == 8 * 6 + 8 * 2
    hard = label_quantiser(Codec.parse("hard"), 4)
    assert hard.expected_bytes(hard.quantise({"probs": PROBS}, 2)) == 2 * 1 + 2
    dense = label_quantiser(Codec.parse("dense:f16"), 4)
    bits = dense.quantise({"probs": PROBS}, 2)
    assert (dense.num_entries(bits), dense.expected_bytes(bits), dense.most_bytes(bits)) == ((0, 0, 0), 16, 16)
    assert label_quantiser(Codec.parse("dense"), 4).most_bytes(bits) == 32


def test_codes_of_several_images():
    concatenate = label_quantiser(Codec.parse("marginal_smoothing:k=2"), 5).concatenate
    first = SparseCodes(np.array([[1, 2], [0, -1]]), np.array([[0, 4], [0, 9]]), np.array([5, 6]))
    second = SparseCodes(np.array([[3]]), np.array([[0]]), np.array([7]))
    for parts, indices, values, remainders in (
        ([first, second], [[1, 2], [0, -1], [3, -1]], [[0, 4], [0, 9], [0, 0]], [5, 6, 7]),
        ([second, first], [[3, -1], [1, 2], [0, -1]], [[0, 0], [0, 4], [0, 9]], [7, 5, 6]),
    ):
        joined = concatenate(parts)
        assert (joined.indices.tolist(), joined.values.tolist(), joined.remainders.tolist()) == (indices, values, remainders)
        assert (joined.tails, joined.tail_of) == (None, None)
    assert concatenate([first]) is first
    bare = concatenate([part._replace(values=None, remainders=None) for part in (first, second)])
    assert (bare.values, bare.remainders) == (None, None)
    joined = label_quantiser(Codec.parse("dense"), 2).concatenate([np.array([[1, 2]]), np.array([[3, 4]])])
    np.testing.assert_array_equal(joined, [[1, 2], [3, 4]])


def test_tails_of_several_images():
    tail = TailCodes(np.array([[4]]), np.array([[7]]), np.array([9]))
    parts = [
        SparseCodes(np.array([[1], [0]]), None, None, tail, np.array([0, 0])),
        SparseCodes(np.array([[3]]), None, None, tail._replace(floor=np.array([8])), np.array([0])),
    ]
    joined = label_quantiser(Codec.parse("marginal_smoothing:k=1,tail=1"), 5).concatenate(parts)
    assert (joined.tail_of.tolist(), joined.tails.floor.tolist()) == ([0, 0, 1], [9, 8])


# What is kept, and listed, if it gains enough


def soft(rng, num_crops, num_classes):
    """Return probabilities of crops that are much alike."""
    logits = rng.normal(0, 2, num_classes) + rng.normal(0, 1, (num_crops, num_classes))
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_classes_are_kept_and_listed_by_gain(seed):
    rng = np.random.default_rng(seed)
    probs = soft(rng, int(rng.integers(1, 9)), int(rng.integers(3, 30)))
    gain, tail = float(rng.choice([0.002, 0.01, 0.05])), int(rng.integers(1, 31))
    chosen, codes = select_by_gain(probs, gain, tail)
    wanted, listed = reference.kept_by_gain(probs.astype(np.float64).tolist(), gain, tail)
    assert [{c for c in row if c >= 0} for row in chosen.indices.tolist()] == wanted
    for row in chosen.values.tolist():
        assert sorted(row, reverse=True) == row
    always = set.intersection(*wanted) if len(probs) >= 4 else set()
    found = {c: level for c, level in zip(codes.classes[0].tolist(), codes.levels[0].tolist(), strict=True) if c >= 0}
    assert len(found) <= tail
    assert set(found) <= always | set(listed)
    assert all(found[c] == 0 for c in always & set(found))
    if len(always) + len(listed) <= tail:
        assert set(found) == always | set(listed)


def test_naming_by_gain_is_more_faithful_for_its_entries():
    """As many entries chosen by gain lose less than those above a threshold."""
    rng = np.random.default_rng(0)
    lost: dict[str, list[float]] = {"t=0.02": [], "gain=0.004": []}
    entries = dict.fromkeys(lost, 0)
    for _ in range(20):
        probs = soft(rng, 10, 60)
        for option, of_option in lost.items():
            quantiser = label_quantiser(Codec.parse(f"marginal_smoothing:{option},tail=60"), 60)
            codes = quantiser.quantise({"probs": probs}, 10)
            targets = quantiser.dequantise(codes, "tail").dense()
            of_option.append(float((probs * np.log(probs / targets)).sum(axis=1).mean()))
            entries[option] += np.count_nonzero(codes.indices >= 0) + np.count_nonzero(codes.tails.classes >= 0)
    assert entries["gain=0.004"] < entries["t=0.02"]
    assert np.mean(lost["gain=0.004"]) < np.mean(lost["t=0.02"])


def test_gain_is_not_known_of_some_classes():
    labels = {"indices": np.array([[0, 1]]), "values": np.array([[0.5, 0.25]], np.float32), "left_out": np.zeros(4)}
    message = "expected probs, got indices and values and left_out. Which classes gain enough is not known of the most probable ones alone"
    with refused(ArgumentError, f"codec 'marginal_smoothing:gain=0.01,tail=2': {message}"):
        quantised("marginal_smoothing:gain=0.01,tail=2", labels, 1)


@pytest.mark.parametrize("probs", [[[1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]] * 5, [[1 / 3] * 3] * 5, [[0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]] * 3])
def test_gain_where_little_or_nothing_is_left(probs):
    probs = np.array(probs, np.float32)
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:gain=0.01,tail=2"), probs.shape[1])
    targets = quantiser.dequantise(quantiser.quantise({"probs": probs}, len(probs)), "tail").dense()
    np.testing.assert_allclose(targets, probs, atol=0.06)
