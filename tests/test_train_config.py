"""The configuration of a training run: one list of options for Python, JSON files and the command line."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from softlabel_codec import ArgumentError
from softlabel_codec.cli.main import main
from softlabel_codec.options.train import TrainConfig

LEAST = {"images": "train", "labels": "a.slc", "out": "run"}


def test_it_survives_a_json_file(tmp_path):
    config = TrainConfig.from_mapping({**LEAST, "mean": [0.1, 0.2, 0.3], "epochs": 3, "learning_rate": 1, "nesterov": True})
    assert (config.mean, config.epochs, config.learning_rate, config.nesterov) == ((0.1, 0.2, 0.3), 3, 1.0, True)
    (tmp_path / "run.json").write_text(json.dumps(config.to_mapping()))
    assert TrainConfig.from_file(tmp_path / "run.json") == config


def test_every_option_is_documented_and_on_the_command_line():
    text = CliRunner().invoke(main, ["train", "--help"]).output
    for option in dataclasses.fields(TrainConfig):
        assert option.metadata["help"].endswith((".", "]", ")")), option.name
        assert f"--{option.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown option 'epoch': did you mean 'epochs'"),
        ({"quux": 3}, "unknown option 'quux': expected one of images, labels, out"),
        ({"epochs": "3"}, "epochs: expected int, got '3'"),
        ({"epochs": True}, "epochs: expected int, got True"),
        ({"epochs": 2.5}, "epochs: expected int, got 2.5"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"epochs": None}, "epochs: expected int, got None"),
        ({"mean": [1, 2]}, r"mean: expected 3 numbers, got \[1, 2\]"),
        ({"mean": 1}, "mean: expected 3 numbers, got 1"),
        ({"optimizer": "adam"}, "optimizer: expected sgd or adamw, got 'adam'"),
        ({"precision": "int8"}, "precision: expected auto or float32"),
        ({"interpolation": "cubic"}, "interpolation: expected bilinear or"),
        ({"learning_rate": -1}, "learning_rate: expected at least 0, got -1"),
        ({"truth_weight": 1.5}, "truth_weight: expected 0 to 1, got 1.5"),
        ({"ema": 1.0}, "ema: expected below 1, got 1.0"),
        ({"val_crop": 0.0}, "val_crop: expected above 0, at most 1, got 0.0"),
        ({"labels": "a.txt"}, r"labels: expected FILE\.slc, FILE\.npz"),
        ({"std": [0.5, 0.5, 0]}, "std: expected positive numbers"),
        ({"temperature": 0}, "temperature: expected a number from 0.0001 to 10000, got 0"),
        ({"temperature": 1e-300}, "temperature: expected a number from 0.0001 to 10000, got 1e-300"),  # of which the loss was NaN
        ({"temperature": 10**400}, "temperature: expected float, got an integer that is too large"),
        ({"stored_crops": 2}, "stored_crops: expected no fewer than crops_per_image, got 2"),
        ({"batch_size": 30}, "batch_size: expected a multiple of crops_per_image=4, got 30"),
        ({"teacher": "t.py:build"}, "teacher: is for a teacher in every step, leave it out with labels='a.slc'"),
        ({"teacher_output": "probs"}, "teacher_output: is for a teacher in every step, leave it out"),
        ({"labels": "online", "teacher": "t.py:build", "teacher_output": "p"}, "teacher_output: expected logits or probs, got 'p'"),
        ({"average": "probs"}, "average: is for a teacher in every step, leave it out"),
        ({"labels": "online", "teacher": 3}, "teacher: expected str, got 3"),
        ({"labels": "online", "teacher": []}, r"teacher: expected a text, or several, got \(\)"),
        ({"labels": "online", "teacher": ["a.py:f", 3]}, "teacher: expected str, got 3"),
        ({"labels": "online", "teacher": "t.py:build", "average": "logits"}, "average: expected 'probs', as there is one teacher"),
        ({"labels": "online", "teacher": "t.py:build", "teacher_shares": [1]}, "teacher_shares: expected None, as there is one teacher"),
        ({"labels": "online", "teacher": "t.py:build", "teacher_size": 0}, "teacher_size: expected 1 to 8192, got 0"),
        ({"labels": "online"}, "teacher: expected a teacher with labels='online', got None"),
        ({"nesterov": True, "momentum": 0}, "nesterov: expected false without momentum"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum: expected nothing with optimizer='adamw': it is for sgd, got 0.9"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov: expected nothing with optimizer='adamw'"),
        ({"momentum": -0.1}, "momentum: expected at least 0, got -0.1"),
        ({"milestones": "150,x"}, "milestones: expected ascending numbers from 1 to epochs - 1 = 99, such as 150,180,210, got '150,x'"),
        ({"milestones": [50, 100]}, "milestones: expected ascending numbers from 1 to epochs - 1 = 99"),
        ({"milestones": [60, 50]}, "milestones: expected ascending numbers"),
        ({"milestones": [0, 50]}, "milestones: expected ascending numbers"),
        ({"milestones": []}, "milestones: expected ascending numbers"),
        ({"milestones": [1.5]}, "milestones: expected int, got 1.5"),
        ({"milestones": 50}, "milestones: expected str, got 50"),
        ({"seed": 2**63}, r"seed: expected below 2\^63, got"),
        ({"labels": "truth", "all_views": 0}, "all_views: expected 1 to 65535, got 0"),
        ({"labels": "truth", "all_views": 65536}, "all_views: expected 1 to 65535, got 65536"),
        ({"labels": "truth", "all_views": 32, "scale": [0.1, 1]}, r"scale: expected none with all_views=32, got \(0.1, 1.0\)"),
        ({"labels": "truth", "all_views": 32, "ratio": [1, 1]}, "ratio: expected none with all_views=32"),
        ({"labels": "truth", "all_views": 32, "flip_probability": 0}, "flip_probability: expected none with all_views=32, got 0.0"),
        ({"labels": "m.npz", "padding": 4}, r"padding: expected none with labels='m\.npz', as label maps know nothing outside .*, got 4"),
        ({"padding_mode": "edge"}, "padding_mode: is for fresh crops: those of a label file are fixed, leave it out with labels='a.slc'"),
        ({"fill": [0, 0, 0]}, "fill: is for fresh crops"),
        ({"backend": "cv2"}, "backend: expected pillow or torch, got 'cv2'"),
        ({"backend": "torch", "in_memory": True}, "backend: expected pillow with in_memory"),
        ({"exif_orientation": "yes"}, "exif_orientation: expected ignored or applied, got 'yes'"),
    ],
)
def test_wrong_options(values, message):
    with pytest.raises(ArgumentError, match=message):
        TrainConfig.from_mapping({**LEAST, **values})
    if set(values) <= {option.name for option in dataclasses.fields(TrainConfig)}:
        with pytest.raises(ArgumentError, match=message):
            TrainConfig(**{**LEAST, **values})


def test_keywords_are_checked_as_files_are(tmp_path):
    made = TrainConfig(images=tmp_path / "train", labels="a.slc", out=tmp_path, mean=[0, 0, 1], learning_rate=1)
    assert (made.images, made.out, made.mean) == (str(tmp_path / "train"), str(tmp_path), (0.0, 0.0, 1.0))
    assert TrainConfig.from_mapping(json.loads(json.dumps(made.to_mapping()))) == made
    with pytest.raises(ArgumentError, match=r"epochs: expected int, got 2\.5"):
        TrainConfig(images="train", labels="a.slc", out="run", epochs=2.5)


def test_milestones_are_text_or_numbers():
    made = TrainConfig.from_mapping({**LEAST, "milestones": "50,75"})
    assert made.milestones == (50, 75)
    assert made == TrainConfig.from_mapping(made.to_mapping()) == TrainConfig.from_mapping({**LEAST, "milestones": [50, 75]})


def test_missing_options_and_files_that_hold_none(tmp_path):
    with pytest.raises(ArgumentError, match="configuration: labels, out: missing"):
        TrainConfig.from_mapping({"images": "train"})
    for text in ("{", "[1]"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ArgumentError, match=r"a\.json: expected a JSON object"):
            TrainConfig.from_file(tmp_path / "a.json")
