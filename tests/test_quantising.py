"""From probabilities to integers and back: which classes are kept, how values and tails become codes (sparse-v1.md, sections 3 to 6).

Fields too (field-v1.md, sections 3 to 5).
"""

from __future__ import annotations

import math
import re
import zlib
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from blocks_by_hand import FIELD, FIELD_OF_FRACTIONS
from reference import field_features, field_target, kept_by_gain, mean_kl

from softlabel_codec import ArgumentError, Codec, CorruptError
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.quantise.dense import bits_to_vectors, vectors_to_bits
from softlabel_codec.quantise.field import FieldCodes, check_listed, features_of, kl_code, kl_of_codes
from softlabel_codec.quantise.full_tails import FullTailCodes, dequantise_full_tails, full_tail_of_left_out, quantise_full_tail
from softlabel_codec.quantise.gain import select_by_gain
from softlabel_codec.quantise.places import Places, edges_of, is_measured
from softlabel_codec.quantise.selection import (
    Selection,
    check_left_out,
    check_others,
    check_probs,
    check_topk,
    select_from_probs,
    select_from_topk,
    sum_small_remainders,
)
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.quantise.tails import TailCodes, concatenate_tails, dequantise_tails, left_out_of, quantise_tail
from softlabel_codec.quantise.values import value_encoding


def refused(error, message):
    """Expect an error that says this."""
    return pytest.raises(error, match="^" + re.escape(message))


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


def test_small_remainders_are_summed_up():
    """Of a crop whose top probability is rounded to 1, the rounding would be all that 1 - sum leaves of the others."""
    probs = np.float32([[1.0, 3e-9, 1e-9, 2e-12], [0.999995, 2e-6, 2e-6, 1e-6], [0.5, 0.25, 0.125, 0.125]])
    wanted = [1e-9 + 2e-12, 3e-6, 0.25]
    for given in (probs, np.ascontiguousarray(probs[:, ::-1])):
        codec = Codec.parse("marginal_smoothing:k=2")
        selection = sum_small_remainders(select_from_probs(given, codec), given)
        np.testing.assert_allclose(selection.remainder, wanted, rtol=1e-6)
    assert select_from_probs(probs, codec).remainder[0] == 0
    indices = np.array([[0, 1, 2]] * 3)
    for text in ("marginal_smoothing:k=2", "marginal_smoothing:t=0.3"):
        of_these = select_from_topk(indices, probs[:, :3], Codec.parse(text), 4, probs[:, 3].astype(np.float64))
        of_all = sum_small_remainders(select_from_probs(probs, Codec.parse(text)), probs)
        np.testing.assert_allclose(of_these.remainder, of_all.remainder, rtol=1e-12)
    every = Codec.parse("marginal_smoothing:k=4")
    assert sum_small_remainders(select_from_probs(probs, every), probs).remainder.tolist() == [0, 0, 0]


def test_what_all_other_classes_have():
    values = np.float32([[0.5, 0.25], [0.75, 0.25]])
    assert check_others(np.float32([0.25, 0]), values).dtype == np.float64
    assert check_others([0.2505, 0.0], values).tolist() == [0.2505, 0]
    for wrong in ([0.25, -1e-9], [0.252, 0.0], [0.25, np.nan], [0.0, 0.0]):
        with refused(ArgumentError, "others: row"):
            check_others(wrong, values)
    with refused(ArgumentError, "others: expected floats of shape (2,), got float64 of shape (1,)"):
        check_others([0.25], values)


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


