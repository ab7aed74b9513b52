"""What a finished student is worth: accuracy, ReaL, calibration, on folders as people have them."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from shapes import COLORS, config
from torch import nn

from softlabel_codec import ArgumentError, CorruptError, MismatchError
from softlabel_codec.cli.main import main
from softlabel_codec.evaluate import Student, evaluate, load_student
from softlabel_codec.evaluate.evaluator import calibration_error, read_real
from softlabel_codec.images.classes import read_class_folders
from softlabel_codec.images.files import center_crop
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.students import build_student
from softlabel_codec.trainer import train


class Fixed(nn.Module):
    """Says of an image what its red channel encodes: class and confidence."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        said = (images[:, 0, 0, 0] * 255).round().long() % self.num_classes
        order = (torch.arange(self.num_classes)[None] - said[:, None]) % self.num_classes
        return -order.float()  # the class itself first, then the next ones


def write_images(folder, said: dict[str, int]) -> None:
    for key, number in said.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / key)


def fixed(num_classes, folders=()):
    return Student(Fixed(num_classes), num_classes, 8, (0.0,) * 3, (1.0,) * 3, crop=1.0, folders=list(folders))


def test_top_1_and_top_5(tmp_path):
    # classes a to h; an image that says 0 ranks 0, 1, 2, 3, 4 first
    write_images(tmp_path, {"a/1.png": 0, "b/1.png": 0, "e/1.png": 0, "f/1.png": 0, "h/1.png": 7})
    found = evaluate(fixed(8, "abcdefgh"), tmp_path)
    assert (found.num_images, found.top1, found.top5, found.real) == (5, 2 / 5, 4 / 5, None)


def test_calibration():
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.55, 0.55], dtype=torch.float64)
    right = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert calibration_error(confidence, right) == pytest.approx((3 * abs(0.95 - 2 / 3) + 2 * abs(0.55 - 0.5)) / 5)
    assert calibration_error(torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)) == 0


def test_imagenet_real(tmp_path):
    keys = {f"n{number}/ILSVRC2012_val_0000000{number}.png": 0 for number in (1, 2, 3, 4)}
    write_images(tmp_path / "val", keys)
    (tmp_path / "real.json").write_text(json.dumps([[0], [1, 3], [], [2, 0]]))
    found = evaluate(fixed(4, ["n1", "n2", "n3", "n4"]), tmp_path / "val", real=tmp_path / "real.json")
    assert found.real == 2 / 3  # the third has no accepted class and does not count
    assert found.top1 == 1 / 4
    with pytest.raises(ArgumentError, match=r"'a/cat\.png': expected the name of a validation image of ImageNet"):
        read_real(tmp_path / "real.json", ["a/cat.png"])
    for text in ("{", "[1, 2]", "{}"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CorruptError, match=r"bad\.json: expected a (JSON )?list"):
            read_real(tmp_path / "bad.json", list(keys))


def test_imagenet_v2_has_class_numbers_for_folders(tmp_path):
    write_images(tmp_path, {f"{number}/x.png": number for number in range(12)})
    known = [f"n{number:05d}" for number in range(12)]
    assert evaluate(fixed(12, known), tmp_path).top1 == 1.0
    assert evaluate(fixed(12), tmp_path).top1 == 1.0  # 10 does not come after 1


def test_folders_that_do_not_fit(tmp_path):
    write_images(tmp_path / "a", {"cat/x.png": 0, "dog/x.png": 1, "emu/x.png": 2})
    with pytest.raises(MismatchError, match=r"the image 'emu/x\.png' lies in none of the 2 class folders. Say with --classes FILE"):
        evaluate(fixed(2, ["cat", "dog"]), tmp_path / "a")
    for num_classes in (2, 4):  # nobody knows which of four these three are
        expected = f"a: has 3 class folders, expected {num_classes}. Say with --classes FILE which class folder has which number"
        with pytest.raises(MismatchError, match=expected):
            evaluate(fixed(num_classes), tmp_path / "a")
    (tmp_path / "four.txt").write_text("ant\ncat\ndog\nemu\n")
    assert evaluate(fixed(4), tmp_path / "a", classes=tmp_path / "four.txt").top1 == 0
    with pytest.raises(MismatchError, match="has 3 classes, the network 2"):
        evaluate(fixed(2, ["cat", "dog", "emu"]), tmp_path / "a")
    write_images(tmp_path / "b", {"x.png": 0})
    with pytest.raises(MismatchError, match=r"the image 'x\.png' lies in none of the 2 class folders"):
        evaluate(fixed(2, ["cat", "dog"]), tmp_path / "b")


