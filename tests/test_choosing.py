"""`choose_codec`: the codec that fits the labels of a teacher."""

import numpy as np
import pytest

from softlabel_codec import AllViews, ArgumentError, Codec, CropSampler, Padding, SoftLabelReader, SoftLabelWriter, choose_codec

SIZE = (60, 80)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def pilot_of(logits, **more):
    """Return a pilot of images with these logits (I, M, C), and crops of our sampler."""
    images = {}
    for number, of_image in enumerate(logits):
        key = f"{number:03d}.jpg"
        crops, flips = CropSampler(seed=1).sample(key, SIZE, range(len(of_image)))
        images[key] = {"image_size": SIZE, "crops": crops, "flips": flips, "probs": softmax(of_image), **more}
    return images


def smooth_logits(rng, num_images, num_crops, num_classes, sharpness, of_place=1.0):
    """Return logits that are those of the image, and change with the place of the crop."""
    images = rng.normal(0, sharpness, (num_images, 1, num_classes))
    slopes = rng.normal(0, of_place, (num_images, 4, num_classes))
    places = []
    for number in range(num_images):
        crops, _ = CropSampler(seed=1).sample(f"{number:03d}.jpg", SIZE, range(num_crops))
        places.append((crops / np.array([60, 80, 60, 80]) - 0.5) * 2)
    return images + np.stack(places) @ slopes


def written(path, pilot, codec, **layout):
    """Write a pilot in a codec; return the share that is lost, and the bytes of the file without what does not grow."""
    num_classes = len(next(iter(pilot.values()))["probs"][0])
    with SoftLabelWriter(path, num_classes, codec, **layout) as writer:
        for key, image in pilot.items():
            writer.add(key, **image)
    kl = of_uniform = 0.0
    with SoftLabelReader(path) as reader:
        for key, image in pilot.items():
            p, q = image["probs"].astype(np.float64), reader[key].labels.dense().astype(np.float64)
            kl += (p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-12))).sum()
            of_uniform += (p * np.log(np.maximum(p, 1e-300) * num_classes)).sum()
    return kl / of_uniform, path.stat().st_size


@pytest.mark.parametrize("teacher", ["sure", "unsure", "random"])
def test_what_is_chosen_loses_no_more_than_it_may_and_says_so_truly(teacher, tmp_path):
    rng = np.random.default_rng(0)
    logits = {
        "sure": smooth_logits(rng, 12, 40, 50, 8.0),
        "unsure": smooth_logits(rng, 12, 40, 50, 1.0, 0.3),
        "random": rng.normal(0, 2, (12, 40, 50)),
    }[teacher]
    pilot = pilot_of(logits)
    choice = choose_codec(pilot, 50)
    lost, file_bytes = written(tmp_path / "a.slc", pilot, choice.codec)
    assert choice.lost <= 0.04
    if Codec.parse(choice.codec).family != "field":
        assert lost == pytest.approx(choice.lost, abs=1e-4)
    assert file_bytes - 900 < choice.bytes_per_image * 12 < file_bytes
    assert choice.crops_per_image == 40
    assert choice.asked == {"fidelity": 0.04}
    assert choice_in(choice.tried, choice.codec).lost == choice.lost


def choice_in(tried, codec):
    (found,) = (trial for trial in tried if trial.codec == codec)
    return found


def test_a_stricter_wish_takes_more_bytes_and_loses_less():
    pilot = pilot_of(smooth_logits(np.random.default_rng(1), 8, 20, 60, 2.0))
    choices = [choose_codec(pilot, 60, fidelity=share) for share in ("20%", 0.05, 0.01, "0.1 %")]
    assert [choice.lost <= share for choice, share in zip(choices, (0.2, 0.05, 0.01, 0.001), strict=True)] == [True] * 4
    sizes = [choice.bytes_per_image for choice in choices]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 2


def test_the_same_pilot_gives_the_same_choice():
    pilot = pilot_of(smooth_logits(np.random.default_rng(2), 10, 20, 40, 2.0))
    assert choose_codec(pilot, 40) == choose_codec(dict(pilot), 40)