def full_tail_of(probs, indices):
    """Return levels and slopes of the tail of all classes of crops that keep these classes."""
    probs, indices = np.array(probs, np.float32), np.array(indices)
    values = np.take_along_axis(probs, indices, axis=1)
    (codes,), _ = quantise_full_tail(probs, Selection(indices, values, 1 - values.sum(axis=1, dtype=np.float64)))
    return (codes // 8).tolist(), (codes % 8 - 4.0).tolist()


def test_a_tail_of_all_classes():
    """Where all crops have the same, levels are those of their shares, and what has no share is as far down as can be."""
    share = [1, math.exp(-1), math.exp(-1.3), math.exp(-20), 0.0]
    crop = [0.5, *(0.5 * np.array(share) / sum(share))]
    assert full_tail_of([crop] * 3, [[0]] * 3) == ([31, 0, 2, 3, 31, 31], [0] * 6)


def test_means_of_a_tail_are_of_logarithms_with_the_fourth_root_as_weight():
    """Of shares of 16/17 and 1/17: weights 2 and 1, so ln 16 * 2/3 above the smaller one; the other way round ln 16 / 3."""
    probs = [[0.6, 0.4 * 16 / 17, 0.4 / 17, 0], [0.6, 0.4 * 16 / 17, 0.4 / 17, 0], [0.6, 0.4 / 17, 0.4 * 16 / 17, 0]]
    wanted = [math.log(16) * 2 * n / (2 * n + 3 - n) for n in (2, 1)]
    assert full_tail_of(probs, [[0]] * 3)[0][1:3] == [0, round((wanted[0] - wanted[1]) / 0.5)]


def test_slopes_of_a_tail_are_changes_with_the_main_class():
    """A class whose share is proportional to exp(4 x), x being the probability of the main class, beside others whose share is not."""
    of_main = np.linspace(0.3, 0.95, 40)
    grows = np.exp(4 * of_main - 12)  # so small that the shares of the others stay
    shares = np.stack([grows, np.ones(40), 1 / grows / np.exp(24)], axis=1)
    probs = np.concatenate([of_main[:, None], (1 - of_main[:, None]) * shares / shares.sum(axis=1, keepdims=True)], axis=1)
    levels, slopes = full_tail_of(probs, [[0]] * 40)
    assert slopes == [0, 2, 0, -2]  # 4 and -4 less a quarter for uncertainty, in steps of 1.5
    assert levels[2] == 0
    steep = np.concatenate([probs[:, :1], (1 - of_main[:, None]) * np.stack([grows**3 * 1e9, 1 - grows**3 * 1e9], axis=1)], axis=1)
    assert full_tail_of(steep, [[0]] * 40)[1][1] == 3  # the most


def test_where_the_main_class_is_as_likely_in_all_crops_no_slope_is_learned():
    rng = np.random.default_rng(0)
    probs = np.concatenate([np.full((50, 1), 0.7), 0.3 * rng.dirichlet([0.5] * 9, 50)], axis=1)
    assert full_tail_of(probs, [[0]] * 50)[1] == [0] * 10


def test_the_main_class_is_the_first_of_most_crops():
    values, remainder = np.full((3, 2), 0.25, np.float32), np.full(3, 0.5)
    chosen = Selection(np.array([[2, 1], [3, 2], [3, 2]]), values, remainder)
    assert quantise_full_tail(np.full((3, 4), 0.25, np.float32), chosen).main_class.tolist() == [3]
    assert full_tail_of_left_out(np.ones(4), chosen).main_class.tolist() == [3]


def test_an_image_that_leaves_nothing_out_has_an_even_tail_of_all_classes():
    assert full_tail_of([[1, 0, 0]] * 2, [[0]] * 2) == ([0] * 3, [0] * 3)
    nothing = Selection(np.array([[0]]), np.ones((1, 1), np.float32), np.zeros(1))
    assert (full_tail_of_left_out(np.zeros(3), nothing).codes == 4).all()


def test_a_tail_of_all_classes_of_arithmetic_means():
    chosen = SimpleNamespace(indices=np.array([[0], [1], [0]]), remainder=np.array([0.5, 0.5, 0.5]))
    codes = full_tail_of_left_out(np.array([0.25, 0.25, 0.375, 0.125, 0.0]), chosen).codes
    assert codes.tolist() == [[8 * level + 4 for level in (0, 1, 1, 4, 31)]]  # as in the tail of listed classes above


def test_tails_of_all_classes_become_weights_and_slopes():
    tails = dequantise_full_tails(FullTailCodes(np.array([[0, 7, 255, 4]], np.uint8), np.array([2])))
    e = np.exp(-0.5 * (np.array([0, 0, 31, 0]) - np.array([-4, 3, 3, 0]) * -1.5))
    np.testing.assert_allclose(tails.weights, [e / e.sum()], rtol=1e-6)
    assert tails.slopes.tolist() == [[-6, 4.5, 4.5, 0]]
    assert (tails.classes.tolist(), tails.floor.tolist(), tails.main_class.tolist()) == ([[0, 1, 2, 3]], [0], [2])
    dtypes = [array.dtype for array in (tails.classes, tails.weights, tails.floor, tails.slopes, tails.main_class)]
    assert dtypes == [np.int32, *[np.float32] * 3, np.int32]


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
    logs = label_quantiser(Codec.parse("dense:log8"), 4)
    codes = logs.quantise({"probs": PROBS}, 2)
    assert (logs.num_entries(codes), logs.expected_bytes(codes)) == ((0, 0, 0), 4 + 2 + 2 + int(codes[0].counts.sum()) + 2 * 4)
    assert logs.most_bytes(codes) >= logs.expected_bytes(codes)


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
    wanted, listed = kept_by_gain(probs.astype(np.float64).tolist(), gain, tail)
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


# Fields: from edges to labels (field-v1.md, sections 3 and 4)


def random_edges(rng, count):
    """Return edges of crops: top and left, then bottom and right."""
    first = rng.uniform(0, 0.7, (count, 2))
    return np.concatenate([first, first + rng.uniform(0.05, 0.95, (count, 2)) * (1 - first)], axis=1)


def test_edges_are_fractions_of_an_image():
    crops = np.array([[1, 2, 3, 4], [0, 0, 10, 20], [9, 19, 1, 1]])
    assert edges_of(crops, 10, 20).tolist() == [[0.1, 0.1, 0.4, 0.3], [0, 0, 1, 1], [0.9, 0.95, 1, 1]]
    of_two = edges_of(crops[[1, 1]], np.array([10, 20]), np.array([20, 80]))
    assert of_two.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 0.25]]
    fractions = edges_of(np.array([[0.5, 0.25, 0.125, 0.5]], np.float16), 1, 1)
    assert (fractions.tolist(), fractions.dtype) == ([[0.5, 0.25, 0.625, 0.75]], np.float64)


