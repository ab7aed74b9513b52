"""What tests share: labels, image folders, and the data beside the repository."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import chromium
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from torch_free import WithoutTorch

from softlabel_codec import SoftLabelWriter, writer
from softlabel_codec.sampler import CropSampler

settings.register_profile("patient", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("patient")

SHARED = Path(__file__).parents[2] / "shared"

APART = {
    "others": "that need timm, torchvision and the like",
    "many": "of many processes, machines and servers, which need Ray, an S3 server and the like",
}
"""Marks of tests that run in environments of their own, and what these tests are."""
FEWEST_APART = {
    "test_loops.py": 29,
    "test_many_ray.py": 24,
    "test_many_storage.py": 90,
    "test_others.py": 35,
    "test_others_downstream.py": 15,
    "test_others_formats.py": 4,
    "test_others_sources.py": 6,
    "test_others_trainers.py": 3,
}
"""How many of them there are, about, by module."""

TEACHER = """
import torch
from torch import nn

NAME = "tiny"
INPUT_SIZE = 16
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 10))

def three_outputs():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))

def feature_map():
    return nn.Conv2d(3, 8, 3)

def not_a_model():
    return "no model"

def fails():
    raise RuntimeError("weights are missing")

def leaves():
    raise SystemExit(7)
"""


def pytest_addoption(parser):
    parser.addoption("--without-torch", action="store_true", help="Leave out the modules that import torch, as told by their imports.")
    for mark, which in APART.items():
        parser.addoption(f"--{mark}", action="store_true", help=f"Run only the tests {which}. They are left out otherwise.")


def pytest_configure(config):
    if config.getoption("--without-torch"):
        config.pluginmanager.register(WithoutTorch())  # not only for what lies in this folder, as hooks of this file are


def pytest_ignore_collect(collection_path, config):
    """Leave out modules that can be imported only where there is what the tests with the mark `many` need."""
    helpers = ("ray_driver.py", "ray_kills.py", "remote", "servers")
    needs_many = collection_path.name.startswith("test_many") or collection_path.name in helpers
    return True if needs_many and not config.getoption("--many") else None


def pytest_collection_modifyitems(config, items):
    """Leave out what needs libraries, programs or data that are not there, unless somebody insists (as CI does)."""
    choose_apart(config, items)
    needed = {"shared": (SHARED.is_dir(), SHARED), "chromium": (chromium.PROGRAM is not None, "Chromium")}
    for mark, (is_there, what) in needed.items():
        if is_there or os.environ.get(f"SOFTLABEL_REQUIRE_{mark.upper()}"):
            continue
        for item in items:
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=f"{what} is not there"))


def choose_apart(config, items):
    """Keep only the tests with the mark that is asked for, which must be about as many as there were; else only those without any."""
    wanted = {mark for mark in APART if config.getoption(f"--{mark}")}
    left_out = [item for item in items if {mark.name for mark in item.iter_markers()} & set(APART) != wanted]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    found = Counter(item.path.name for item in items) if wanted else Counter()
    for name, number in found.items():
        if number < FEWEST_APART.get(name, 1):
            raise pytest.UsageError(f"{name}: expected at least {FEWEST_APART[name]} tests with the mark {wanted.pop()}, got {number}")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Write blocks of a fraction of the usual size, so that small files have several."""
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 300)


@pytest.fixture
def files(monkeypatch):
    """A storage service in memory, for URLs `flaky://bucket/...`: see flaky_storage.py."""
    from flaky_storage import Flaky

    from softlabel_codec.storage import ranges

    monkeypatch.setattr(ranges, "FIRST_WAIT_SECONDS", 0.0)
    yield Flaky()
    Flaky.store.clear()
    Flaky.faults.clear()
    Flaky.requests()


@pytest.fixture
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def teacher_logits() -> dict[str, np.ndarray]:
    """Real labels: a MobileNetV2 over 200 crops of each of 100 ImageNet photographs."""
    with np.load(SHARED / "data" / "teacher-logits-100x200.npz") as data:
        return {name: data[name] for name in data.files}


def random_probs(rng: np.random.Generator, num_crops: int, num_classes: int) -> np.ndarray:
    """Return probabilities between very sure and very unsure, float32."""
    logits = rng.normal(0, 1, (num_crops, num_classes)) * rng.uniform(0.1, 8, (num_crops, 1))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def write_labels(path, codec="marginal_smoothing:k=5", num_classes=20, counts=(3, 1, 40, 7), size=(48, 64), seed=0, keys=None, **options):
    """Write a small label file and return what went in, by key."""
    rng = np.random.default_rng(seed)
    written = {}
    with SoftLabelWriter(path, num_classes, codec, **options) as writer:
        for number, count in enumerate(counts):
            key = keys[number] if keys else f"class{number % 3}/image{number}.png"
            crops, flips = CropSampler(seed=seed).sample(key, size, range(count))
            probs = random_probs(rng, count, num_classes)
            writer.add(key, image_size=size, crops=crops, flips=flips, probs=probs)
            written[key] = (crops, flips, probs)
    return written


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """A folder of six small images of many kinds, in two classes."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    color = Image.fromarray(pixels)
    cases = {
        "cat/a.JPEG": color,
        "cat/b.png": color.convert("RGBA"),
        "cat/grey.jpg": color.convert("L"),
        "dog/cmyk.jpg": color.convert("CMYK"),
        "dog/deep/c.webp": color.resize((33, 61)),
        "dog/palette.png": color.convert("P"),
    }
    for key, image in cases.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"not an image either")
    return folder


@pytest.fixture
def teacher_file(tmp_path) -> str:
    path = tmp_path / "tiny_teacher.py"
    path.write_text(TEACHER)
    return f"{path}:build"


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A tiny problem: images of four colours, a teacher file, a label file."""
    from shapes import write_shapes

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder)
    return folder
