"""The crop sampler, and the choice of crops per epoch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabel_codec import ArgumentError
from softlabel_codec.crops.choice import choose_crops, crops_at
from softlabel_codec.sampler import CropSampler, crop_stream, philox4x32, portable_exp

VECTORS = Path(__file__).parents[1] / "spec" / "crop-sampler-v1-vectors.json"


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    found = philox4x32(
        tuple(np.array([int(word, 16)], np.uint64) for word in counter.split()), tuple(int(word, 16) for word in key.split())
    )
    assert " ".join(f"{int(word[0]):08x}" for word in found) == words


def naive_crop(seed, key, number, size, scale, ratio, flip_probability):
    """Return one crop and flip, as spec/crop-sampler-v1.md says it, with Python's own numbers."""
    height, width = size
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])

    def words(attempt):
        counter = [attempt, number, crop_stream(key), 0]
        k0, k1 = seed % 2**32, seed >> 32
        for _ in range(10):
            first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            counter = [(second >> 32) ^ counter[1] ^ k0, second % 2**32, (first >> 32) ^ counter[3] ^ k1, first % 2**32]
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        return counter

    flip = words(0)[3] % 2**16 < round(flip_probability * 2**16)
    for attempt in range(10):
        x = words(attempt)
        area = (height * width) * (scale[0] + (scale[1] - scale[0]) * (x[0] * 2.0**-32))
        power = 1 / math.factorial(13)
        for n in range(12, -1, -1):
            power = power * ((log_low + (log_high - log_low) * (x[1] * 2.0**-32)) / 8) + 1 / math.factorial(n)
        shape = ((power * power) ** 2) ** 2
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 1 <= w <= width and 1 <= h <= height:
            return [x[2] * (height - h + 1) >> 32, x[3] * (width - w + 1) >> 32, h, w], flip
    h, w = height, width
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return [(height - h) // 2, (width - w) // 2, h, w], flip


@given(
    seed=st.integers(0, 2**64 - 1),
    key=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    number=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(375, 500), (1, 1), (1, 400), (900, 2), (65535, 65535), (32, 32)]),
    scale=st.sampled_from([(0.08, 1.0), (1.0, 1.0), (0.9, 0.95), (1e-6, 1e-5)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 2.5), (1 / 2048, 2048.0)]),
)
def test_crops_are_those_of_the_specification(seed, key, number, size, scale, ratio):
    crops, flips = CropSampler(seed, scale, ratio, 0.3).sample(key, size, [number])
    assert (crops[0].tolist(), bool(flips[0])) == naive_crop(seed, key, number, size, scale, ratio, 0.3)
    (crop,), (flip,) = CropSampler(seed, scale, ratio, 0.3).sample_few(crop_stream(key), [number], *size)
    assert (list(crop), flip) == (crops[0].tolist(), bool(flips[0]))
    top, left, height, width = crops[0].tolist()
    assert 0 <= top <= size[0] - height
    assert 0 <= left <= size[1] - width
    assert min(height, width) >= 1


def test_crops_are_those_of_the_test_vectors():
    for case in json.loads(VECTORS.read_text())["cases"]:
        sampler = CropSampler(case["seed"], tuple(case["scale"]), tuple(case["ratio"]), case["flip_probability"])
        assert list(sampler.log_ratio) == case["log_ratio"]
        crops, flips = sampler.sample(case["key"], tuple(case["image_size"]), range(len(case["crops"])))
        assert (crops.tolist(), flips.tolist()) == (case["crops"], case["flips"])


def test_a_crop_does_not_depend_on_the_others():
    sampler = CropSampler(seed=9)
    crops, flips = sampler.sample("a", (300, 400), range(50))
    for number in (0, 17, 49):
        alone, flip = sampler.sample("a", (300, 400), [number])
        assert (alone[0].tolist(), bool(flip[0])) == (crops[number].tolist(), bool(flips[number]))
    assert CropSampler(seed=10).sample("a", (300, 400), range(50))[0].tolist() != crops.tolist()
    assert sampler.sample("b", (300, 400), range(50))[0].tolist() != crops.tolist()