def test_features_of_edges():
    """In the middle the places are 0; a size of 1.25, the sum of both sides, is 0."""
    (middle,) = features_of(np.array([[0.1875, 0.1875, 0.8125, 0.8125]]))
    assert middle.tolist() == [1, 0, 0, 0, 0, -0.75, -0.75, -0.75]
    whole, corner, flat = features_of(np.array([[0, 0, 1, 1.0], [0, 0, 0.5, 0.25], [0.25, 0, 0.75, 1.0]]))
    np.testing.assert_allclose(whole, [1, 0.75 / 0.35, 0, 0, 0, 0.75 * ((0.75 / 0.35) ** 2 - 1), -0.75, -0.75], atol=2.0**-21)
    np.testing.assert_allclose(corner[1:5], [-0.5 / 0.35, -3, -2, -1.25], atol=2.0**-21)
    np.testing.assert_allclose(corner[5:], 0.75 * (corner[1:4] ** 2 - 1), atol=3e-6)
    np.testing.assert_allclose(flat[1:5], [0.25 / 0.35, 0, 0, 2.5], atol=2.0**-21)


def test_features_are_those_of_the_specification():
    edges = random_edges(np.random.default_rng(0), 300)
    assert features_of(edges).tolist() == [field_features(row) for row in edges.tolist()]


def test_features_are_cut_at_the_edges_of_the_image_and_rounded():
    wild = np.array([[-3.0, 0.25, 7.0, 0.5], [0.5, 1e30, 0.5, -1e30], [1.5, -2.0, 3.0, -1.0]])
    assert features_of(wild).tolist() == features_of(np.clip(wild, 0, 1)).tolist()
    assert np.abs(features_of(wild)).max() < 100
    found = features_of(random_edges(np.random.default_rng(1), 50)) * 2**20
    assert (found == np.rint(found)).all()
    assert (found % 2 == 1).any()


def listed_numbers(codes, image):
    """Return level and slopes of the listed classes of an image."""
    listed = codes.classes[image] >= 0
    numbers = np.concatenate([codes.levels[image, None], codes.slopes[image]])[:, listed].T
    return dict(zip(codes.classes[image, listed].tolist(), numbers.tolist(), strict=True))


@pytest.mark.parametrize("block", [FIELD, FIELD_OF_FRACTIONS])
def test_labels_of_a_field_written_by_hand(block):
    codes = block.images.codes
    labels = label_quantiser(Codec.parse(block.codec), 300).dequantise(codes, "uniform")
    for row, image in enumerate((0, 0, 1)):
        wanted = field_target(codes.edges[row].tolist(), listed_numbers(codes, image), 0.5, 300)
        np.testing.assert_allclose(labels.dense()[row], wanted, rtol=3e-7, atol=1e-45)
    assert (labels.indices.dtype, labels.values.dtype, labels.remainder.dtype) == (np.int32, np.float32, np.float32)
    assert (labels.num_classes, labels.policy, labels.tails) == (300, "uniform", None)


def test_a_label_by_hand():
    """The whole image: S is 0.75 / 0.35, places are 0. Class 7 has the logit 0.5 (4 - 3 S), class 299 0.5 (5 * 0 - 128 * -0.75) = 48."""
    labels = label_quantiser(Codec.parse("field:step=0.5"), 300).dequantise(FIELD.images.codes, "uniform")
    assert labels.indices[1].tolist() == [299, 7]
    of_seven, of_others = math.exp(0.5 * (4 - 3 * 0.75 / 0.35) - 48), math.exp(-48)
    np.testing.assert_allclose(labels.values[1], [1, of_seven], rtol=1e-5)
    np.testing.assert_allclose(labels.remainder[1], 298 * of_others, rtol=1e-5)
    assert labels.indices[2].tolist() == [5, -1]  # of image b, which lists one class
    assert labels.values[2].tolist() == [1.0, 0.0]


def one_field(classes, levels, slopes=None, edges=((0.1875, 0.1875, 0.8125, 0.8125),)):
    """Return the codes of one image and some crops of it."""
    slopes = np.zeros((7, len(classes)), int) if slopes is None else np.array(slopes).T
    edges = np.array(edges, float)
    fit = np.array([0])
    return FieldCodes(np.array([classes]), np.array([levels]), slopes[None], fit, fit, edges, np.zeros(len(edges), int))


