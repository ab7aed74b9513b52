"""The story: a teacher trained, images labelled once, the files looked at, students trained from each, one table, one picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from softlabel_codec.cli.tables import show_comparison, show_inspection, show_stats
from softlabel_codec.demo.digits import IMAGE_SIDE, MEAN, NUM_CLASSES, STD, write_digits
from softlabel_codec.demo.outcome import Outcome, draw, fkd_bytes_per_crop, show_sizes, write_json
from softlabel_codec.errors import StateError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report import inspect, stats
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.train_config import ONLINE, TRUTH, TrainConfig
from softlabel_codec.trainer import compare, train
from softlabel_codec.writer import SoftLabelWriter

CROPS = 40
SEEDS = 3
TEACHER_EPOCHS, STUDENT_EPOCHS = 30, 20
SCALE, FLIP_PROBABILITY = (0.35, 1.0), 0.0  # a mirrored digit is not a digit
CODECS = {
    "full labels": "dense:values=f32",
    "marginal smoothing": "marginal_smoothing:k=3",
    "image tail": "marginal_smoothing:t=0.1,tail=5",
    "smoothing": "smoothing",
    "hard": "hard",
}
REFERENCE = "full labels"
MARGIN = 1.5
OPTIONS = {
    "student": "small",
    "size": IMAGE_SIDE,
    "mean": MEAN,
    "std": STD,
    "val_crop": 1.0,
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 8e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "in_memory": True,
    "precision": "float32",
    "device": "cpu",
}
WRITTEN = ("train", "val", "teacher", "students", "teacher.py", "results.json", "demo.png")
TEACHER_FILE = '''"""The demo's teacher: the built-in small network, twice as wide as the students."""

from pathlib import Path

import torch

from softlabel_codec.demo.digits import IMAGE_SIDE as INPUT_SIZE
from softlabel_codec.demo.digits import MEAN, NUM_CLASSES, STD
from softlabel_codec.students.small import SmallNetwork

NAME = "small network on handwritten digits"


def untrained(num_classes):  # slcodec train --student teacher.py:untrained
    return SmallNetwork(num_classes, width=32)


def build():  # slcodec encode --teacher teacher.py:build
    model = untrained(NUM_CLASSES)
    model.load_state_dict(torch.load(Path(__file__).parent / "teacher" / "weights.pt", weights_only=True))
    return model
'''


def run_demo(
    folder: str | Path,
    *,
    epochs: int = STUDENT_EPOCHS,
    seeds: int = SEEDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Tell the whole story in a folder and return what came out.

    Parameters
    ----------
    folder : path
        Everything is written here; what an earlier demo wrote is replaced, what else is there stays.
    epochs, seeds, seed : int
        Epochs of each student, students per source, and where to start counting.
    progress : callable, optional
        Called with steps of students done and in all.

    Raises
    ------
    StateError
        If scikit-learn or matplotlib is missing, or the folder holds something else.
    """
    _require("sklearn", "matplotlib")
    out = _fresh_folder(Path(folder))
    write_digits(out)
    click.echo(f"1000 real images in {out / 'train'}, 797 more to test on in {out / 'val'}")
    teacher_accuracy = _train_teacher(out, seed)
    click.echo(f"teacher: {teacher_accuracy:.1%} of the test images right, after {TEACHER_EPOCHS} epochs from ground truth")
    files = _label(out, seed)
    click.echo(f"labelled {CROPS} crops of each image with it: {', '.join(path.name for path in files.values())}")
    _look(files["marginal smoothing"])
    sources = {**{name: str(path) for name, path in files.items()}, "ground truth": TRUTH, "teacher in every step": ONLINE}
    options = {**_options(out), "teacher": _teacher(out), "epochs": epochs, **_only_at_the_end(epochs)}
    click.echo(f"\n{len(sources)} x {seeds} students, from each kind of labels:\n")
    report = compare(
        sources, out / "students", options, seeds=range(seed, seed + seeds), reference=REFERENCE, margin=MARGIN, progress=progress
    )
    sizes = {name: fkd_bytes_per_crop(path, CODECS[name]) for name, path in files.items()}
    outcome = Outcome(teacher_accuracy, sizes, report)
    show_comparison(report)
    show_sizes(outcome)
    write_json(outcome, out / "results.json")
    draw(outcome, files["marginal smoothing"], out / "train", out / "demo.png")
    click.echo(f"\nThe tables are in {out / 'results.json'} too, and the picture is {out / 'demo.png'}.")
    return outcome


def _fresh_folder(folder: Path) -> Path:
    """Return an empty folder, or one that an earlier demo made, without what that demo wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "made-by-slcodec-demo"
    if any(folder.iterdir()) and not mark.exists():
        raise StateError(f"{folder}: expected an empty folder, or one that an earlier demo made")
    mark.touch()
    files = [_file_name(name) for name in CODECS]
    for name in (*WRITTEN, *files, *(f"{file}.partial" for file in files)):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return folder


def _file_name(source: str) -> str:
    return f"{source.replace(' ', '-')}.slc"


def _require(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise StateError(f"the demo needs {' and '.join(missing)}: pip install 'softlabel_codec[demo]'")


def _options(out: Path) -> dict[str, Any]:
    return {"images": str(out / "train"), "val": str(out / "val"), **OPTIONS}


def _only_at_the_end(epochs: int) -> dict[str, Any]:
    return {"val_epochs": epochs, "checkpoint_epochs": epochs}


def _teacher(out: Path) -> str:
    return f"{out / 'teacher.py'}:build"


def _train_teacher(out: Path, seed: int) -> float:
    (out / "teacher.py").write_text(TEACHER_FILE)
    own = {"student": f"{out / 'teacher.py'}:untrained", "labels": TRUTH, "out": str(out / "teacher"), "epochs": TEACHER_EPOCHS}
    crops = {"seed": seed, "scale": SCALE, "flip_probability": FLIP_PROBABILITY}
    report = train(TrainConfig.from_mapping({**_options(out), **own, **crops, **_only_at_the_end(TEACHER_EPOCHS)}))
    return float((report.evaluation or {})["top1"])


def _label(out: Path, seed: int) -> dict[str, Path]:
    """Run the teacher once, keeping full probabilities, and write the other label files from those."""
    files = {source: out / _file_name(source) for source in CODECS}
    sampler = CropSampler(seed=seed, scale=SCALE, flip_probability=FLIP_PROBABILITY)
    config = EncodeConfig(
        images=str(out / "train"),
        out=str(files[REFERENCE]),
        teacher=_teacher(out),
        codec=CODECS[REFERENCE],
        crops=CROPS,
        sampler=sampler,
        num_classes=NUM_CLASSES,
    )
    encode(config)
    with SoftLabelReader(files[REFERENCE]) as reader:
        for source, path in files.items():
            if source != REFERENCE:
                _copy_labels(reader, path, CODECS[source], sampler)
    return files


def _copy_labels(reader: SoftLabelReader, path: Path, codec: str, sampler: CropSampler) -> None:
    with SoftLabelWriter(path, reader.num_classes, codec, reader.metadata, crops="derived", sampler=sampler) as writer:
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=image.image_size, crops=image.crops, flips=image.flips, probs=image.labels.dense())


def _look(labels: Path) -> None:
    """Show what anyone sees who is handed one of the files."""
    click.echo(f"\n$ slcodec inspect {labels}\n")
    show_inspection(inspect(labels))
    click.echo(f"\n$ slcodec stats {labels}\n")
    show_stats(stats(labels))