@pytest.mark.parametrize(
    "classes",
    [
        {"emu": 700, "cat": 3},
        {"700": ["emu", "a bird"], "3": ["cat", "an animal"], "9": ["ant", "an insect"]},
        {f"{number}": [f"n{number}", "?"] for number in range(1000)} | {"3": ["cat", "an animal"], "700": ["emu", "a bird"]},
    ],
)
def test_a_few_classes_of_a_thousand(tmp_path, classes):
    write_images(tmp_path / "val", {"cat/x.png": 3, "cat/y.png": 4, "emu/x.png": 700 % 256})
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    found = evaluate(fixed(1000), tmp_path / "val", classes=tmp_path / "classes.json")
    assert (found.num_images, found.top1) == (3, 1 / 3)
    (tmp_path / "val" / "emu").rename(tmp_path / "val" / "gnu")
    with pytest.raises(MismatchError, match=rf"the image 'gnu/x\.png' lies in none of the {len(classes)} class folders"):
        evaluate(fixed(1000), tmp_path / "val", classes=tmp_path / "classes.json")
    with pytest.raises(MismatchError, match=r"classes\.json: expected numbers of 500 classes, 0 to 499, got (700|999)"):
        evaluate(fixed(500), tmp_path / "val", classes=tmp_path / "classes.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cat": 1, "cat": 2}', "class 2 or the folder 'cat' is named twice"),
        ('{"cat": 1, "dog": 1}', "class 1 or the folder 'dog' is named twice"),
        ('{"cat": -1}', 'expected {"folder": number} or {"number": ["folder", "name"]}, got \'cat\': -1'),
        ('{"cat": true}', "got 'cat': True"),
        ('{"cat": ["n1", "x"]}', "got 'cat': "),
        ('{"1": []}', "got '1': "),
        ('{"1": 2', "expected a JSON object, or class folders, one to a line"),
    ],
)
def test_class_files_that_are_wrong(tmp_path, text, message):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        read_class_folders(tmp_path / "classes.json")


def test_folders_with_decimal_names_have_one_order(tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / part, {f"{number}/{copy}.png": 20 * number for number in range(1, 13) for copy in range(2)})
    made = {"images": tmp_path / "train", "val": tmp_path / "val", "labels": "truth", "out": tmp_path / "run", "student": "small"}
    short = {"size": 16, "val_crop": 1.0, "epochs": 20, "batch_size": 8, "crops_per_image": 1, "scale": (0.9, 1.0), "device": "cpu"}
    report = train(TrainConfig(**made, **short))
    student = load_student(tmp_path / "run" / "checkpoint.pt")
    assert student.folders == [str(number) for number in range(1, 13)]  # 10 does not come after 1
    weights = load_student(tmp_path / "run" / "weights.pt", "small", 12, size=16, crop=1.0)
    assert evaluate(student, tmp_path / "val").top1 == evaluate(weights, tmp_path / "val").top1 == report.evaluation["top1"] > 0.2
    write_images(tmp_path / "other", {"0/x.png": 0, "5/x.png": 100})
    with pytest.raises(MismatchError, match=r"'0/x\.png' lies in none of the 12 class folders"):
        evaluate(student, tmp_path / "other")  # their 5 may be another one


def test_images_are_turned_as_in_training(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0], pixels[-1, -1] = 0, 1  # what the network looks at, upright and upside down
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x112] = 3  # upside down
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    image.save(tmp_path / "cat" / "plain.png")
    image.save(tmp_path / "dog" / "turned.png", exif=exif)
    student = fixed(2, ["cat", "dog"])
    assert evaluate(student, tmp_path).top1 == 0.5
    assert evaluate(replace(student, exif_orientation="applied"), tmp_path).top1 == 1.0


def test_the_middle_of_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(np.asarray(center_crop(image, 20, 1.0)), pixels[:, 6:26])
    expected = image.resize((26, 16), Image.Resampling.BILINEAR).crop((6, 1, 20, 15))
    np.testing.assert_array_equal(np.asarray(center_crop(image, 14, 0.875)), np.asarray(expected))
    assert center_crop(Image.new("RGB", (5, 300)), 16, 0.9).size == (16, 16)


def test_a_student_out_of_its_run(shapes, tmp_path):
    report = train(config(shapes, tmp_path / "run", epochs=8, ema=0.5))
    student = load_student(tmp_path / "run" / "checkpoint.pt")
    assert (student.size, student.mean, student.crop, student.folders) == (16, [0.5, 0.5, 0.5], 1.0, list(COLORS))
    found = evaluate(student, shapes / "val")
    assert (found.top1, found.calibration_error) == (report.evaluation["top1"], pytest.approx(report.evaluation["calibration_error"]))
    shutil.copytree(shapes / "val", tmp_path / "some", ignore=shutil.ignore_patterns("green"))
    assert evaluate(student, tmp_path / "some").num_images == 15  # classes by name, not by their order here
    with pytest.raises(MismatchError, match="the weights of another network"):
        load_student(tmp_path / "run" / "weights.pt", "small", 5)


def test_the_command(shapes, tmp_path):
    torch.manual_seed(0)
    torch.save(build_student("small", 4).state_dict(), tmp_path / "weights.pt")
    arguments = ["evaluate", str(shapes / "val"), str(tmp_path / "weights.pt"), "--student", "small", "--num-classes", "4", "--size", "16"]
    arguments += ["--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["num_images"], found["top5"], found["real"]) == (20, 1.0, None)
    assert CliRunner().invoke(main, arguments).output.startswith(f"top-1              {found['top1']:.2%} of 20 images")