def labels_of(codes, codec="field:step=1.0", num_classes=10):
    return label_quantiser(Codec.parse(codec), num_classes).dequantise(codes, "uniform")


@pytest.mark.parametrize(
    ("levels", "indices"),
    [([5, 1, 2], [2, 4, 7]), ([1, 5, 2], [4, 2, 7]), ([1, 2, 5], [7, 4, 2]), ([1, 5, 5], [4, 2, 7]), ([0, 0, 0], [2, 4, 7])],
)
def test_the_most_probable_listed_class_changes_places_with_the_first(levels, indices):
    labels = labels_of(one_field([2, 4, 7], levels))
    assert labels.indices.tolist() == [indices]
    known = dict(zip([2, 4, 7], levels, strict=True))
    total = sum(map(math.exp, levels)) + 7
    np.testing.assert_allclose(labels.values, [[math.exp(known[c]) / total for c in indices]], rtol=1e-6)
    assert (labels.top1.tolist(), labels.topk(1)[0].tolist()) == ([indices[0]], [[indices[0]] if max(levels) else [0]])


def test_a_field_may_find_all_listed_classes_less_probable_than_the_others():
    """The slope along the size makes both logits negative at small crops: other classes have more, but none of them is on top."""
    codes = one_field([3, 6], [0, 1], [[2, 0, 0, 0, 0, 0, 0]] * 2, edges=[[0.4, 0.4, 0.5, 0.5]])
    labels = labels_of(codes)
    dense = labels.dense()[0]
    assert labels.top1.tolist() == [6]
    assert dense[6] < dense[0] == dense[1] == dense.max()
    np.testing.assert_allclose(dense.sum(), 1, rtol=1e-6)


def test_nothing_overflows():
    """Logits of thousands, up and down: what underflows is 0, and labels add up to 1."""
    slopes = [[127] * 7, [-128] * 7, [0] * 7]
    edges = [[0, 0, 1, 1], [0, 0, 1e-9, 1e-9], [0.9, 0.0, 1.0, 1.0], [0.1875, 0.1875, 0.8125, 0.8125]]
    codes = one_field([0, 3, 5], [255, 0, 255], slopes, edges)
    labels = labels_of(codes)
    np.testing.assert_allclose(labels.dense().sum(axis=1), 1, rtol=1e-6)
    wanted = [field_target(row, listed_numbers(codes, 0), 1.0, 10) for row in edges]
    np.testing.assert_allclose(labels.dense(), wanted, rtol=3e-7, atol=1e-45)
    assert {int(top) for top in labels.top1} == {0, 3}
    assert (labels.remainder == 0).all()


def test_labels_do_not_depend_on_what_is_read_with_them():
    """Bit by bit: a crop alone, the crops of an image, and of many images with fields of different lengths."""
    rng = np.random.default_rng(0)
    parts = []
    for num_listed, count in ((3, 7), (40, 1), (1, 12), (17, 7)):
        classes = np.sort(rng.choice(100, num_listed, replace=False)).tolist()
        slopes = rng.integers(-128, 128, (num_listed, 7)).tolist()
        parts.append(one_field(classes, rng.integers(0, 256, num_listed).tolist(), slopes, random_edges(rng, count)))
    quantiser = label_quantiser(Codec.parse("field:step=0.1"), 100)
    together = quantiser.dequantise(quantiser.concatenate(parts), "uniform")
    row = 0
    for part in parts:
        alone = quantiser.dequantise(part, "uniform")
        for crop in range(len(part.edges)):
            one = quantiser.dequantise(quantiser.rows(part, slice(crop, crop + 1), 0), "uniform")
            for name in ("indices", "values", "remainder"):
                width = part.classes.shape[1] if name != "remainder" else None
                found = getattr(together, name)[row, :width] if width else together.remainder[row]
                np.testing.assert_array_equal(getattr(one, name)[0], found)
                np.testing.assert_array_equal(getattr(alone, name)[crop], found)
            row += 1


@pytest.mark.parametrize(
    "codec",
    ["marginal_smoothing:t=0.2,tail=3", "marginal_smoothing:t=0.1,step=1,tail=all,mean=log", "marginal_smoothing:k=2,values=f16", "hard"],
)
def test_sparse_codes_of_one_image_among_several(codec):
    """They are those of the image alone, without what pads it to the widest."""
    rng = np.random.default_rng(3)
    quantiser = label_quantiser(Codec.parse(codec), 12)
    of_images = [rng.dirichlet(np.full(12, sharpness), count).astype(np.float32) for sharpness, count in ((0.1, 2), (2.0, 4), (0.02, 3))]
    parts = [quantiser.quantise({"probs": probs}, len(probs), None) for probs in of_images]
    together, start = quantiser.concatenate(parts), 0
    for image, part in enumerate(parts):
        count = len(part.indices)
        found = quantiser.rows(together, slice(start, start + count), image)
        for one, other in zip(found, part, strict=True):
            assert (one is None) == (other is None)
            for array, expected in zip(*((one, other) if isinstance(one, tuple) else ((one,), (other,))), strict=True):
                np.testing.assert_array_equal(array, expected)
        policy = quantiser.policy(None)
        np.testing.assert_array_equal(quantiser.dequantise(found, policy).dense(), quantiser.dequantise(part, policy).dense())
        start += count


