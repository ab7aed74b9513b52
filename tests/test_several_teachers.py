"""Several teachers that label together, and a teacher that is added to labels which are there."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import write_labels
from PIL import Image

from softlabel_codec import ArgumentError, CorruptError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.images.files import load_image
from softlabel_codec.padding import Padding
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, check_labels, encode
from softlabel_codec.views import AllViews

OTHER = """
import torch
from torch import nn

NAME = "other"
INPUT_SIZE = 24
MEAN = (0.4, 0.5, 0.6)
STD = (0.2, 0.3, 0.2)
INTERPOLATION = "bicubic"

def build():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 10))

def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 5))

def sharp():
    return nn.Sequential(build(), Times())

def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 1))

def broken():
    return nn.Sequential(build(), Broken())

def first_class():
    return Sure(0)

def second_class():
    return Sure(1)

class Broken(nn.Module):
    calls = 0

    def forward(self, logits):
        self.calls += 1
        return logits if self.calls == 1 else logits * float("nan")

class Sure(nn.Module):
    def __init__(self, which):
        super().__init__()
        self.register_buffer("probs", torch.eye(10)[which])

    def forward(self, images):
        return self.probs.expand(len(images), -1)

class Times(nn.Module):
    def forward(self, logits):
        return 30 * logits
"""


@pytest.fixture
def other_file(tmp_path) -> str:
    (tmp_path / "other_teacher.py").write_text(OTHER)
    return f"{tmp_path / 'other_teacher.py'}:sharp"


@pytest.fixture
def label(image_folder, tmp_path):
    """Label the images with one teacher or several; return the path of the file."""

    def do(name, teacher, **options):
        given = {"codec": "dense:values=f32", "sampler": CropSampler(seed=2), "crops": 6, **options}
        if "crops_of" in options:
            given = {**given, "sampler": CropSampler(), "crops": None}
        progress = given.pop("progress", None)
        encode(EncodeConfig(str(image_folder), str(tmp_path / name), teacher, **given), progress)
        return tmp_path / name

    return do


def targets(path):
    with SoftLabelReader(path) as reader:
        return {image_key: image.labels.dense() for image_key, image in zip(reader.keys, reader, strict=True)}


def vectors(path):
    with SoftLabelReader(path) as reader:
        return {image_key: image.labels.vectors for image_key, image in zip(reader.keys, reader, strict=True)}


def softmax(logits):
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy()


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ((3, 1), (0.75, 0.25)), ("0.2,0.6", (0.25, 0.75))])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_are_averaged_as_by_hand(label, teacher_file, other_file, weights, shares, temperature):
    one, two = label("one.slc", teacher_file, temperature=temperature), label("two.slc", other_file, temperature=temperature)
    both = label("both.slc", [teacher_file, other_file], weights=weights, temperature=temperature)
    first, second = targets(one), targets(two)
    assert max(np.abs(first[key] - second[key]).max() for key in first) > 0.3  # or the test would say little
    for key, found in targets(both).items():
        np.testing.assert_allclose(found, shares[0] * first[key] + shares[1] * second[key], atol=1e-6)


def test_logits_are_averaged_before_softmax_and_temperature(label, teacher_file, other_file):
    raw = [
        vectors(label(f"{number}.slc", name, codec="dense:content=logits,values=f32"))
        for number, name in enumerate((teacher_file, other_file))
    ]
    how = {"weights": (0.25, 0.75), "average": "logits"}
    probs = targets(label("probs.slc", [teacher_file, other_file], temperature=2.0, **how))
    kept = vectors(label("logits.slc", [teacher_file, other_file], codec="dense:content=logits,values=f32", **how))
    for key in probs:
        mean = 0.25 * raw[0][key] + 0.75 * raw[1][key]
        np.testing.assert_allclose(kept[key], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probs[key], softmax(mean / 2), atol=1e-6)


def test_each_teacher_gets_crops_as_it_wants_them(label, teacher_file, other_file):
    """Alone or beside others, each sees the same: a share of nearly everything gives nearly its own labels."""
    for number, name in enumerate((teacher_file, other_file)):
        alone = targets(label(f"alone{number}.slc", name))
        weights = [1.0, 1e-9] if number == 0 else [1e-9, 1.0]
        for key, found in targets(label(f"both{number}.slc", [teacher_file, other_file], weights=weights)).items():
            np.testing.assert_allclose(found, alone[key], atol=1e-6)


def test_a_file_says_what_each_teacher_was_and_what_they_have_in_common(label, teacher_file, other_file):
    both = label("both.slc", [teacher_file, other_file], weights=(3, 1), average="logits")
    with SoftLabelReader(label("one.slc", teacher_file)) as one, SoftLabelReader(label("two.slc", other_file)) as two:
        each = [(reader.metadata["teacher"], reader.metadata["preprocessing"]) for reader in (one, two)]
    with SoftLabelReader(both) as reader:
        teacher, prepared = reader.metadata["teacher"], reader.metadata["preprocessing"]
    assert (teacher["name"], teacher["source"]) == ("tiny + other", "tiny_teacher.py:build + other_teacher.py:sharp")
    assert teacher["average"] == "logits"
    for found, (alone, of_crops), share in zip(teacher["teachers"], each, (0.75, 0.25), strict=True):
        known = {name: of_crops[name] for name in ("size", "interpolation", "mean", "std")}
        assert found == {**alone, **known, "share": share}
    assert sorted(prepared) == ["color", "exif_orientation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (0.5,)}, "expected a positive number for each of 2 teachers, such as 0.5,0.5, got"),
        ({"weights": (0.5, 0.25, 0.25)}, "weights: expected a positive number for each of 2"),
        ({"weights": (1.5, -0.5)}, "weights: expected a positive number"),
        ({"weights": (0, 0)}, "weights: expected a positive number"),
        ({"weights": (float("nan"), 1)}, "weights: expected a positive number"),
        ({"weights": (float("inf"), 1)}, "weights: expected a positive number"),
        ({"weights": (1e308, 1e308)}, "weights: expected a positive number"),
        ({"weights": (5e-324, 1e300)}, "weights: expected a positive number"),
        ({"weights": "resnet.pt"}, r"got 'resnet\.pt'.*--teacher-weights"),
        ({"weights": 0.5}, "weights: expected a positive number"),
        ({"average": "median"}, "average: expected probs or logits, got 'median'"),
        ({"codec": "dense:content=logits"}, "average: expected 'logits', as the codec keeps logits"),
        ({"size": 32}, "size: expected None, as each of several teachers has its own, got 32"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean: expected None, as each of several"),
        ({"device": "cpu,cpu,cpu"}, "device: expected one device, or one for each of 2 teachers"),
        ({"device": "cpu,meta"}, "device: expected devices of one kind, got 'cpu,meta'"),
        ({"teacher_weights": "none"}, "teacher_weights: is for timm:NAME and torchvision:NAME; .* load their weights themselves"),
        ({"stored_share": 0.5}, r"stored_share: expected None without crops_of \(--crops-of\)"),
    ],
)
def test_what_cannot_be_averaged_is_refused(label, teacher_file, other_file, options, message):
    with pytest.raises(ArgumentError, match=message):
        label("both.slc", [teacher_file, other_file], **options)


def test_one_teacher_has_no_weights(label, teacher_file):
    for options in ({"weights": (1.0,)}, {"weights": (0.5, 0.5)}, {"weights": "w.pt"}, {"average": "logits"}, {"device": "cpu,cpu"}):
        with pytest.raises(ArgumentError, match="as there is one teacher"):
            label("one.slc", [teacher_file], **options)
    with pytest.raises(ArgumentError, match="teacher: expected a text, or several, got"):
        label("one.slc", [])


def test_one_teacher_in_a_list_makes_the_same_file(label, teacher_file):
    assert label("a.slc", [teacher_file]).read_bytes() == label("b.slc", teacher_file).read_bytes()


def test_teachers_of_other_classes_are_refused(label, teacher_file, other_file):
    five = other_file.replace(":sharp", ":five")
    with pytest.raises(MismatchError, match="expected the same number of classes of all, got 10 of tiny, 5 of other"):
        label("both.slc", [teacher_file, other_file, five])


def test_the_teacher_whose_output_is_nan_is_named(label, teacher_file, other_file):
    with pytest.raises(MismatchError, match=r"^teacher other: its output cannot be stored as labels: .*NaN"):
        label("both.slc", [teacher_file, other_file.replace(":sharp", ":broken")])


def test_probabilities_without_a_common_class_have_no_average_of_logits(label, other_file):
    sure = [other_file.replace(":sharp", f":{name}") for name in ("first_class", "second_class")]
    with pytest.raises(MismatchError, match=r"no class a probability above 0 in common.*--average probs"):
        label("both.slc", sure, teacher_output="probs", average="logits")
    for found in targets(label("both.slc", sure, teacher_output="probs")).values():
        np.testing.assert_allclose(found[:, :2], 0.5)


def test_a_single_number_is_not_an_output(label, other_file):
    with pytest.raises(MismatchError, match="teacher other: expected logits of at least 2 numbers for each crop, got 1"):
        label("one.slc", other_file.replace(":sharp", ":one"))


def test_names_of_devices_may_have_spaces_between_them(label, teacher_file, other_file):
    both = [teacher_file, other_file]
    assert label("a.slc", both, device="cpu, cpu").read_bytes() == label("b.slc", both, device="cpu").read_bytes()


def stop_after(images):
    def stop(done, total):
        if done >= images:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_run_continues_to_the_same_bytes_and_with_nothing_else(label, teacher_file, other_file, tmp_path):
    both, how = [teacher_file, other_file], {"crops": 60, "weights": (0.4, 0.6)}
    whole = label("whole.slc", both, **how).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        label("again.slc", both, **how, progress=stop_after(3))
    for teachers, other in (
        (both, {**how, "weights": (0.6, 0.4)}),
        (both, {**how, "average": "logits"}),
        (both[::-1], how),
        ([*both, teacher_file], {"crops": 60}),
        (teacher_file, {"crops": 60}),
    ):
        with pytest.raises(MismatchError, match=r"metadata\['teacher'\]"):
            label("again.slc", teachers, **other)
        with pytest.raises(FileExistsError, match=r"metadata\['teacher'\]"):
            label("whole.slc", teachers, **other)
    assert label("again.slc", both, **{**how, "weights": (2, 3)}).read_bytes() == whole  # the same shares


def test_shards_are_those_of_one_file(label, teacher_file, other_file, tmp_path):
    both, how = [teacher_file, other_file], {"crops": 20, "workers": 1}
    one = targets(label("one.slc", both, **how))
    label("set", both, **how, shards=2)
    found = targets(tmp_path / "set")
    assert list(found) == list(one)
    for key, probs in found.items():
        np.testing.assert_array_equal(probs, one[key])


def test_a_codec_is_chosen_by_the_average(label, teacher_file, other_file):
    with SoftLabelReader(label("auto.slc", [teacher_file, other_file], codec="auto", fidelity="1%")) as reader:
        assert reader.metadata["codec_choice"]["pilot_images"] == 6


def test_check_knows_labels_of_several_teachers(label, teacher_file, other_file, image_folder):
    for average in ("probs", "logits"):
        both = label(f"{average}.slc", [teacher_file, other_file], weights=(0.3, 0.7), average=average, temperature=3.0)
        report = check_labels(both, str(image_folder), [teacher_file, other_file])
        assert (report.found.ok, report.same_weights, report.teacher) == (True, True, "tiny + other")
        assert report.found.kl < 1e-5
    assert not check_labels(both, str(image_folder), [teacher_file, teacher_file]).same_weights
    with pytest.raises(MismatchError, match="expected 2 teachers, in this order: tiny, other; got 1"):
        check_labels(both, str(image_folder), teacher_file)


def test_the_command_takes_several_teachers(image_folder, tmp_path, teacher_file, other_file, label):
    teachers = ["--teacher", teacher_file, "--teacher", other_file]
    command = [sys.executable, "-m", "softlabel_codec"]
    encode_them = ["encode", str(image_folder), str(tmp_path / "both.slc"), *teachers, "--weights", "1,3", "--crops", "6", "--seed", "2"]
    subprocess.run([*command, *encode_them, "--codec", "dense:values=f32", "--workers", "0"], check=True, capture_output=True)
    same = label("same.slc", [teacher_file, other_file], weights=(1, 3))
    with SoftLabelReader(tmp_path / "both.slc") as found, SoftLabelReader(same) as wanted:
        assert found.metadata == wanted.metadata
        for one, two in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.labels.dense(), two.labels.dense())
    checked = [*command, "check", str(tmp_path / "both.slc"), "--images", str(image_folder), *teachers, "--json"]
    assert json.loads(subprocess.run(checked, check=True, capture_output=True).stdout)["same_weights"] is True
    maps = [*command, "encode", str(image_folder), str(tmp_path / "maps.npz"), *teachers, "--label-maps"]
    done = subprocess.run(maps, check=False, capture_output=True, text=True)
    assert (done.returncode, "--label-maps are those of one --teacher" in done.stderr) == (2, True)


# Stored crops


@pytest.mark.parametrize("store_crops", [False, True])
def test_stored_crops_are_labelled_by_another_teacher(label, teacher_file, other_file, store_crops, tmp_path):
    old = label("old.slc", teacher_file, store_crops=store_crops)
    again = label("again.slc", other_file, crops_of=str(old))
    fresh = targets(label("fresh.slc", other_file, store_crops=store_crops))
    with SoftLabelReader(old) as before, SoftLabelReader(again) as after:
        assert (after.crops, after.sampler, list(after.keys)) == (before.crops, before.sampler, list(before.keys))
        for one, two in zip(before, after, strict=True):
            np.testing.assert_array_equal(one.crops, two.crops)
            np.testing.assert_array_equal(one.flips, two.flips)
            assert one.image_crc32 == two.image_crc32
        assert after.metadata["crops_of"] == {"fingerprint": before.fingerprint}
        assert after.metadata["crops_per_image"] == 6
        assert after.metadata["crop_sampler"]["seed"] == 2
    for key, found in targets(again).items():
        np.testing.assert_array_equal(found, fresh[key])


def test_all_views_of_padded_images_are_labelled_again(label, teacher_file, other_file, image_folder):
    for path in sorted(image_folder.rglob("*.*")):
        if not path.name.startswith(".") and path.suffix != ".txt":
            path.unlink()
    for number in range(3):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(image_folder / f"{number}.png")
    how = {"crops": None, "sampler": AllViews(20, 20), "padding": Padding(2, "reflect")}
    old = label("old.slc", teacher_file, **how)
    fresh, again = targets(label("fresh.slc", other_file, **how)), label("again.slc", other_file, crops_of=str(old))
    with SoftLabelReader(again) as reader:
        assert (reader.padding, reader.sampler, reader.num_crops.tolist()) == (Padding(2, "reflect"), AllViews(20, 20), [50] * 3)
    for key, found in targets(again).items():
        np.testing.assert_array_equal(found, fresh[key])


def test_stored_labels_are_averaged_with_new_ones(label, teacher_file, other_file):
    for codec, temperature in (("dense:values=f32", 1.0), ("marginal_smoothing:k=3", 2.0), ("dense:content=logits,values=f32", 1.0)):
        old = label("old.slc", teacher_file, codec=codec, temperature=temperature, overwrite=True)
        before, new = targets(old), targets(label("new.slc", other_file, temperature=temperature, overwrite=True))
        how = {"crops_of": str(old), "stored_share": 0.25, "temperature": temperature, "overwrite": True}
        both = label("both.slc", other_file, **how)
        for key, found in targets(both).items():
            np.testing.assert_allclose(found, 0.25 * before[key] + 0.75 * new[key], atol=1e-6)
        with SoftLabelReader(both) as reader:
            assert [(one["name"], one["share"], one.get("stored_as")) for one in reader.metadata["teacher"]["teachers"]] == [
                ("tiny", 0.25, [old_codec(old)]),
                ("other", 0.75, None),
            ]


def old_codec(path):
    with SoftLabelReader(path) as reader:
        return reader.codec


def test_teachers_that_are_added_one_after_another_are_those_of_one_run(label, teacher_file, other_file, image_folder):
    third = teacher_file
    at_once = targets(label("at_once.slc", [teacher_file, other_file, third], weights=(2, 1, 1)))
    two = label("two.slc", [teacher_file, other_file], weights=(2, 1))
    three = label("three.slc", third, crops_of=str(two), stored_share=0.75)
    for key, found in targets(three).items():
        np.testing.assert_allclose(found, at_once[key], atol=1e-6)
    with SoftLabelReader(three) as reader:
        known = reader.metadata["teacher"]["teachers"]
    assert [one["share"] for one in known] == pytest.approx([0.5, 0.25, 0.25])
    assert [one.get("stored_as") for one in known] == [["dense"], ["dense"], None]
    assert check_labels(three, str(image_folder), [teacher_file, other_file, third]).found.kl < 1e-5


def test_an_average_of_logits_stays_one_when_a_teacher_is_added(label, teacher_file, other_file, image_folder):
    two = label("two.slc", [teacher_file, other_file], average="logits")
    with SoftLabelReader(two) as reader:
        before = reader.metadata["teacher"]
    with SoftLabelReader(three := label("three.slc", teacher_file, crops_of=str(two), stored_share=0.5)) as reader:
        first, last = reader.metadata["teacher"]["teachers"]
    assert (first["average"], first["teachers"], first["share"], last["share"]) == ("logits", before["teachers"], 0.5, 0.5)
    with pytest.raises(MismatchError, match="averaged with an average of logits cannot be checked"):
        check_labels(three, str(image_folder), [teacher_file, other_file, teacher_file])


def test_labels_of_nobody_knows_which_teacher_may_be_averaged(tmp_path, image_folder, label, other_file):
    write_labels(tmp_path / "old.slc", keys=["cat/a.JPEG"], counts=(4,), size=(40, 50), num_classes=10, codec="dense:values=f16")
    both = label("new.slc", other_file, crops_of=str(tmp_path / "old.slc"), stored_share=0.5, codec="marginal_smoothing:k=9")
    with SoftLabelReader(both) as reader:
        first = reader.metadata["teacher"]["teachers"][0]
    assert first == {"name": "old.slc", "share": 0.5, "stored_as": ["dense:values=f16"]}
    old, new = targets(tmp_path / "old.slc"), targets(label("alone.slc", other_file, crops_of=str(tmp_path / "old.slc")))
    np.testing.assert_allclose(targets(both)["cat/a.JPEG"], 0.5 * old["cat/a.JPEG"] + 0.5 * new["cat/a.JPEG"], atol=1e-2)


@pytest.mark.parametrize(
    "metadata",
    [
        {"teacher": {"name": "two", "average": "probs"}},
        {"teacher": {"name": "two", "average": "probs", "teachers": []}},
        {"teacher": {"name": "two", "average": "probs", "teachers": ["a", "b"]}},
        {"teacher": {"name": "two", "average": "probs", "teachers": [{"name": "a"}, {"name": "b"}]}},
        {"teacher": {"name": "two", "average": "probs", "teachers": [{"share": "x"}, {"share": 0.5}]}},
        {"teacher": {"name": "two"}, "transcoded_from": 3},
    ],
)
def test_what_other_programs_say_of_teachers_is_kept_as_it_is(tmp_path, image_folder, label, other_file, metadata):
    write_labels(tmp_path / "old.slc", keys=["cat/a.JPEG"], counts=(4,), size=(40, 50), num_classes=10, codec="dense", metadata=metadata)
    both = label("new.slc", other_file, crops_of=str(tmp_path / "old.slc"), stored_share=0.5)
    with SoftLabelReader(both) as reader:
        first, last = reader.metadata["teacher"]["teachers"]
    assert first == {**metadata["teacher"], "share": 0.5, "stored_as": ["dense"]}
    assert last["name"] == "other"
    if len(metadata["teacher"].get("teachers", [])) == 2:
        with pytest.raises(MismatchError, match="name 2 teachers, but not the share of each"):
            check_labels(tmp_path / "old.slc", str(image_folder), [other_file, other_file])


def test_crops_that_are_fractions_are_labelled_in_pixels(tmp_path, image_folder, label, other_file):
    with SoftLabelWriter(tmp_path / "old.slc", 10, "hard", crops="fractions:f32") as writer:
        crops, probs = np.float32([[0.0, 0.25, 0.5, 0.5], [0.1, 0.0, 0.75, 1.0]]), np.eye(10, dtype=np.float32)[:2]
        writer.add("cat/a.JPEG", crops=crops, flips=[True, False], probs=probs)
    with SoftLabelReader(label("new.slc", other_file, crops_of=str(tmp_path / "old.slc"))) as reader:
        image = reader["cat/a.JPEG"]
    assert (reader.crops, image.crops.tolist(), image.flips.tolist()) == ("pixels", [[0, 12, 20, 25], [4, 0, 30, 50]], [True, False])


def test_labels_of_unknown_crops_are_refused(tmp_path, label, other_file):
    write_labels(tmp_path / "old.slc", keys=["cat/a.JPEG"], counts=(4,), num_classes=10, metadata={"unknown_crops": "they were lost"})
    with pytest.raises(MismatchError, match="it is not known which crops these labels belong to: they were lost"):
        label("new.slc", other_file, crops_of=str(tmp_path / "old.slc"))


def test_inspect_lists_each_teacher(label, teacher_file, other_file):
    done = CliRunner().invoke(main, ["inspect", str(label("both.slc", [teacher_file, other_file], weights=(3, 1)))])
    assert re.search(r"teacher\.teachers\[0\]\.share +0\.75\n", done.output), done.output
    assert re.search(r"teacher\.teachers\[1\]\.size +24\n", done.output), done.output


def test_images_may_have_different_numbers_of_crops(label, teacher_file, other_file, image_folder, tmp_path):
    sampler, keys = CropSampler(seed=2), ["cat/a.JPEG", "cat/b.png", "cat/grey.jpg"]
    with SoftLabelWriter(tmp_path / "uneven.slc", 10, "hard") as writer:
        for key, count in zip(keys, (3, 40, 17), strict=True):
            size = load_image(image_folder / key).size[::-1]
            crops, flips = sampler.sample(key, size, range(count))
            writer.add(key, image_size=size, crops=crops, flips=flips, probs=np.eye(10, dtype=np.float32)[np.zeros(count, int)])
    fresh = targets(label("fresh.slc", other_file, crops=40))
    for batch_size in (16, 50, 7):
        again = label("again.slc", other_file, crops_of=str(tmp_path / "uneven.slc"), batch_size=batch_size, overwrite=True)
        with SoftLabelReader(again) as reader:
            assert (reader.num_crops.tolist(), "crops_per_image" in reader.metadata) == ([3, 40, 17], False)
        for key, found in targets(again).items():
            np.testing.assert_allclose(found, fresh[key][: len(found)], atol=1e-6)
        assert verify(again, deep=True).ok
    report = encode(EncodeConfig(str(image_folder), str(tmp_path / "auto.slc"), other_file, crops_of=str(tmp_path / "uneven.slc")))
    assert report.crops_per_image == 20


def test_a_run_on_stored_crops_continues_to_the_same_bytes(label, teacher_file, other_file, tmp_path):
    old = label("old.slc", teacher_file, crops=60, store_crops=True)
    how = {"crops_of": str(old), "stored_share": 0.5, "workers": 1}
    whole = label("whole.slc", other_file, **how).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        label("again.slc", other_file, **how, progress=stop_after(3))
    with pytest.raises(MismatchError, match=r"metadata\['teacher'\]"):
        label("again.slc", other_file, **{**how, "stored_share": 0.4})
    other = label("other.slc", teacher_file, crops=60, store_crops=True, sampler=CropSampler(seed=3))
    with pytest.raises(MismatchError, match=r"metadata\['crops_of'\]\['fingerprint'\]|metadata\['crop_sampler'\]"):
        label("again.slc", other_file, **{**how, "crops_of": str(other)})
    assert label("again.slc", other_file, **how).read_bytes() == whole


def test_crops_of_a_set_are_labelled_in_shards(label, teacher_file, other_file, tmp_path):
    label("old", teacher_file, shards=2)
    one = targets(label("one.slc", other_file, crops_of=str(tmp_path / "old"), stored_share=0.5))
    label("new", other_file, crops_of=str(tmp_path / "old"), stored_share=0.5, shards=3)
    found = targets(tmp_path / "new")
    assert list(found) == list(one)
    for key, probs in found.items():
        np.testing.assert_array_equal(probs, one[key])


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_missing_or_changed_are_refused(label, teacher_file, other_file, image_folder, tmp_path, workers):
    old = label("old.slc", teacher_file)
    how = {"crops_of": str(old), "on_error": "skip", "workers": workers}
    kept = (image_folder / "cat" / "grey.jpg").read_bytes()
    (image_folder / "cat" / "grey.jpg").write_bytes(kept + b"\0")
    with pytest.raises(MismatchError, match=r"image 'cat/grey\.jpg': expected the file that was labelled, with CRC-32"):
        label("new.slc", other_file, **how)
    (image_folder / "cat" / "grey.jpg").unlink()
    with pytest.raises(MismatchError, match=r"expected all of 6 images of .*old\.slc, 1 are missing, 'cat/grey\.jpg' first"):
        label("new.slc", other_file, **how)
    (image_folder / "cat" / "grey.jpg").write_bytes(kept)
    shutil.copy(image_folder / "cat" / "a.JPEG", image_folder / "cat" / "later.JPEG")  # was not there: has no crops
    with SoftLabelReader(label("new.slc", other_file, **how)) as reader:
        assert len(reader) == 6


def test_images_of_another_size_are_refused_where_there_are_no_checksums(tmp_path, image_folder, label, teacher_file, other_file):
    write_labels(tmp_path / "old.slc", keys=["cat/a.JPEG"], counts=(4,), size=(48, 64), num_classes=10)
    with pytest.raises(MismatchError, match=r"image 'cat/a\.JPEG': expected 48 x 64 pixels \(height x width\) as labelled, got 40 x 50"):
        label("new.slc", other_file, crops_of=str(tmp_path / "old.slc"))


def test_a_damaged_file_of_crops_is_an_error(label, teacher_file, other_file, tmp_path):
    old = label("old.slc", teacher_file, crops=40)
    damaged = bytearray(old.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "damaged.slc").write_bytes(damaged)
    with pytest.raises(CorruptError, match=r"damaged\.slc"):
        label("new.slc", other_file, crops_of=str(tmp_path / "damaged.slc"), on_error="skip")


def test_stored_crops_allow_no_others(label, teacher_file, other_file, tmp_path, image_folder):
    old = label("old.slc", teacher_file, temperature=2.0)
    own = {"images": str(image_folder), "out": str(tmp_path / "new.slc"), "teacher": other_file, "crops_of": str(old)}
    for options, message in (
        ({"crops": 5}, "crops: expected None, as crops are those of other labels, got 5"),
        ({"sampler": CropSampler(seed=3)}, r"crops_of: sampler and padding are those of .*old\.slc"),
        ({"padding": Padding(4)}, "crops_of: sampler and padding are those of"),
        ({"out": str(old)}, "crops_of: expected other labels than those that are to be written"),
        ({"stored_share": 1.0}, "stored_share: expected a number between 0 and 1, got 1.0"),
        ({"stored_share": float("nan")}, "stored_share: expected a number between 0 and 1"),
        ({"stored_share": 0.5, "codec": "dense:content=logits"}, "codec: expected one of probabilities, as stored labels are averaged"),
    ):
        with pytest.raises(ArgumentError, match=message):
            encode(EncodeConfig(**{**own, **options}))
    for options, message in (
        ({"stored_share": 0.5}, r"expected labels at temperature 1, as the new ones, got labels at 2\. Pass temperature=2"),
        ({"exif_orientation": "applied"}, "these labels were made with exif_orientation='ignored', expected 'applied'"),
        (
            {"stored_share": 0.5, "temperature": 2.0, "teacher": other_file.replace(":sharp", ":five")},
            r"expected the same number of classes, got 10 of .*old\.slc, 5 of other",
        ),
    ):
        with pytest.raises(MismatchError, match=message):
            encode(EncodeConfig(**{**own, **options}))


@pytest.mark.shared
def test_real_teachers_of_different_sizes_and_normalisations(shared, tmp_path):
    """MobileNetV2 as it was trained, and as another file prepares it, on photographs."""
    images = tmp_path / "images"
    for path in sorted((shared / "data" / "imagenet-100" / "train").glob("*/*.JPEG"))[:3]:
        (images / path.parent.name).mkdir(parents=True)
        shutil.copy(path, images / path.parent.name)
    for name in ("mobilenet_v2.py", "mobilenet_v2.npz"):
        shutil.copy(shared / "teacher" / name, tmp_path)
    (tmp_path / "smaller.py").write_text(
        "from mobilenet_v2 import build as whole\n"
        "NAME, INPUT_SIZE, MEAN, STD, INTERPOLATION = 'smaller', 128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 'bicubic'\n"
        "def build():\n    return whole()\n"
    )
    teachers = [f"{tmp_path / 'mobilenet_v2.py'}:build", f"{tmp_path / 'smaller.py'}:build"]

    def label(name, **options):
        encode(EncodeConfig(str(images), str(tmp_path / name), codec="dense:values=f32", **{"crops": 4, **options}))
        return targets(tmp_path / name)

    one, two = (label(f"{number}.slc", teacher=teacher) for number, teacher in enumerate(teachers))
    both = label("both.slc", teacher=teachers, weights=(0.75, 0.25))
    added = label("added.slc", teacher=teachers[1], crops=None, crops_of=str(tmp_path / "0.slc"), stored_share=0.75)
    for key in one:
        assert np.abs(one[key] - two[key]).sum(axis=1).mean() > 0.05
        np.testing.assert_allclose(both[key], 0.75 * one[key] + 0.25 * two[key], atol=1e-6)
        np.testing.assert_allclose(added[key], both[key], atol=1e-6)
    report = check_labels(tmp_path / "both.slc", str(images), teachers)
    assert (report.found.ok, report.same_weights) == (True, True)


@pytest.mark.parametrize("more", [{"teacher": ["a.py:build", "b.py:build"]}, {"crops_of": "old.slc", "stored_share": 0.5}])
def test_features_are_not_averaged(more):
    options = {"images": "photos", "out": "a.slc", "teacher": "a.py:build", **more}
    with pytest.raises(ArgumentError, match="features cannot be averaged"):
        EncodeConfig(**options, teacher_output="features", codec="dense:values=f16,content=features")
