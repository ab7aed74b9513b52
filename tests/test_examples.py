"""The examples run, and use what is public; those in the manner of others differ from plain training by a few lines."""

import ast
import difflib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import write_shapes

from softlabel_codec.cli.encode import encode_command

EXAMPLES = Path(__file__).parents[1] / "examples"
PARTS = {"softlabel_codec.evaluate", "softlabel_codec.teacher", "softlabel_codec.trainer"}
"""What does in Python what commands do: for the example that does everything. Scripts in the manner of others need none of it."""
OF_STUDENTS = {"detection.py", "attention.py"}
"""Examples that take what was trained."""


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


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_examples_are_short_and_use_what_is_public(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    modules = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    more = PARTS if path.name == "self_supervised.py" else {"softlabel_codec.evaluate"} if path.name in OF_STUDENTS else set()
    assert {module for module in modules if module.startswith("softlabel_codec")} <= {"softlabel_codec", "softlabel_codec.torch", *more}


@pytest.mark.parametrize("path", sorted((EXAMPLES / "cluster").iterdir()), ids=lambda path: path.name)
def test_jobs_for_clusters_use_options_that_there_are(path):
    text = path.read_text()
    if path.suffix == ".sh":
        subprocess.run(["bash", "-n", path], check=True)
    start = re.search(r"^ *[^#\n]*(?:slcodec encode|-m softlabel_codec\.teacher)", text, re.MULTILINE).end()
    words = shlex.split(re.sub(r"\\\n", " ", text[start:].partition("resources:")[0]))
    options = {name: option for option in encode_command.params for name in option.opts}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            assert options[word].type.convert(value.replace("$JOB_COMPLETION_INDEX", "63"), options[word], None) is not None
    assert {"--teacher", "--shards"} <= {*words}


def test_few_lines_differ_from_plain_training_and_the_documentation_says_how_many():
    said = re.findall(
        r"^\| \[(\w+\.py)\]\(\.\./examples/\1\) \|.*\| (\d+) \|$", (EXAMPLES.parent / "docs" / "train.md").read_text(), re.MULTILINE
    )
    found = {path.name: lines_that_differ(path.read_text(), (EXAMPLES / path.name).read_text()) for path in (EXAMPLES / "plain").iterdir()}
    assert {name: int(number) for name, number in said} == {name: len(lines) for name, lines in found.items()}
    assert max(len(lines) for lines in found.values()) <= 6
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"train.py", "self_supervised.py", *OF_STUDENTS, *found}


def test_which_lines_differ():
    plain = '"""One."""\nimport a\n\nfor batch in a.load():\n    a.train(batch)\n'
    stored = '"""Two."""\nimport a\nimport b\n\n# A comment.\nfor batch in b.load():\n\n    """Text."""\n    a.train(batch)\n'
    assert lines_that_differ(plain, stored) == ["import b", "for batch in b.load():"]


def lines_that_differ(plain, stored):
    """Return the lines of code of a script that another one does not have at that place."""
    compared = difflib.ndiff(lines_of_code(plain), lines_of_code(stored))
    return [line.removeprefix("+ ") for line in compared if line.startswith("+ ")]


def lines_of_code(text):
    """Return the lines of a script without blank ones, comments and docstrings."""
    texts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    in_texts = {number for node in texts for number in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(text.splitlines(), start=1)
    return [line for number, line in lines if number not in in_texts and line.strip() and not line.lstrip().startswith("#")]