def test_crops_are_distributed_as_they_should_be():
    crops, flips = CropSampler(seed=1, scale=(0.2, 0.6)).sample("a", (1000, 1000), range(20000))
    areas = crops[:, 2] * crops[:, 3] / 1e6
    ratios = np.log(crops[:, 3] / crops[:, 2])
    assert abs(flips.mean() - 0.5) < 0.02
    np.testing.assert_allclose(np.quantile(areas, [0, 0.25, 0.5, 0.75, 1]), [0.2, 0.3, 0.4, 0.5, 0.6], atol=0.01)
    np.testing.assert_allclose(np.quantile(ratios, [0, 0.5, 1]), [math.log(3 / 4), 0, math.log(4 / 3)], atol=0.02)
    places = crops[:, 0] / (1000 - crops[:, 2])
    np.testing.assert_allclose(np.quantile(places, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)


def test_portable_exp_is_exp():
    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(portable_exp(x), np.exp(x), rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: expected an integer from 0 to"),
        ({"seed": 2**64}, "seed: expected an integer from 0 to"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"seed": True}, "seed: expected an integer"),
        ({"scale": (0.1, 0.5, 1)}, r"scale: expected two numbers, got \(0.1, 0.5, 1\)"),
        ({"scale": "11"}, "scale: expected a number, got '1'"),
        ({"ratio": 1}, "ratio: expected two numbers, got 1"),
        ({"flip_probability": "0.5"}, "flip_probability: expected a number, got '0.5'"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.4)}, "scale"),
        ({"scale": (0.5, 1.1)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"ratio": (float("nan"), 1.0)}, "ratio"),
        ({"flip_probability": 1.5}, "flip_probability"),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        CropSampler(**arguments)


def test_numbers_of_any_kind_are_stored_as_the_specification_says():
    sampler = CropSampler(seed=np.int64(3), scale=(np.float32(0.25), 1), ratio=[1, 1], flip_probability=1)
    found = sampler.describe()
    numbers = [*found["scale"], *found["ratio"], *found["log_ratio"], found["flip_probability"]]
    assert {type(number) for number in numbers} == {float}
    assert type(found["seed"]) is int
    assert CropSampler.from_description(found) == sampler


def drawn(num_crops, n, turns, seed=0, image=5):
    """Return what an image draws at its first turns, (turns, n)."""
    same = np.ones(turns, np.int64)
    return choose_crops(seed, np.arange(turns), image * same, num_crops * same, n)


def assert_fair(found, num_crops):
    """Check that no draw holds a crop twice, and that all crops are used before any is used again."""
    for draw in found.tolist():
        assert len(set(draw)) == len(draw)
    for start in range(0, found.size, num_crops):
        part = found.ravel()[start : start + num_crops].tolist()
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(num_crops))


@pytest.mark.parametrize("num_crops", range(1, 41))
def test_no_draw_holds_a_crop_twice_and_all_are_used_before_any_is_used_again(num_crops):
    for n in range(1, num_crops + 1):
        for image in range(3):
            assert_fair(drawn(num_crops, n, turns=-(-4 * num_crops // n), image=image), num_crops)


@given(seed=st.integers(0, 2**64), image=st.integers(0, 2**40), num_crops=st.integers(1, 600), data=st.data())
def test_the_same_for_many_crops(seed, image, num_crops, data):
    n = data.draw(st.integers(1, min(num_crops, 100)))
    assert_fair(drawn(num_crops, n, turns=-(-4 * num_crops // n), seed=seed, image=image), num_crops)


def test_single_crops_go_on_in_the_order_of_the_larger_draws():
    together = crops_at(7, np.arange(30), [3], [10], 4)
    apart = np.concatenate([crops_at(7, [place], [3], [10], 4) for place in range(30)], axis=1)
    np.testing.assert_array_equal(together, apart)


def test_images_of_a_batch_may_be_at_different_turns():
    batch = choose_crops(3, [0, 5, 9], [4, 4, 2], [20, 20, 7], 3)
    for row, (turn, image, count) in enumerate([(0, 4, 20), (5, 4, 20), (9, 2, 7)]):
        np.testing.assert_array_equal(batch[row], choose_crops(3, turn, [image], [count], 3)[0])


def test_images_epochs_and_seeds_draw_differently():
    draws = {tuple(choose_crops(seed, 0, [image], [200], 10)[0].tolist()) for seed in range(5) for image in range(200)}
    assert len(draws) == 1000
    first = choose_crops(0, 0, np.arange(20000), np.full(20000, 50), 1)
    counts = np.bincount(first[:, 0], minlength=50)
    assert ((counts - 400) ** 2 / 400).sum() < 100  # chi squared with 49 degrees of freedom


def test_a_batch_draws_what_each_image_draws_alone():
    counts = np.array([200, 7, 33, 1])
    batch = choose_crops(3, 11, [5, 9, 2, 0], counts, 1)
    for row, (image, count) in enumerate(zip([5, 9, 2, 0], counts.tolist(), strict=True)):
        assert batch[row].tolist() == choose_crops(3, 11, [image], [count], 1)[0].tolist()
