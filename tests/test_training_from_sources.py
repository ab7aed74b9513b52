"""Training, comparing and evaluating with images from other sources than a folder."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shapes import COLORS, config, options

from softlabel_codec import MismatchError
from softlabel_codec.compare import compare
from softlabel_codec.evaluate import evaluate, load_student
from softlabel_codec.image_source import ImageSource
from softlabel_codec.images import ArraySource, open_images
from softlabel_codec.images.files import load_image
from softlabel_codec.images.paths import list_images
from softlabel_codec.images.truth import targets_of
from softlabel_codec.trainer import train


def write_flat(folder: Path, out: Path, keep_folders: bool) -> str:
    """Write a shard of the images of class folders with their class numbers; flat: without the folders."""
    with tarfile.open(out, "w") as tar:
        for number, key in enumerate(list_images(folder)):
            name = key if keep_folders else f"{number:04d}.png"
            tar.add(folder / key, name)
            label = out.with_name("label")
            label.write_text(str(sorted(COLORS).index(key.partition("/")[0])))
            tar.add(label, f"{name.rpartition('.')[0]}.cls")
    return str(out)


@pytest.mark.parametrize("labels", ["labels.slc", "truth"])
def test_a_student_is_the_same_from_shards(labels, shapes, tmp_path):
    given = {"labels": str(shapes / labels)} if labels.endswith(".slc") else {"labels": labels}
    train(config(shapes, tmp_path / "folder", epochs=1, **given))
    images = write_flat(shapes / "train", tmp_path / "train.tar", keep_folders=True)
    val = write_flat(shapes / "val", tmp_path / "val.tar", keep_folders=False)
    train(config(shapes, tmp_path / "shards", epochs=1, **{**given, "images": images, "val": val}))
    first, second = ((tmp_path / run / "weights.pt").read_bytes() for run in ("folder", "shards"))
    assert first == second
    student = load_student(tmp_path / "folder" / "weights.pt")
    assert evaluate(student, val) == evaluate(student, shapes / "val")


def test_class_numbers_beyond_the_classes_are_refused(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1))
    student = load_student(tmp_path / "run" / "weights.pt")
    pixels = np.stack([np.asarray(load_image(shapes / "val" / key)) for key in list_images(shapes / "val")])
    labels = np.arange(len(pixels)) % 5
    with pytest.raises(MismatchError, match="images: expected class numbers of 4 classes, got 4"):
        evaluate(student, ArraySource(pixels, labels=labels))
    with pytest.raises(MismatchError, match="images: the image '00000000' lies in none of the 4 class folders"):
        evaluate(student, ArraySource(pixels))
    assert evaluate(student, ArraySource(pixels, labels=labels % 4)).num_images == len(pixels)


def test_targets_follow_the_keys(shapes, tmp_path):
    source: ImageSource = open_images(write_flat(shapes / "val", tmp_path / "val.tar", keep_folders=False))
    keys = list(source.keys())[::-3]
    assert targets_of(source, keys).tolist() == source.targets()[::-3].tolist()
    assert targets_of(source, ["nowhere"]) is None
    assert targets_of(open_images(shapes / "val"), list_images(shapes / "val")) is None


class Stating:
    """A source that states these class numbers."""

    def __init__(self, targets):
        self._targets = targets

    def keys(self):
        return ["a", "b"]

    def read(self, key):
        return np.zeros((4, 4), np.uint8)

    def targets(self):
        return self._targets


@pytest.mark.parametrize(
    "targets", [[0], [0, 1, 2], [0.0, 1.0], [-1, 0], [[0], [1]], ["a", "b"], [None, 1], [[0], [1, 2]], [0, 2**63], []], ids=str
)
def test_class_numbers_of_a_source_that_are_none(targets):
    with pytest.raises(MismatchError, match=r"Stating: targets: expected class numbers of shape \(2,\), none negative, got"):
        targets_of(Stating(targets), ["a"])
    assert targets_of(Stating([3, 5]), ["b"], 6).tolist() == [5]


def test_sources_of_labels_are_compared_on_shards(shapes, tmp_path):
    given = {name: value for name, value in options(shapes, tmp_path / "out", epochs=1).items() if name not in ("labels", "out")}
    given["images"] = write_flat(shapes / "train", tmp_path / "train.tar", keep_folders=True)
    given["val"] = write_flat(shapes / "val", tmp_path / "val.tar", keep_folders=False)
    compare({"stored": str(shapes / "labels.slc"), "truth": "truth"}, tmp_path / "out", given, seeds=range(1))
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    agreements = {row["name"]: row["quality"]["agreement"] for row in found["rows"]}
    assert agreements["truth"] == 1.0
    assert 0.5 < agreements["stored"] < 1.0
