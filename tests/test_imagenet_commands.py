"""The commands of the report for ImageNet, ReaL and ImageNetV2, on a few small images; and the table that they fill."""

import json
import re
import shlex
import shutil

import pytest
from click.testing import CliRunner
from shapes import options, write_shape_labels, write_shapes

from benchmarks.report import imagenet
from benchmarks.report.write import REPORT
from softlabel_codec.cli.main import main

pytestmark = pytest.mark.torch


def commands():
    """Return the commands of the report's section, as lines."""
    (found,) = re.findall(r"^### ImageNet-1k.*?^```sh\n(.*?)^```", REPORT.read_text(), re.MULTILINE | re.DOTALL)
    return found.splitlines()


@pytest.fixture
def imagenet_like(tmp_path):
    """Folders as those of ImageNet, ReaL's file and ImageNetV2, with coloured squares of four classes."""
    write_shapes(tmp_path / "shapes")
    write_shape_labels(tmp_path / "shapes", tmp_path / "k5.slc")
    colors = sorted(path.name for path in (tmp_path / "shapes" / "val").iterdir())
    shutil.copytree(tmp_path / "shapes" / "train", tmp_path / "imagenet" / "train")
    accepted = []
    for number, name in enumerate(colors):
        for path in sorted((tmp_path / "shapes" / "val" / name).iterdir()):
            accepted.append([number, (number + 1) % 4])
            new = tmp_path / "imagenet" / "val" / name / f"ILSVRC2012_val_{len(accepted):08d}.png"
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, new)
            for images in ("matched-frequency", "threshold0.7", "top-images"):
                other = tmp_path / f"imagenetv2-{images}-format-val" / str(number) / path.name
                other.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, other)
    (tmp_path / "imagenetv2-top-images-format-val" / "0" / "0.png").unlink()
    (tmp_path / "real.json").write_text(json.dumps(accepted))
    own = ("images", "labels", "val", "out", "student")
    recipe = {name: value for name, value in options(tmp_path, tmp_path).items() if name not in own} | {"epochs": 8}
    (tmp_path / "imagenet.json").write_text(json.dumps(recipe))
    return tmp_path


def test_the_commands_of_the_report_fill_its_table(imagenet_like, monkeypatch):
    monkeypatch.chdir(imagenet_like)
    results = imagenet_like / "benchmarks" / "results" / "imagenet"
    assert {cell for _, *cells in imagenet.rows(results) for cell in cells} == {"not run"}
    make, *lines = commands()
    assert make == f"mkdir -p {results.relative_to(imagenet_like)}"
    results.mkdir(parents=True)
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.replace("--student resnet50", "--student small"))
        target = words.pop() if words[-2] == ">" else None
        done = CliRunner().invoke(main, [word for word in words[1:] if word != ">"])
        assert done.exit_code == 0, (line, done.output)
        if target is not None:
            (imagenet_like / target).write_text(done.stdout)
    found = {path.name: json.loads(path.read_text()) for path in results.iterdir()}
    assert [value["num_images"] for _, value in sorted(found.items())] == [20, 20, 19, 20]
    val = found["resnet50-k5.val.json"]
    assert 0.5 < val["top1"] <= val["real"]  # chance is 0.25
    assert found["resnet50-k5.v2-matched-frequency.json"]["top1"] == val["top1"]  # the same images under class numbers
    (row,) = [cells for labels, *cells in imagenet.rows(results) if labels == "`marginal_smoothing:k=5`"]
    assert row == [
        f"{100 * value:.2f}"
        for value in (val["top1"], val["real"], val["top1"], val["top1"], found["resnet50-k5.v2-top-images.json"]["top1"])
    ]


def test_the_committed_table_says_what_was_not_run():
    section = REPORT.read_text().partition("### ImageNet-1k")[2]
    for labels, *cells in imagenet.rows():
        assert "| " + " | ".join([labels, *cells]) + " |" in section