def test_codes_of_some_crops_of_an_image():
    quantiser = label_quantiser(Codec.parse("field"), 300)
    one = one_field([5], [7], [[1] * 7])._replace(fitted=np.array([11]), unseen=np.array([12]))
    other = one_field([0, 2], [3, 4], edges=random_edges(np.random.default_rng(0), 4))._replace(
        fitted=np.array([13]), unseen=np.array([14])
    )
    both = quantiser.concatenate([one, other])
    assert (both.classes.tolist(), both.levels.tolist()) == ([[5, -1], [0, 2]], [[7, 0], [3, 4]])
    assert (both.slopes[0].T.tolist(), both.slopes[1].any(), both.field_of.tolist()) == ([[1] * 7, [0] * 7], False, [0, 1, 1, 1, 1])
    assert (both.fitted.tolist(), both.unseen.tolist()) == ([11, 13], [12, 14])
    first = quantiser.rows(both, slice(0, 1), 0)
    assert (first.classes.tolist(), first.levels.tolist(), first.slopes.shape) == ([[5]], [[7]], (1, 7, 1))
    some = quantiser.rows(both, slice(2, 4), 1)
    assert (some.classes.tolist(), some.field_of.tolist()) == ([[0, 2]], [0, 0])
    assert (some.fitted.tolist(), some.unseen.tolist(), some.slopes.tolist()) == ([13], [14], np.zeros((1, 7, 2)).tolist())
    np.testing.assert_array_equal(some.edges, both.edges[2:4])
    assert quantiser.concatenate([first]) is first
    assert quantiser.num_entries(some) == (0, 2, 16)
    assert quantiser.most_bytes(some) >= 2 * (4 + 1 + 1 + 7)
    assert 0 < quantiser.expected_bytes(some) <= quantiser.most_bytes(some)


def test_the_policy_of_fields():
    quantiser = label_quantiser(Codec.parse("field"), 300)
    assert quantiser.policy(None) == quantiser.policy("uniform") == "uniform"
    for policy in ("renorm", "tail"):
        with refused(ArgumentError, f"policy: labels of 'field' say what every class has, so only 'uniform' fits, got {policy!r}"):
            quantiser.policy(policy)


def test_listed_classes():
    check_listed(np.array([[0, 5, 9], [9, -1, -1]]), 10)
    for row in ([3, 3, -1], [4, 3, -1], [9, 10, -1], [10, -1, -1]):
        with refused(CorruptError, "the classes of a field do not ascend below the number of classes"):
            check_listed(np.array([[0, 5, 9], row]), 10)
    for row, num_classes in (([-1, -1, -1], 10), ([0, 1, 2], 3)):
        with refused(CorruptError, "a field lists no class, or all"):
            check_listed(np.array([[0, -1, -1], row]), num_classes)


@pytest.mark.parametrize(
    ("kl", "code"), [(0.0, 1), (1e-9, 1), (2.0**-20, 1), (2.0**-19, 8), (0.25, 144), (1.0, 160), (2.0, 168), (1e9, 255)]
)
def test_codes_of_kls(kl, code):
    assert kl_code(kl) == code


def test_kls_come_back():
    kls = np.geomspace(1.1e-6, 3700, 500)
    found = kl_of_codes(np.array([kl_code(kl) for kl in kls]))
    assert np.abs(np.log(found / kls)).max() < math.log(1.045)
    assert np.isnan(kl_of_codes(np.array([0]))).all()


# Fields: how they are made from probabilities (field-v1.md, section 7)


def smooth_probs(rng, edges, num_classes=60, num_smooth=6):
    """Return labels that are a field themselves: some classes whose logits follow the features, and the others."""
    weights = np.zeros((8, num_classes))
    weights[0, :num_smooth] = rng.uniform(3, 7, num_smooth)
    weights[1:, :num_smooth] = rng.normal(0, 0.5, (7, num_smooth))
    logits = features_of(edges) @ weights
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def field_codes_of(probs, edges, codec="field", *, measured=False):
    probs = np.asarray(probs, np.float32)
    return label_quantiser(Codec.parse(codec), probs.shape[1]).quantise({"probs": probs}, len(probs), Places(np.asarray(edges), measured))


