"""Every block of the README is run, every path and link in it leads somewhere, and its numbers are those of the committed results."""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEACHER
from PIL import Image
from torch import nn

from softlabel_codec.students import build_student
from softlabel_codec.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder as a reader of the README may have it: photographs, a teacher, label files of FKD's, a recipe."""
    rng = np.random.default_rng(0)
    for number in range(10):
        folder, test, labels = (tmp_path / top / f"n{number}" for top in ("photos/train", "photos/val", "FKD_labels"))
        for place in (folder, test, labels):
            place.mkdir(parents=True)
        for place in (folder, test):
            Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(place / f"{number}.jpg")
        fractions = np.float32([[0.0, 0.25, 0.5, 0.5], [0.25, 0.0, 0.75, 1.0]])
        stored = np.stack([[[1, 2, 3, 4, 5]] * 2, [[0.5, 0.2, 0.1, 0.05, 0.05]] * 2], axis=1).astype(np.float32)
        torch.save([fractions, np.array([True, False]), stored], labels / f"{number}.tar")
    (tmp_path / "teacher.py").write_text(TEACHER)
    (recipe,) = (json.loads(block) for language, block in BLOCKS if language == "json")
    small = {"student": "small", "size": 16, "epochs": 1, "batch_size": 8, "workers": 0, "warmup_epochs": 0.0}
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, **small}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        assert " ".join(words) in (ROOT / ".ci" / "run").read_text().splitlines(), line
    elif words[0] == "pip":
        setup = configparser.ConfigParser(interpolation=None)
        setup.read(ROOT / "setup.cfg")
        assert words[1] == "install"
        assert re.fullmatch(r"\.\[(\w+)\]", words[2])[1] in setup["options.extras_require"]
    else:
        assert words[0] == "slcodec"
        command = [sys.executable, "-m", "softlabel_codec", *words[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*crops are normalised with")  # the teacher's mean is not ImageNet's
def test_every_block_runs(desk):
    names = {
        "somebody_elses_resnet50": lambda: build_student("small", 10),
        "student": nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)),
        "device": "cpu",
    }
    for language, block in BLOCKS:
        if language == "sh":
            for line in block.splitlines():
                run_shell(line)
        elif language == "json":
            TrainConfig.from_mapping({"labels": "labels.slc", "out": "run", **json.loads(block)})
        elif language == "python":
            exec(compile(block, "README.md", "exec"), names)
        else:
            for words in re.findall(r"^(?:  )?((?:[\w/]+(?:\.py|/) +)+)", block, re.MULTILINE):
                for path in words.split():
                    assert (ROOT / path).exists() or (ROOT / "softlabel_codec" / path).exists(), path
    assert names["reader"].codec == "marginal_smoothing:k=5"
    assert torch.isfinite(names["loss"])
    assert (desk / "labels.png").exists()
    assert (desk / "imported.slc").exists()
    assert (desk / "proof" / "compare.png").exists()
    assert {language for language, _ in BLOCKS} == {"sh", "python", "json", "text"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "spec").glob("*.md"))]
)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_numbers_are_those_of_the_committed_result():
    results = [path for path in (ROOT / "benchmarks" / "results").glob("*.json") if path.name[:2] == "20"]
    result = json.loads(max(results).read_text())
    k5, tail = "marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=100"
    storage = result["storage"]
    sizes = [storage["peers_bytes_per_crop"]["FKD .tar, f16"], *(storage["bytes_per_crop"][codec]["derived"] for codec in (k5, tail))]
    points = {point["codec"]: point["kl"] for family in result["distortion"]["families"].values() for point in family}
    divergences = [points[codec] for codec in (f"{k5},values=f16", k5, tail)]
    times = {way: time["median"] for way, time in result["reading"]["100 images"]["microseconds_per_image"].items()}
    gigabytes = [size * 200 * storage["imagenet_images"] / 1e9 for size in sizes]
    rows = [
        ("bytes per crop, everything included", [f"{size:.1f}" for size in sizes]),
        ("labels of ImageNet-1k, 200 crops each", [f"{size:.1f} GB" for size in gigabytes]),
        ("KL divergence from the teacher", [f"{divergence:.3f}" for divergence in divergences]),
        (
            "reading 4 crops of a random image, in a batch",
            [f"{times['FKD .tar, f16']:.0f} us", *(f"{times[f'read_batch, {codec}, derived']:.1f} us" for codec in (k5, tail))],
        ),
    ]
    for name, cells in rows:
        assert f"| {name} | {' | '.join(cells)} |" in README
