"""The CIFAR-100 experiment at a small scale, from torchvision's folder to the tables."""

import json
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.accuracy.networks import WORK
from benchmarks.accuracy.results import read_results
from benchmarks.cifar import __main__, networks
from benchmarks.cifar.images import unpack
from benchmarks.cifar.plan import NUM_VIEWS, PAIRS, SOURCES, schedule
from benchmarks.report import cifar as report
from softlabel_codec import SoftLabelReader
from softlabel_codec.images import open_images

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*its labels agree with the class folders for only")]
SMALL_NETWORKS = """
from functools import partial
from benchmarks.cifar.networks import MEAN, STD, Residual, _trained

resnet20 = partial(Residual, 8, (4, 4, 4, 4))
resnet56 = partial(Residual, 8, (4, 4, 8, 8))
trained_resnet56 = partial(_trained, resnet56, "resnet56")
"""


class OldPickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did: as strings without an encoding."""

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}


def write_old(path, value):
    """Write a pickle as torchvision's folder has them."""
    with path.open("wb") as file:
        OldPickler(file, protocol=2).dump(value)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with images as torchvision stores them: 64 to train and 10 to test."""
    rng = np.random.default_rng(0)
    (tmp_path / "cifar-100-python").mkdir()
    for split, count in (("train", 64), ("test", 10)):
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [99, *range(count - 1)]
        write_old(tmp_path / "cifar-100-python" / split, {"data": data, "fine_labels": labels, "filenames": [f"{n}.png" for n in labels]})
    (tmp_path / "networks.py").write_text(SMALL_NETWORKS)
    monkeypatch.setattr("benchmarks.cifar.experiment.NETWORKS", tmp_path / "networks.py")
    monkeypatch.setenv(WORK, "")
    return tmp_path


def run(folder, monkeypatch, **more):
    options = {"pair": "resnet56-resnet20", "seeds": 1, "epochs": 2, "results": folder / "results.jsonl", **more}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["cifar", str(folder / "cifar-100-python"), str(folder / "work"), *words])
    __main__.main()
    return read_results(folder / "results.jsonl")


def test_from_the_folder_to_the_tables(folder, monkeypatch):
    with pytest.raises(SystemExit, match="3"):
        run(folder, monkeypatch, minutes=0)
    found = run(folder, monkeypatch)
    runs = {one["row"]["source"]: one for one in found if one["kind"] == "run"}
    assert ([one["kind"] for one in found[:2]], list(runs)) == (["teacher", "labels"], list(SOURCES))
    for source, one in runs.items():
        config = one["result"]["config"]
        assert (config["milestones"], config["weight_decay"], config["batch_size"]) == ([1], 5e-4, 64)
        assert (config["temperature"], config["truth_weight"]) == ((None, 0) if source == "truth" else (4, 0.1))
    assert runs["views"]["result"]["loss"] == pytest.approx(runs["online"]["result"]["loss"], rel=1e-3)  # the same views and labels
    assert runs["truth"]["result"]["loss"] != runs["online"]["result"]["loss"]
    with SoftLabelReader(folder / "work" / "labels" / "resnet56.slc") as reader:
        assert (len(reader), reader.num_classes, int(reader.num_crops[0])) == (64, 100, NUM_VIEWS)
    assert run(folder, monkeypatch) == found  # nothing is left to be done
    more = run(folder, monkeypatch, seeds=2)
    assert (more[: len(found)], len(more)) == (found, len(found) + len(SOURCES))
    tables = report.render(folder / "results.jsonl")
    assert tables["accuracy"].count("not run") == 2 * 4
    assert "`resnet20`: all 162 views, stored, are as good as `resnet56` in every step | 2 | " in tables["claims"]
    with pytest.raises(SystemExit, match="has results of 2 epochs"):
        run(folder, monkeypatch, epochs=3)


def test_images_of_a_folder(folder, tmp_path):
    unpack(folder / "cifar-100-python", tmp_path / "images")
    source = open_images(tmp_path / "images" / "test.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3072), dtype=np.uint8)
    first = np.load(tmp_path / "images" / "train.npz")["images"][0]
    np.testing.assert_array_equal(first[5, 7], pixels[0].reshape(3, 32, 32)[:, 5, 7])  # planes of red, green and blue
    assert source.targets().tolist() == [99, *range(9)]


def test_no_code_is_run(tmp_path):
    (tmp_path / "train").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"got builtins\.print|got __builtin__\.print"):
        unpack(tmp_path, tmp_path / "images")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.28), ("resnet56", 0.86), ("resnet8x4", 1.23), ("resnet32x4", 7.43), ("wrn_16_2", 0.70), ("wrn_40_2", 2.26)],
)
def test_networks_are_as_large_as_published(name, millions):
    network = getattr(networks, name)(100)
    assert sum(weights.numel() for weights in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_milestones_are_shares_of_the_epochs():
    assert schedule(240) == {"epochs": 240, "milestones": [150, 180, 210]}
    assert schedule(1) == {"epochs": 1, "milestones": None}


def test_verdicts(tmp_path):
    pair = PAIRS["wrn_40_2-wrn_16_2"]
    tops = {"truth": 73.0, "online": 75.0, "views": 74.0}
    lines = [
        {"kind": "run", "row": vars(pair.row(source)), "seed": seed, "result": {"evaluation": {"top1": (top1 + noise * 0.1) / 100}}}
        for source, top1 in tops.items()
        for seed, noise in enumerate((0, 1, -1, 2, -2) if source == "online" else (1, 0, -1, -2, 2))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables = report.render(tmp_path / "a.jsonl")
    assert "| `wrn_16_2` | teacher in every step | 74.92 | 75.00 +- 0.16 | 5 |  |" in tables["accuracy"]
    assert tables["claims"].splitlines()[-1].endswith("**does not hold** |")
    assert report.render(tmp_path / "none.jsonl")["known"] is None