def kl_of(probs, edges, codes, step):
    """Return the mean KL of a field from labels, as the specification says what its targets are."""
    numbers, num_classes = listed_numbers(codes, 0), len(probs[0])
    targets = [field_target(row, numbers, step, num_classes) for row in np.asarray(edges).tolist()]
    return mean_kl(np.asarray(probs, float).tolist(), targets)


def test_a_field_of_labels_that_are_one():
    rng = np.random.default_rng(0)
    edges, others = random_edges(rng, 150), random_edges(rng, 50)
    both = smooth_probs(rng, np.concatenate([edges, others]))
    probs, unseen = both[:150], both[150:]
    codes = field_codes_of(probs, edges, "field:step=0.1,cost=1e-06")
    assert listed_numbers(codes, 0).keys() >= set(range(6))
    assert kl_of(probs, edges, codes, 0.1) < 0.01
    assert kl_of(unseen, others, codes, 0.1) < 0.02
    np.testing.assert_array_equal(codes.edges, edges)
    assert codes.field_of.tolist() == [0] * 150


@pytest.mark.parametrize("step", [0.1, 0.35])
def test_bytes_that_cost_less_bring_labels_closer(step):
    rng = np.random.default_rng(1)
    edges = random_edges(rng, 60)
    probs = smooth_probs(rng, edges, 100, 20)
    found = [field_codes_of(probs, edges, f"field:step={step},cost={cost}") for cost in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)]
    kls = [kl_of(probs, edges, codes, step) for codes in found]
    for dear, cheap in pairwise(kls):
        assert cheap < 1.1 * dear + 0.005
    assert kls[-1] < 0.3 * kls[0]
    sizes = [np.count_nonzero(codes.levels) + np.count_nonzero(codes.slopes) for codes in found]
    assert sizes[0] < sizes[1] < sizes[-1]


def test_a_class_that_matters_is_listed():
    """Also one that matters in a few crops only, and one that is never on top."""
    rng = np.random.default_rng(2)
    edges = random_edges(rng, 100)
    probs = np.full((100, 50), 0.2 / 47, np.float32)
    probs[:, 7], probs[:, 9] = 0.5, 0.3
    right = edges[:, 3] > 0.9
    probs[right, 30] = 0.4
    probs[right, 7] = 0.1 + 0.2 / 47
    probs /= probs.sum(axis=1, keepdims=True)
    numbers = listed_numbers(field_codes_of(probs, edges, "field:cost=0.0001"), 0)
    assert set(numbers) == {7, 9, 30}
    assert any(numbers[30][1:])


def test_labels_that_no_crop_changes_have_no_slopes():
    edges = random_edges(np.random.default_rng(3), 40)
    probs = np.tile(np.float32([0.6, 0.25, *[0.15 / 18] * 18]), (40, 1))
    codes = field_codes_of(probs, edges, "field:cost=0.0001")
    assert not codes.slopes.any()
    assert codes.classes.tolist() == [[0, 1]]
    np.testing.assert_allclose(codes.levels * 0.35, [np.log([0.6 * 18 / 0.15, 0.25 * 18 / 0.15])], atol=0.36)
    assert kl_of(probs, edges, codes, 0.35) < 0.02


def test_labels_that_know_nothing():
    """A field lists a class even then; its level is 0."""
    probs, edges = np.full((5, 8), 0.125, np.float32), random_edges(np.random.default_rng(4), 5)
    codes = field_codes_of(probs, edges)
    assert (codes.classes.shape, codes.levels.tolist(), codes.slopes.any()) == ((1, 1), [[0]], False)
    np.testing.assert_allclose(labels_of(codes, "field", 8).dense(), probs, rtol=1e-6)
    assert codes.fitted.tolist() == [1]


@pytest.mark.parametrize("num_classes", [2, 3, 40])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_fields_of_few_crops(num_classes, count):
    """One crop, or a few, all at the same place: there is a field, and it is close to what there is to know."""
    rng = np.random.default_rng(5)
    probs = rng.dirichlet(np.full(num_classes, 0.5), 1).astype(np.float32).repeat(count, axis=0)
    edges = np.tile([0.1, 0.2, 0.8, 0.7], (count, 1))
    codes = field_codes_of(probs, edges, "field:step=0.1,cost=1e-05")
    assert 1 <= codes.classes.shape[1] < num_classes
    assert kl_of(probs, edges, codes, 0.1) < 0.1


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_fields_of_labels_that_are_sure(step):
    """Every crop has one class only, left ones another than right ones; the others have exactly nothing."""
    edges = random_edges(np.random.default_rng(6), 80)
    probs = np.zeros((80, 30), np.float32)
    probs[np.arange(80), np.where(edges[:, 1] + edges[:, 3] < 1, 4, 8)] = 1
    codes = field_codes_of(probs, edges, f"field:step={step},cost=1e-05")
    assert codes.levels.min() >= 0
    assert codes.levels.max() <= 255
    assert np.abs(codes.slopes).max() <= 127
    labels = labels_of(codes, f"field:step={step}", 30)
    right = labels.dense()[probs > 0]
    assert -np.log(right).mean() < 0.3
    assert (right > 0.5).mean() > 0.9
    same = np.tile(probs[:1], (80, 1))
    codes = field_codes_of(same, edges, f"field:step={step},cost=1e-07")
    assert labels_of(codes, f"field:step={step}", 30).dense()[same > 0].min() > 0.99