def test_labels_that_follow_the_place_of_the_crop_become_a_field_if_there_are_many_and_not_if_there_are_few():
    logits = smooth_logits(np.random.default_rng(3), 8, 200, 30, 2.0, 2.0)
    many = choose_codec(pilot_of(logits), 30, crops="derived", sampler=CropSampler(seed=1))
    few = choose_codec(pilot_of(logits[:, :5]), 30, crops="derived", sampler=CropSampler(seed=1))
    assert Codec.parse(many.codec).family == "field"
    assert Codec.parse(few.codec).family != "field"


def test_a_field_is_measured_on_crops_that_it_was_not_made_from():
    rng = np.random.default_rng(4)
    choice = choose_codec(pilot_of(rng.normal(0, 3, (8, 20, 20))), 20, fidelity=0.3)
    field = next(trial for trial in choice.tried if trial.codec.startswith("field"))
    assert field.lost > 0.5  # nothing of a crop says what the next one is, though a field can follow the crops that it has seen


@pytest.mark.parametrize("num_crops", [1, 4])
def test_few_crops(num_crops, tmp_path):
    pilot = pilot_of(np.random.default_rng(5).normal(0, 3, (30, num_crops, 40)))
    choice = choose_codec(pilot, 40)
    assert choice.lost <= 0.04
    assert not any("field" in trial.codec for trial in choice.tried)
    assert written(tmp_path / "a.slc", pilot, choice.codec)[0] <= 0.0401
    assert len(choice.lines()) == 2 + len(choice.tried)


def test_classes_named_by_gain_take_the_fewest_bytes_where_crops_are_few(tmp_path):
    """A tail lists as much as so few crops are worth; thresholds with long and short tails take more for as little loss."""
    rng = np.random.default_rng(8)
    pilot = pilot_of(rng.normal(0, 2, (40, 1, 60)) + rng.normal(0, 0.7, (40, 5, 60)))
    choice = choose_codec(pilot, 60)
    assert Codec.parse(choice.codec).gain is not None
    _, chosen = written(tmp_path / "chosen.slc", pilot, choice.codec)
    tried = 0
    for threshold in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01):
        for tail in ("", ",tail=10", ",tail=30", ",tail=60", ",tail=all"):
            path = tmp_path / f"{tried}.slc"
            lost, file_bytes = written(path, pilot, f"marginal_smoothing:t={threshold}{tail}")
            tried += lost <= 0.04
            assert lost > 0.04 or file_bytes > 1.1 * chosen
            path.unlink()
    assert tried > 5


def test_two_classes(tmp_path):
    pilot = pilot_of(smooth_logits(np.random.default_rng(6), 10, 10, 2, 2.0))
    choice = choose_codec(pilot, 2)
    assert choice.lost <= 0.04
    assert written(tmp_path / "a.slc", pilot, choice.codec)[0] <= 0.04


def test_labels_that_say_nothing_take_next_to_nothing():
    choice = choose_codec(pilot_of(np.zeros((6, 20, 100))), 100)
    assert choice.lost <= 0.04
    assert choice.bytes_per_image < 400


def test_probabilities_of_zero():
    logits = np.random.default_rng(7).normal(0, 3, (6, 10, 20))
    logits[..., 10:] = -np.inf
    assert choose_codec(pilot_of(logits), 20).lost <= 0.04


def test_the_layout_of_the_file_counts():
    logits = smooth_logits(np.random.default_rng(8), 10, 20, 40, 2.0)
    stored = choose_codec(pilot_of(logits, image_crc32=7), 40, image_checksums=True)
    derived = choose_codec(pilot_of(logits), 40, crops="derived", sampler=CropSampler(seed=1))
    assert stored.bytes_per_image > derived.bytes_per_image + 3 * 20
    assert stored.lost == derived.lost


