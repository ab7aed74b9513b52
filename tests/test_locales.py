"""File names are UTF-8 in every locale, also in one that knows ASCII only, as in bare containers."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import options, write_shapes

from softlabel_codec import SoftLabelReader, SoftLabelWriter

POSIX = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
POSIX.pop("PYTHONIOENCODING", None)


def run(folder, *arguments, environment=POSIX, code=0):
    words = [sys.executable, "-m", "softlabel_codec", *map(str, arguments)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    return done.stdout.decode(errors="surrogateescape")


@pytest.fixture
def place(tmp_path):
    """A small problem in a folder, with classes and files, whose names are not ASCII."""
    folder = tmp_path / "Größe"
    folder.mkdir()
    write_shapes(folder)
    for part in ("train", "val"):
        (folder / part / "red").rename(folder / part / "röt")
        (folder / part / "röt" / "3.png").rename(folder / part / "röt" / "日本.png")
    return folder


def test_labelling_in_a_posix_locale(place):
    how = ["--teacher", "teacher.py:build", "--crops", 3, "--codec", "hard"]
    run(place, "encode", "train", "posix.slc", *how)
    run(place, "encode", "train", "utf8.slc", *how, environment={**POSIX, "PYTHONUTF8": "1"})
    assert (place / "posix.slc").read_bytes() == (place / "utf8.slc").read_bytes()
    with SoftLabelReader(place / "posix.slc") as reader:
        assert "röt/日本.png" in reader.keys
    for command in ("inspect", "stats", "verify"):
        run(place, command, place / "posix.slc")
    assert run(place, "encode", "train", "posix.slc", *how).startswith("finished")


def test_training_in_a_posix_locale(place):
    how = ["--teacher", "teacher.py:build", "--crops", 4, "--codec", "marginal_smoothing:k=2"]
    run(place, "encode", "train", "labels.slc", *how, "--overwrite")
    recipe = {**options(place, place / "läuft", epochs=1), "classes": str(place / "clässes.txt")}
    (place / "clässes.txt").write_text("blue\ngreen\nröt\nwhite\n", encoding="utf-8")
    (place / "recipe.json").write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
    run(place, "train", "--config", "recipe.json")
    posix, utf8 = (
        run(place, "evaluate", place / "val", place / "läuft" / "weights.pt", environment={**POSIX, "PYTHONUTF8": mode}) for mode in "01"
    )
    assert posix == utf8


def test_importing_in_a_posix_locale(place):
    (place / "FKD" / "röt").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(place / "train" / "röt" / "über.png")
    torch.save([np.float32([[0, 0.5, 0.5, 0.5]]), np.array([True]), np.float32([2])], place / "FKD" / "röt" / "über.tar")
    run(place, "import", "fkd", "FKD", "imported.slc", "--label-type", "hard", "--images", "train")
    with SoftLabelReader(place / "imported.slc") as reader:
        assert list(reader.keys) == ["röt/über"]
        assert reader[0].crops.tolist() == [[0, 20, 15, 20]]


def test_reading_images_by_key_in_a_posix_locale(place):
    with SoftLabelWriter(place / "one.slc", 4, "hard") as writer:
        probs = np.float32([[0.7, 0.1, 0.1, 0.1]])
        writer.add("röt/日本.png", image_size=(24, 24), crops=[[0, 0, 20, 20]], flips=[False], probs=probs)
    (place / "only").mkdir()
    shutil.copytree(place / "train" / "röt", place / "only" / "röt")
    code = "from softlabel_codec.torch import SoftLabelDataset; print(SoftLabelDataset('only', 'one.slc', 1, 8)[0].images.shape)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=place, env=POSIX, capture_output=True, text=True, check=False)
    assert done.stdout == "torch.Size([1, 3, 8, 8])\n", done.stderr


def test_names_that_are_not_utf8_are_refused_in_every_locale(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(os.fsencode(tmp_path / "images") + b"/\xff.png", format="png")
    for mode in "01":
        words = [sys.executable, "-m", "softlabel_codec", "encode", "images", "a.slc", "--teacher", "t.py:build"]
        done = subprocess.run(words, cwd=tmp_path, env={**POSIX, "PYTHONUTF8": mode}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, "slcodec: images: the file name '\\\\xff.png' is not valid UTF-8; rename it\n")