def test_how_far_a_field_is_from_its_labels_is_noted():
    rng = np.random.default_rng(7)
    edges = random_edges(rng, 60)
    probs = smooth_probs(rng, edges)
    codes = field_codes_of(probs, edges)
    np.testing.assert_allclose(kl_of_codes(codes.fitted), [kl_of(probs, edges, codes, 0.35)], rtol=0.05)
    assert codes.unseen.tolist() == [0]


def test_how_far_a_field_is_from_other_crops_is_noted_if_it_is_wanted():
    """Every tenth crop is left out of a field that is made from the others, for this purpose only."""
    rng = np.random.default_rng(8)
    edges = random_edges(rng, 60)
    probs = smooth_probs(rng, edges)
    out = np.arange(60) % 10 == 9
    others = field_codes_of(probs[~out], edges[~out])
    codes = field_codes_of(probs, edges, measured=True)
    np.testing.assert_allclose(kl_of_codes(codes.unseen), [kl_of(probs[out], edges[out], others, 0.35)], rtol=0.05)
    assert field_codes_of(probs, edges).classes.tolist() == codes.classes.tolist()
    assert field_codes_of(probs[:9], edges[:9], measured=True).unseen.tolist() == [0]
    assert field_codes_of(probs[:10], edges[:10], measured=True).unseen.tolist() != [0]


def test_the_same_labels_make_the_same_field():
    rng = np.random.default_rng(9)
    edges = random_edges(rng, 30)
    probs = smooth_probs(rng, edges).astype(np.float16)
    quantiser, places = label_quantiser(Codec.parse("field"), 60), Places(edges)
    wanted = quantiser.quantise({"probs": probs}, 30, places)
    for same in (probs.astype(np.float32), probs.astype(np.float64), probs.tolist()):
        for mine, theirs in zip(quantiser.quantise({"probs": same}, 30, places), wanted, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "codec 'field': expected probs, got no labels"),
        ({"indices": 0, "values": 0}, "codec 'field': expected probs, got indices and values"),
        ({"vectors": 0}, "codec 'field': expected probs, got vectors"),
        ({"probs": [[0.5, math.nan, 0.5]] * 2}, "probs: row 0: holds NaN or infinity"),
        ({"probs": [[0.5, 0.5, 0.0], [1.5, -0.5, 0.0]]}, "probs: row 1: holds a negative probability"),
        ({"probs": [[0.5, 0.5, 0.5]] * 2}, "probs: row 0: " + NOT_1.format("1.5")),
        ({"probs": [[0.5, 0.5, 0.0]]}, "probs: expected floats of shape (2, 3), got float64 of shape (1, 3)"),
    ],
)
def test_labels_that_no_field_can_be_made_of(labels, message):
    with refused(ArgumentError, message):
        label_quantiser(Codec.parse("field"), 3).quantise(labels, 2, Places(random_edges(np.random.default_rng(0), 2)))


# Dense codes of several images, and logarithms (dense-v1.md, section 4)


def images_of_probs(codec, num_crops, num_classes=10, seed=0):
    """Return a quantiser, and the probabilities and codes of images with so many crops."""
    rng, quantiser = np.random.default_rng(seed), label_quantiser(Codec.parse(codec), num_classes)
    base = rng.normal(0, 2, (len(num_crops), 1, num_classes))
    logits = [mean + rng.normal(0, 1.5, (count, num_classes)) for mean, count in zip(base, num_crops, strict=True)]
    probs = [(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)).astype(np.float32) for rows in logits]
    return quantiser, probs, [quantiser.quantise({"probs": rows}, len(rows)) for rows in probs]


@pytest.mark.parametrize("codec", ["dense:values=f32", "dense:values=f16", "dense:values=log8", "marginal_smoothing:k=3"])
def test_rows_of_the_codes_of_several_images(codec):
    quantiser, _, parts = images_of_probs(codec, [3, 9, 40])
    codes = quantiser.concatenate(parts)
    policy = quantiser.policy(None)
    every = quantiser.dequantise(codes, policy).dense()
    np.testing.assert_array_equal(every, np.concatenate([quantiser.dequantise(part, policy).dense() for part in parts]))
    for image, rows in ((0, slice(0, 3)), (1, slice(3, 4)), (1, slice(5, 12)), (2, slice(20, 52)), (2, slice(51, 52))):
        chosen = quantiser.rows(codes, rows, image)
        np.testing.assert_array_equal(quantiser.dequantise(chosen, policy).dense(), every[rows])
    assert quantiser.expected_bytes(codes) == sum(quantiser.expected_bytes(part) for part in parts)
    assert quantiser.expected_bytes(codes) <= quantiser.most_bytes(codes)