def test_crops_that_are_derived_need_not_be_given():
    pilot = pilot_of(smooth_logits(np.random.default_rng(8), 6, 20, 30, 2.0))
    left_out = {key: {"image_size": image["image_size"], "probs": image["probs"]} for key, image in pilot.items()}
    how = {"crops": "derived", "sampler": CropSampler(seed=1)}
    assert choose_codec(left_out, 30, **how) == choose_codec(pilot, 30, **how)


def test_all_views_of_padded_images():
    rng, padding, views = np.random.default_rng(9), Padding(2), AllViews(6, 6)
    pilot = {
        f"{number}.png": {"image_size": (6, 6), "probs": softmax(rng.normal(0, 2, (1, 10)) + np.zeros((50, 1)))} for number in range(6)
    }
    assert choose_codec(pilot, 10, crops="derived", sampler=views, padding=padding).lost <= 0.04


def test_crops_as_fractions():
    rng = np.random.default_rng(10)
    boxes = np.float32([[0.1, 0.1, 0.5, 0.5 + number / 100] for number in range(10)])
    pilot = {
        f"{number}.png": {"image_size": None, "crops": boxes, "flips": np.zeros(10, bool), "probs": softmax(rng.normal(0, 2, (10, 10)))}
        for number in range(6)
    }
    for image in pilot.values():
        image["image_size"] = SIZE
    assert choose_codec(pilot, 10, crops="fractions:f32").lost <= 0.04


def test_fewest_bytes_at_a_higher_temperature_know_more_classes():
    pilot = pilot_of(smooth_logits(np.random.default_rng(11), 10, 20, 60, 3.0))
    cold, warm = (choose_codec(pilot, 60, train_temperature=temperature) for temperature in (1.0, 4.0))
    assert (cold.temperature, warm.temperature) == (1.0, 4.0)
    assert warm.lost <= 0.04
    assert warm.bytes_per_image > 1.2 * cold.bytes_per_image


def test_a_budget_of_bytes_is_kept_and_more_of_it_loses_less(tmp_path):
    pilot = pilot_of(smooth_logits(np.random.default_rng(12), 8, 50, 30, 2.0))
    how = {"crops": "derived", "sampler": CropSampler(seed=1)}
    choices = [choose_codec(pilot, 30, bytes_per_image=budget, **how) for budget in (60, 150, 600)]
    for choice, budget in zip(choices, (60, 150, 600), strict=True):
        assert choice.bytes_per_image <= budget
        assert choice.crops_per_image in (5, 10, 20, 50)
        first = {
            key: {name: value if name == "image_size" else value[: choice.crops_per_image] for name, value in image.items()}
            for key, image in pilot.items()
        }
        assert written(tmp_path / f"{budget}.slc", first, choice.codec, **how)[1] < 8 * budget + 900
    assert choices[0].lost > choices[1].lost > choices[2].lost
    assert choices[2].asked == {"bytes_per_image": 600.0}


def test_few_draws_need_few_crops():
    rng = np.random.default_rng(13)
    pilot = pilot_of(rng.normal(0, 3, (8, 40, 30)))
    often = choose_codec(pilot, 30, bytes_per_image=400)
    seldom = choose_codec(pilot, 30, bytes_per_image=400, draws=80)
    once = choose_codec(pilot, 30, bytes_per_image=400, draws=3)
    assert once.crops_per_image == 3
    assert seldom.crops_per_image == 5  # the fewest, with the most bytes for each
    assert often.crops_per_image >= seldom.crops_per_image
    assert seldom.lost <= often.lost


def test_crops_that_are_fixed_are_not_chosen():
    pilot = pilot_of(smooth_logits(np.random.default_rng(14), 8, 30, 40, 2.0))
    choice = choose_codec(pilot, 40, bytes_per_image=500, fixed_crops=True)
    assert choice.crops_per_image == 30
    assert choice.bytes_per_image <= 500


