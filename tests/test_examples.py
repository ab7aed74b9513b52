"""The examples run, and use what is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import write_shapes

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, epochs):
    options = {"--val": "val", "--network": "teacher.py:plain", "--size": 16, "--batch-size": 16, "--workers": 1, "--learning-rate": 0.5}
    words = [str(word) for pair in {**options, "--epochs": epochs}.items() for word in pair]
    command = [sys.executable, EXAMPLES / "train.py", "labels.slc", "train", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()


def test_training_from_stored_labels(tmp_path):
    write_shapes(tmp_path)
    lines = run(tmp_path, 8)
    assert [line.split(":")[0] for line in lines] == [f"epoch {epoch}" for epoch in range(8)]
    assert float(lines[-1].rpartition("top-1 ")[2].rstrip("%")) > 60  # chance is 25
    assert run(tmp_path, 8) == []  # the checkpoint is that of the last epoch
    refused(tmp_path, 9, "checkpoint.pt: is of a run with other labels or options")
    (tmp_path / "checkpoint.pt").unlink()
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "apple")  # or else the folders would have other numbers than the classes
    refused(tmp_path, 9, "val: expected images of the 4 classes in folders named as those of the labelled images")


def refused(folder, epochs, why):
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(folder, epochs)
    assert why in error.value.stderr


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_use_what_is_public(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    modules = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert {module for module in modules if module.startswith("softlabel_codec")} <= {"softlabel_codec", "softlabel_codec.torch"}