def test_dense_labels_have_no_policy():
    codec = Codec.parse("dense:values=log8")
    quantiser = label_quantiser(codec, 10)
    assert quantiser.policy(None) == codec.policy
    with refused(ArgumentError, f"policy: labels of {str(codec)!r} have no remainder, so none is expected, got 'x'"):
        quantiser.policy("x")


def test_logarithms_of_many_crops_are_decoded_in_parts():
    """A part has 2^18 numbers at most: of 2^16 classes, four crops."""
    rng, quantiser = np.random.default_rng(0), label_quantiser(Codec.parse("dense:values=log8,content=logits"), 2**16)
    logits = rng.normal(0, 2, (9, 2**16)).astype(np.float32)
    logits[:, 7] += np.arange(9) * 30  # exceptions, more in later crops
    codes = quantiser.quantise({"vectors": logits}, 9)
    found = quantiser.dequantise(codes, "none").vectors
    assert found.dtype == np.float32
    for row in range(9):
        one = quantiser.dequantise(quantiser.rows(codes, slice(row, row + 1), 0), "none").vectors
        np.testing.assert_array_equal(found[row], one[0])
    np.testing.assert_allclose(found, logits - logits.mean(axis=1, keepdims=True), atol=0.76)
    other = quantiser.quantise({"vectors": logits + 5}, 9)
    np.testing.assert_array_equal(quantiser.dequantise(other, "none").vectors, found)


def test_logarithms_that_are_refused_say_where():
    quantiser = label_quantiser(Codec.parse("dense:values=log8,content=logits"), 3)
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = np.inf
    with refused(ArgumentError, "vectors: row 2: expected finite numbers. Of masked classes, pass probabilities of 0 (content=probs)"):
        quantiser.quantise({"vectors": logits}, 4)
    logits[2, 1], logits[3, 0] = 4000, 4001
    with refused(ArgumentError, "vectors: row 3: expected numbers within 4000 of each other, got 4001. Use values=f32"):
        quantiser.quantise({"vectors": logits}, 4)


@pytest.mark.parametrize(("num_crops", "shift"), [(1, 0), (7, 0), (8, 1), (31, 1), (32, 2), (60, 2)])
def test_a_profile_of_more_crops_is_finer(num_crops, shift):
    ((image,),) = images_of_probs("dense:values=log8", [num_crops])[2]
    assert image.shift == shift


def test_what_the_crops_of_an_image_have_in_common_costs_no_exceptions():
    """The spread between classes is in the profile; the principal direction of the crops in a component, which makes digits 0."""
    rng, quantiser = np.random.default_rng(1), label_quantiser(Codec.parse("dense:values=log8,content=logits"), 200)
    direction = rng.normal(0, 4, 200)
    logits = (rng.normal(0, 6, 200) + rng.normal(0, 1, (64, 1)) * direction).astype(np.float32)
    ((image,),) = (quantiser.quantise({"vectors": logits}, 64),)
    assert len(image.components) == 1
    assert (image.counts.sum(), np.count_nonzero(image.digits)) == (0, 0)
    noise = quantiser.quantise({"vectors": rng.normal(0, 4, (64, 200)).astype(np.float32)}, 64)
    assert len(noise[0].components) == 0
    assert noise[0].counts.sum() > 0


def test_differences_up_to_two_thirds_of_a_step_are_0():
    quantiser = label_quantiser(Codec.parse("dense:values=log8,content=logits"), 8)
    logits = np.array([[0.6, -0.6, 0.7, -0.7, 1.6, -1.6, 2.7, -2.7]], np.float32) + np.float32(0)
    ((image,),) = (quantiser.quantise({"vectors": logits}, 1),)
    assert image.profile.tolist() == [1, -1, 1, -1, 2, -2, 3, -3]  # of one crop, the profile says all
    many = np.repeat(np.zeros((1, 8), np.float32), 400, axis=0)
    many[0] = logits
    (image,) = quantiser.quantise({"vectors": many}, 400)
    digits = [image.digits[0, place // 4] >> 2 * (place % 4) & 3 for place in range(8)]
    assert digits == [0, 0, 1, 2, 1, 2, 3, 3]
    assert (image.counts[0], image.exceptions.tolist(), len(image.components)) == (2, [2, 3], 0)


def test_one_image_of_eight_is_measured():
    keys = [f"n{number}.JPEG" for number in range(8000)]
    measured = [key for key in keys if is_measured(key)]
    assert measured == [key for key in keys if zlib.crc32(key.encode()) & 7 == 0]
    assert 800 < len(measured) < 1200
    assert Places(np.zeros((0, 4))).measured is False