def test_what_cannot_be_had_is_an_error_that_says_what_can():
    pilot = pilot_of(smooth_logits(np.random.default_rng(15), 6, 10, 40, 2.0))
    with pytest.raises(ArgumentError, match=r"bytes_per_image: expected at least \d+, about what the smallest labels take .*, got 2"):
        choose_codec(pilot, 40, bytes_per_image=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fidelity": "4"}, "fidelity: expected the share that may be lost, such as 4% or 0.04, got '4'"),
        ({"fidelity": "much"}, "fidelity: .*got 'much'"),
        ({"fidelity": 0}, "fidelity: .*got 0"),
        ({"fidelity": "100%"}, "fidelity: .*got '100%'"),
        ({"fidelity": float("nan")}, "fidelity: .*got nan"),
        ({"fidelity": 0.04, "bytes_per_image": 100}, "fidelity: expected None, as bytes_per_image is given, got 0.04"),
        ({"bytes_per_image": -1}, "bytes_per_image: expected a positive number, got -1"),
        ({"bytes_per_image": "many"}, "bytes_per_image: expected a positive number, got 'many'"),
        ({"draws": 100}, "draws: expected None, as bytes_per_image is not given, got 100"),
        ({"bytes_per_image": 100, "draws": 0}, "draws: expected an integer of at least 1, got 0"),
        ({"temperature": 0}, "temperature: expected a number from 0.0001 to 10000, got 0"),
        ({"train_temperature": "warm"}, "train_temperature: expected a number from 0.0001 to 10000, got 'warm'"),
    ],
)
def test_wrong_wishes(options, message):
    with pytest.raises(ArgumentError, match=message):
        choose_codec(pilot_of(np.zeros((1, 5, 10))), 10, **options)


@pytest.mark.parametrize(
    ("pilot", "message"),
    [
        ({}, "pilot: expected a mapping from at least one key"),
        ([1], "pilot: expected a mapping from at least one key"),
        ({"a": None}, "pilot: image 'a': expected what SoftLabelWriter.add takes, with image_size and probs"),
        ({"a": {"image_size": SIZE}}, "pilot: image 'a': expected what SoftLabelWriter.add takes, with image_size and probs"),
        ({"a": {"image_size": SIZE, "probs": np.ones((3, 4)) / 4}}, r"pilot: image 'a': probs: expected shape \(M, 10\), got \(3, 4\)"),
        ({"a": {"image_size": SIZE, "probs": np.ones((3, 10)) / 10}}, "image 'a': expected crops and flips"),
        ({"a": {**pilot_of(np.zeros((1, 5, 10)))["000.jpg"], "probs": np.ones((5, 10))}}, "image 'a': probs: row 0"),
    ],
)
def test_wrong_pilots(pilot, message):
    with pytest.raises(ArgumentError, match=message):
        choose_codec(pilot, 10)


def test_auto_is_no_codec_of_a_writer(tmp_path):
    with pytest.raises(
        ArgumentError, match=r"labels, which are needed first: pass those of some hundred images to softlabel_codec\.choose_codec"
    ):
        SoftLabelWriter(tmp_path / "a.slc", 10, "auto")
    with pytest.raises(ArgumentError, match="choose_codec"):
        Codec.parse("auto")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_folder_of_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    choose_codec(pilot_of(np.zeros((2, 5, 10))), 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
@pytest.mark.parametrize(("num_crops", "most_bytes"), [(200, 700), (10, 220)])
def test_labels_of_photographs(teacher_logits, num_crops, most_bytes):
    logits = teacher_logits["logits"][::4, :num_crops].astype(np.float32)
    pilot = {
        str(key): {"image_size": tuple(size.tolist()), "crops": crops[:num_crops], "flips": flips[:num_crops], "probs": softmax(of_image)}
        for key, size, crops, flips, of_image in zip(
            *(teacher_logits[name][::4] for name in ("keys", "image_size", "crops", "flips")), logits, strict=True
        )
    }
    choice = choose_codec(pilot, 1000)
    assert choice.lost <= 0.04
    assert choice.bytes_per_image < most_bytes + 4 * num_crops  # crops are stored here
