"""The steps of the demo: train a teacher, label images, inspect a file, train students from each kind of labels, draw the result.

Network, recipe, codecs and number of students were chosen on other cuts of the photographs and other students than those shown here.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from softlabel_codec.cli.output import progress_bar
from softlabel_codec.cli.tables import show_inspection
from softlabel_codec.compare import compare
from softlabel_codec.container.files import partial_path
from softlabel_codec.container.whole_files import write_json
from softlabel_codec.demo.fkd_size import fkd_bytes_per_crop
from softlabel_codec.demo.outcome import Outcome, show_students
from softlabel_codec.demo.photographs import INPUT_SIZE, MEAN, PHOTOGRAPHS, PIECES, PIECES_PER_SIDE, STD, write_pieces
from softlabel_codec.demo.picture import draw
from softlabel_codec.errors import StateError
from softlabel_codec.options.train import TRUTH, TrainConfig
from softlabel_codec.report import inspect
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.trainer import train

CROPS = 100
SEEDS = 10
TEACHER_EPOCHS, STUDENT_EPOCHS = 40, 100  # a student sees each crop once
CODECS = {
    "full labels": "dense:values=f16",
    "image tail": "marginal_smoothing:t=0.05,tail=10",
    "top 3": "marginal_smoothing:k=3",
    "hard": "hard",
}
FULL, SHOWN = "full labels", "image tail"
FILES = {name: f"{name.replace(' ', '-')}.slc" for name in CODECS}
MARGIN = 2.0
OPTIONS = {
    "size": INPUT_SIZE,
    "mean": MEAN,
    "std": STD,
    "val_crop": 1.0,
    "batch_size": len(PHOTOGRAPHS) * PIECES["train"],
    "crops_per_image": 1,
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "in_memory": True,
    "precision": "float32",
    "device": "cpu",
}
LINES_OF_INSPECT = 7
WRITTEN = (*PIECES, "teacher", "students", "teacher.py", "recipe.json", "results.json", "demo.png")
TEACHER_FILE = '''"""The networks of the demo. Teacher and students are alike, but the teacher was trained on many more pieces."""

from pathlib import Path

import torch

from softlabel_codec.demo.photographs import INPUT_SIZE, MEAN, PHOTOGRAPHS, STD
from softlabel_codec.students.small import SmallNetwork

NAME = "small network on pieces of photographs"


def network(num_classes):  # the "student" of recipe.json
    return SmallNetwork(num_classes, width=32)


def build():  # slcodec encode --teacher teacher.py:build
    model = network(len(PHOTOGRAPHS))
    model.load_state_dict(torch.load(Path(__file__).parent / "teacher" / "weights.pt", weights_only=True))
    return model
'''


def run_demo(folder: str | Path, quiet: bool = False) -> Outcome:
    """Run all steps in a folder and return the result.

    Parameters
    ----------
    folder : path
        Everything is written here; what an earlier demo wrote is replaced, what else is there stays.
    quiet : bool
        Show no progress.

    Raises
    ------
    StateError
        If scikit-image, matplotlib or scipy is missing, or the folder holds something else.
    """
    _require("skimage", "matplotlib", "scipy")
    out = _fresh_folder(Path(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for one another: the networks are small
    try:
        return _tell(out, quiet)
    finally:
        torch.set_num_threads(threads)


def _tell(out: Path, quiet: bool) -> Outcome:
    which = f"{len(PHOTOGRAPHS)} photographs (scikit-image's, in grey, cut into {PIECES_PER_SIDE} x {PIECES_PER_SIDE} pieces)"
    click.echo(f"Which of {which} is this a piece of?\n{', '.join(PHOTOGRAPHS)}")
    click.echo("{teacher-train} pieces of each train the teacher, {train} others the students; {val} others test both.\n".format(**PIECES))
    write_pieces(out)
    recipe = _write_recipe(out)
    teacher_accuracy = _train_teacher(out, recipe)
    right = f"{100 * teacher_accuracy:.1f} % of the test pieces right"
    click.echo(f"The teacher has {right} and labels {CROPS} crops of each student piece.")
    files = {name: out / file for name, file in FILES.items()}
    stored = _label(out, files)
    fkd = {name: fkd_bytes_per_crop(path) for name, path in files.items()}
    _look(files[SHOWN], stored[SHOWN], fkd)
    sources = {**{name: str(path) for name, path in files.items()}, "ground truth": TRUTH}
    with progress_bar("step", quiet) as progress:
        report = compare(sources, out / "students", recipe, seeds=range(SEEDS), reference=FULL, margin=MARGIN, progress=progress)
    outcome = Outcome(teacher_accuracy, stored, fkd, report)
    show_students(outcome)
    write_json(out / "results.json", dataclasses.asdict(outcome))
    draw(outcome, files[SHOWN], out / "demo.png")
    click.echo(f"\nThe picture is in {out / 'demo.png'}. What to try next, with this teacher or your own:")
    for command in next_commands(out):
        click.echo(command)
    return outcome


def next_commands(out: Path) -> list[str]:
    """Return commands to try next: look at the labels, make others, train a student from them."""
    program = "slcodec" if shutil.which("slcodec") else os.path.relpath(Path(sys.executable).with_name("slcodec"))
    return [
        f"{program} stats {out / FILES[SHOWN]}",
        f"{program} show {out / FILES[SHOWN]} --images {out / 'train'} --out {out / 'labels.html'}",
        f"{program} encode {out / 'train'} {out / 'my.slc'} --teacher {_teacher(out)}",
        f"{program} train --config {out / 'recipe.json'} --labels {out / 'my.slc'} --out {out / 'my-student'}",
    ]


def _require(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise StateError(f"the demo needs {' and '.join(missing)}: pip install 'softlabel_codec[demo]'")


def _fresh_folder(folder: Path) -> Path:
    """Return an empty folder, or one that an earlier demo made, without what that demo wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "made-by-slcodec-demo"
    if any(folder.iterdir()) and not mark.exists():
        raise StateError(f"{folder}: expected an empty folder, or the output folder of an earlier demo")
    mark.touch()
    for name in (*WRITTEN, *FILES.values(), *(partial_path(Path(file)).name for file in FILES.values())):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return folder


