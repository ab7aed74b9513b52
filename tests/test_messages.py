"""What is said to somebody who makes one of the mistakes that many make on the first day."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from shapes import COLORS, config, options, write_shape_labels
from torch import nn
from torch.utils.data import DataLoader

from softlabel_codec import ArgumentError, MismatchError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.cli.main import main
from softlabel_codec.compare import compare
from softlabel_codec.evaluate import evaluate, load_student
from softlabel_codec.students import build_student
from softlabel_codec.torch import SoftLabelDataset, collate_crops, soft_cross_entropy
from softlabel_codec.trainer import train


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=5", "dense"])
def test_a_sample_that_was_not_collated(shapes, tmp_path, codec):
    write_shape_labels(shapes, tmp_path / "a.slc", codec.replace("k=5", "k=2"))
    dataset = SoftLabelDataset(shapes / "train", tmp_path / "a.slc", crops_per_image=2, size=16, normalized=False)
    labels = dataset[0].labels
    with pytest.raises(ArgumentError, match=r"expected SparseTargets or DenseTargets, got \w+Labels of a single sample.*collate_crops"):
        soft_cross_entropy(torch.zeros(2, 4), labels)
    assert soft_cross_entropy(torch.zeros(2, 4), collate_crops([dataset[0]])[1]).item() == pytest.approx(np.log(4), rel=1e-5)
    with pytest.raises(ArgumentError, match="labels: expected SparseTargets or DenseTargets, got Tensor. .*collate_crops"):
        soft_cross_entropy(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    for workers in (0, 1):
        with pytest.raises(ArgumentError, match=r"cannot collate soft labels by itself. Give the DataLoader collate_fn=collate_crops"):
            next(iter(DataLoader(dataset, batch_size=2, num_workers=workers)))


@pytest.mark.parametrize("endings", [True, False])
def test_labels_of_a_subfolder_and_images_of_its_parent(shapes, tmp_path, endings):
    labels = shapes / "labels.slc"
    if not endings:
        with SoftLabelReader(labels) as reader, SoftLabelWriter(tmp_path / "stems.slc", 4, "hard", crops="fractions:f32") as writer:
            for key, image in zip(reader.keys, reader, strict=True):
                crops = np.zeros((image.num_crops, 4), np.float32) + 0.5
                writer.add(key.removesuffix(".png"), crops=crops, flips=image.flips, probs=image.labels.dense())
        labels = tmp_path / "stems.slc"
    expected = rf"40 of 40 labelled images are not in {shapes}: .*\. They are in {shapes / 'train'}$"
    with pytest.raises(MismatchError, match=expected):
        SoftLabelDataset(shapes, labels)
    if endings:
        with pytest.raises(MismatchError, match=expected):
            train(config(shapes, tmp_path / "run", images=str(shapes)))
    with pytest.raises(MismatchError, match=rf"20 of 40 labelled images are not in {shapes / 'val'}: .*Leave them out"):
        SoftLabelDataset(shapes / "val", labels)


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return train(config(shapes, out, epochs=2, ema=0.5, exif_orientation="ignored", interpolation="bicubic"))


def test_weights_know_how_images_are_prepared_for_them(shapes, trained):
    out = Path(trained.out)
    by_weights, by_checkpoint = (load_student(out / name) for name in ("weights.pt", "checkpoint.pt"))
    assert {**vars(by_weights), "model": None} == {**vars(by_checkpoint), "model": None}
    assert (by_weights.mean, by_weights.interpolation, by_weights.folders) == ([0.5] * 3, "bicubic", list(COLORS))
    text = run("evaluate", shapes / "val", out / "weights.pt")
    assert text == run("evaluate", shapes / "val", out / "checkpoint.pt")
    assert f"{trained.evaluation['top1']:.2%} of 20 images" in text
    assert evaluate(load_student(out / "weights.pt", size=24), shapes / "val").num_images == 20  # options go before what the file says


def test_weights_alone_are_not_taken_for_imagenets(shapes, trained, tmp_path):
    shutil.copy(Path(trained.out) / "weights.pt", tmp_path / "weights.pt")
    words = ["evaluate", shapes / "val", tmp_path / "weights.pt"]
    assert "pass the --student that they belong to, and its --num-classes" in run(*words, code=2)
    words += ["--student", "small", "--num-classes", 4, "--size", 16, "--crop", 1]
    text = run(*words, code=2)
    assert "pass the normalisation of their images: --mean and --std (ImageNet's are 0.485 0.456 0.406 and 0.229 0.224 0.225)" in text
    assert "--mean and --std" in run(*words, "--mean", 0.5, 0.5, 0.5, code=2)
    half = ["--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5]
    assert run(*words, *half, "--interpolation", "bicubic") == run("evaluate", shapes / "val", Path(trained.out) / "weights.pt")


def test_what_stands_beside_other_weights_is_not_believed(shapes, trained, tmp_path):
    shutil.copy(Path(trained.out) / "weights.json", tmp_path / "weights.json")
    torch.save(build_student("small", 4).state_dict(), tmp_path / "weights.pt")
    words = ["evaluate", shapes / "val", tmp_path / "weights.pt"]
    assert "not the weights that the .json file beside them describes" in run(*words, code=1)
    (tmp_path / "weights.json").write_text("{}")
    assert "holds weights only" in run(*words, code=2)


def test_weights_of_other_scripts_are_evaluated(shapes, tmp_path):
    state = build_student("small", 4).state_dict()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "a.pth")
    student = load_student(tmp_path / "a.pth", "small", 4, size=16, mean=[0.5] * 3, std=[0.5] * 3)
    assert evaluate(student, shapes / "val").num_images == 20


def test_files_that_are_no_weights_say_what_they_are(shapes, tmp_path):
    of_student = ["--student", "small", "--num-classes", 4]
    text = run("evaluate", shapes / "val", shapes / "labels.slc", *of_student, code=2)
    assert text == f"slcodec: {shapes / 'labels.slc'}: is a label file: expected weights (checkpoint.pt of a run, or a state_dict)\n"
    (tmp_path / "notes.txt").write_text("nothing that torch wrote")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name, reason in (("notes.txt", "it is not what torch.save writes"), ("module.pt", "it requires torch.nn.modules.linear.Linear")):
        text = run("evaluate", shapes / "val", tmp_path / name, *of_student, code=1)
        assert text.endswith(f"{name}: no weights that can be read without running code: {reason}\n")
        assert "weights_only" not in text
    with pytest.raises(ArgumentError, match="is a label file"):
        train(config(shapes, tmp_path / "run", weights=str(shapes / "labels.slc")))


@pytest.mark.parametrize("command", [["train", "--out", "o", "--labels", "l.slc"], ["compare", "o", "--source", "a=l.slc"]])
@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ('{"images": "i", "vall": "v"}', "unknown option 'vall': did you mean 'val'?"),
        ('{"images": "i", "batch-size": 8}', "unknown option 'batch-size': did you mean 'batch_size'?"),
        ('{"images": "i", "epochs": 1, "val": "v", "epochs": 9}', "expected a JSON object: 'epochs' appears twice"),
    ],
)
def test_recipes_with_mistakes(command, recipe, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(recipe)
    assert run(*command, "--config", "recipe.json", code=2) == f"slcodec: recipe.json: {message}\n"


def test_names_that_are_given_twice(shapes, tmp_path):
    words = ["compare", tmp_path / "o", "--images", shapes / "train", "--val", shapes / "val", "--source", "a=truth"]
    assert "--source: the name 'a' is given twice, for 'truth' and 'x.slc'" in run(*words, "--source", "a=x.slc", code=2)
    varied = ["--vary", "epochs=1,2", "--vary", "epochs=3"]
    assert "--vary: the name 'epochs' is given twice, for '1,2' and '3'" in run(*words, *varied, code=2)
    assert "unknown option 'epoch': did you mean 'epochs'?" in run(*words, "--vary", "epoch=1,2", code=2)
    given = {name: value for name, value in options(shapes, tmp_path).items() if name not in ("labels", "out", "val")}
    with pytest.raises(ArgumentError, match="unknown option 'vall': did you mean 'val'"):
        compare({"a": "truth"}, tmp_path / "o", {**given, "vall": "v"})


@pytest.mark.parametrize(("after", "resume"), [(2, False), (7, False), (12, False), (7, True)])
def test_an_interrupted_training_says_what_is_kept(shapes, tmp_path, after, resume):
    def interrupt(done, total):
        if done == after:  # of 5 steps per epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        train(config(shapes, tmp_path / "run", resume=resume), interrupt)
    how = "run the same command again" if resume else "run it again with resume=True (--resume)"
    kept = {2: "No epoch is kept yet", 7: "1 epoch is kept", 12: "2 epochs are kept"}[after]
    assert str(stopped.value) == (kept if after == 2 else f"{kept} in {tmp_path / 'run'}; {how} to continue")


def test_the_logger_tells_of_runs_and_comparisons(shapes, tmp_path, caplog):
    given = {name: value for name, value in options(shapes, tmp_path, epochs=1).items() if name not in ("labels", "out")}
    with caplog.at_level(logging.INFO, "softlabel_codec"):
        compare({"a": "truth"}, tmp_path, given, seeds=[0])
    told = [record.getMessage() for record in caplog.records]
    run_folder = tmp_path / "runs" / "a-seed=0"
    assert told[0] == f"{tmp_path}: 1 student to train, 0 trained before"
    assert told[1] == f"{run_folder}: training on 40 images, 1 epoch"
    assert any(text.startswith(f"{run_folder}: epoch 0: loss ") for text in told)
    assert any(text.startswith(f"{run_folder}: finished, loss ") for text in told)
    assert told[-1] == f"{tmp_path}: finished"


def test_one_epoch_is_not_spoken_of_as_many(shapes, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(options(shapes, tmp_path / "run", epochs=1, batch_size=40, crops_per_image=1)))
    assert "1 epoch, 1 step in" in run("train", "--config", tmp_path / "recipe.json")


@pytest.mark.parametrize("on_missing", ["raise", "skip"])
def test_only_images_that_are_really_elsewhere_are_said_to_be(shapes, tmp_path, on_missing):
    shutil.copytree(shapes / "train", tmp_path / "train")
    (tmp_path / "train" / "red").rename(tmp_path / ".kept-red")
    if on_missing == "raise":
        with pytest.raises(MismatchError, match=r"10 of 40 labelled images are not in .*Leave them out with on_missing='skip'"):
            SoftLabelDataset(tmp_path / "train", shapes / "labels.slc")
    else:
        with pytest.warns(UserWarning, match="10 of 40 labelled images are not in .* and are left out"):
            SoftLabelDataset(tmp_path / "train", shapes / "labels.slc", on_missing="skip", mean=[0.5] * 3, std=[0.5] * 3, keys=None)
        with pytest.raises(MismatchError, match=rf"40 of 40 labelled images .* They are in {shapes / 'train'}"):
            SoftLabelDataset(shapes, shapes / "labels.slc", on_missing="skip")


def test_the_check_knows_teachers_of_probabilities_and_weights_of_ones_own(shapes, tmp_path):
    how = ["--teacher", f"{shapes / 'teacher.py'}:probs"]
    words = ["encode", shapes / "train", tmp_path / "a.slc", *how, "--crops", 4, "--codec", "dense", "--device", "cpu"]
    run(*words, "--teacher-output", "probs")
    text = run("check", tmp_path / "a.slc", "--images", shapes / "train", *how)
    assert "they belong together" in text
    assert "the ones that made the labels" in text
    assert "loads its weights itself" in run("check", tmp_path / "a.slc", "--images", shapes, *how, "--teacher-weights", "x.pt", code=2)