def _write_recipe(out: Path) -> dict[str, Any]:
    """Write the file of the networks and the options of students, and return those."""
    (out / "teacher.py").write_text(TEACHER_FILE)
    student = {"student": f"{out / 'teacher.py'}:network", **_for_epochs(STUDENT_EPOCHS)}
    recipe = {"images": str(out / "train"), "val": str(out / "val"), **student, **OPTIONS}
    write_json(out / "recipe.json", recipe)
    return recipe


def _for_epochs(epochs: int) -> dict[str, int]:
    return {"epochs": epochs, "val_epochs": epochs, "checkpoint_epochs": epochs}


def _teacher(out: Path) -> str:
    return f"{out / 'teacher.py'}:build"


def _train_teacher(out: Path, recipe: dict[str, Any]) -> float:
    own = {"images": str(out / "teacher-train"), "labels": TRUTH, "out": str(out / "teacher"), **_for_epochs(TEACHER_EPOCHS)}
    report = train(TrainConfig.from_mapping({**recipe, **own}))
    return float((report.evaluation or {})["top1"])


def _label(out: Path, files: dict[str, Path]) -> dict[str, float]:
    """Write all label files, and return how many bytes per crop each would take if it stored its crops."""
    config = EncodeConfig(images=str(out / "train"), out="", teacher=_teacher(out), crops=CROPS, num_classes=len(PHOTOGRAPHS))
    stored = {}
    for name, codec in CODECS.items():
        encode(replace(config, out=str(files[name]), codec=codec))
        with TemporaryDirectory() as folder:
            report = encode(replace(config, out=f"{folder}/{FILES[name]}", codec=codec, store_crops=True))
        stored[name] = report.file_bytes / (CROPS * report.num_images)
    return stored


def _look(path: Path, stored: float, fkd: dict[str, float | None]) -> None:
    """Print the first lines of `slcodec inspect`."""
    click.echo(f"\n$ slcodec inspect {path} | head -{LINES_OF_INSPECT}")
    with redirect_stdout(io.StringIO()) as printed:
        show_inspection(inspect(path))
    click.echo("\n".join(printed.getvalue().splitlines()[:LINES_OF_INSPECT]))
    fkds = ", ".join(f"{name} {size:.1f}" for name, size in fkd.items() if size is not None)
    click.echo(f"With stored crops: {stored:.1f} bytes per crop. FKD's files, which store crops: {fkds}.")
