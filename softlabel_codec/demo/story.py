"""The story: a teacher trained, images labelled once, the files looked at, students trained from each, one table, one picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from softlabel_codec.cli.tables import show_inspection, show_stats
from softlabel_codec.demo.digits import IMAGE_SIDE, MEAN, NUM_CLASSES, STD, Digits, small_network, write_digits
from softlabel_codec.demo.outcome import Row, draw, show, summarise, write_json
from softlabel_codec.errors import StateError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.report import inspect, stats
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.torch import SoftLabelDataset
from softlabel_codec.trainer import StudentConfig, accuracy, train_student
from softlabel_codec.writer import SoftLabelWriter

CROPS = 40
CROPS_PER_IMAGE = 4
SEEDS = 3
TEACHER_EPOCHS, STUDENT_EPOCHS = 10, 5
TEACHER_WIDTH, STUDENT_WIDTH = 32, 16
IMAGES_PER_STEP = 16
LEARNING_RATE = 8e-3
SCALE = (0.35, 1.0)
SOURCES = {
    "ground truth": "hard",
    "dense labels": "dense:values=f32",
    "marginal smoothing": "marginal_smoothing:k=3",
    "smoothing": "smoothing",
    "hard": "hard",
}
WRITTEN = [
    *(f"{source.replace(' ', '-')}.slc" for source in SOURCES),
    *(f"{source.replace(' ', '-')}.slc.partial" for source in SOURCES),
    "teacher.py",
    "teacher.pt",
    "results.json",
    "demo.png",
]
TEACHER_FILE = f'''"""The demo's teacher, as `slcodec encode --teacher teacher.py:build` takes it."""

from pathlib import Path

import torch

from softlabel_codec.demo.digits import IMAGE_SIDE as INPUT_SIZE
from softlabel_codec.demo.digits import MEAN, STD, small_network

NAME = "small network on handwritten digits"


def build():
    model = small_network({TEACHER_WIDTH})
    model.load_state_dict(torch.load(Path(__file__).with_name("teacher.pt"), weights_only=True))
    return model
'''


def run_demo(
    folder: str | Path,
    *,
    epochs: int = STUDENT_EPOCHS,
    seeds: int = SEEDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Tell the whole story in a folder and return its table.

    Parameters
    ----------
    folder : path
        Everything is written here; what an earlier demo wrote is replaced, what else is there stays.
    epochs, seeds, seed : int
        Epochs of each student, students per source, and where to start counting.
    progress : callable, optional
        Called with steps done and in all.

    Raises
    ------
    StateError
        If scikit-learn or matplotlib is missing, or the folder holds something else.
    """
    _require("sklearn", "matplotlib")
    out = _fresh_folder(Path(folder))
    steps = _Steps(progress, 3 + len(SOURCES) * seeds)
    digits = write_digits(out)
    _say(steps, f"{len(digits.classes)} real images, {len(digits.test_classes)} more to test on, in {digits.folder}")
    teacher_accuracy = _train_teacher(out, digits, seed)
    _say(steps, f"teacher: {teacher_accuracy:.1%} of the test images right, after {TEACHER_EPOCHS} epochs from ground truth")
    files = _label(out, digits, seed)
    _say(steps, f"labelled {CROPS} crops of each image with it: {', '.join(sorted(path.name for path in files.values()))}")
    _look(files["marginal smoothing"])
    rows = []
    for source, codec in SOURCES.items():
        accuracies = []
        for student in range(seeds):
            accuracies.append(_train_on(files[source], digits, epochs, seed + student))
            _say(steps, f"student {student + 1} of {seeds} from {source}: {accuracies[-1]:.1%}")
        rows.append(summarise(source, codec, files[source], accuracies))
    show(rows, teacher_accuracy)
    write_json(rows, teacher_accuracy, out / "results.json")
    draw(rows, files["marginal smoothing"], digits.folder, out / "demo.png")
    click.echo(f"\nThe table is in {out / 'results.json'} too, and the picture is {out / 'demo.png'}.")
    return rows


class _Steps:
    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


def _say(steps: _Steps, text: str) -> None:
    from tqdm import tqdm  # noqa: PLC0415

    tqdm.write(text)
    steps.next()


def _fresh_folder(folder: Path) -> Path:
    """Return an empty folder, or one that an earlier demo made, without what that demo wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "made-by-slcodec-demo"
    if any(folder.iterdir()) and not mark.exists():
        raise StateError(f"{folder}: expected an empty folder, or one that an earlier demo made")
    mark.touch()
    shutil.rmtree(folder / "train", ignore_errors=True)
    for name in WRITTEN:
        (folder / name).unlink(missing_ok=True)
    return folder


def _require(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise StateError(f"the demo needs {' and '.join(missing)}: pip install 'softlabel_codec[demo]'")


def _look(labels: Path) -> None:
    """Show what anyone sees who is handed one of the files."""
    click.echo(f"\n$ slcodec inspect {labels}\n")
    show_inspection(inspect(labels))
    click.echo(f"\n$ slcodec stats {labels}\n")
    show_stats(stats(labels))
    click.echo()


def _sampler(seed: int) -> CropSampler:
    return CropSampler(seed=seed, scale=SCALE, flip_probability=0.0)  # a mirrored digit is not a digit


def _write_ground_truth(path: Path, digits: Digits, seed: int) -> None:
    """Store ground truth as hard labels of the same crops, so that students from it take the same way as all others."""
    with SoftLabelWriter(path, NUM_CLASSES, "hard", {"source": "ground truth"}, crops="derived", sampler=_sampler(seed)) as writer:
        for key in sorted(digits.classes):
            classes = np.full((CROPS, 1), digits.classes[key])
            writer.add(key, image_size=(IMAGE_SIDE, IMAGE_SIDE), indices=classes, values=np.ones((CROPS, 1)))


def _train_teacher(out: Path, digits: Digits, seed: int) -> float:
    _write_ground_truth(out / "ground-truth.slc", digits, seed)
    model = _student(out / "ground-truth.slc", digits, TEACHER_EPOCHS, seed, TEACHER_WIDTH)
    torch.save(model.state_dict(), out / "teacher.pt")
    (out / "teacher.py").write_text(TEACHER_FILE)
    return accuracy(model, digits.test_images, digits.test_classes)


def _label(out: Path, digits: Digits, seed: int) -> dict[str, Path]:
    """Run the teacher once, keeping full probabilities, and write the other label files from those."""
    files = {source: out / f"{source.replace(' ', '-')}.slc" for source in SOURCES}
    dense = files["dense labels"]
    config = EncodeConfig(
        images=str(digits.folder),
        out=str(dense),
        teacher=f"{out / 'teacher.py'}:build",
        codec=SOURCES["dense labels"],
        crops=CROPS,
        sampler=_sampler(seed),
        num_classes=NUM_CLASSES,
    )
    encode(config)
    with SoftLabelReader(dense) as reader:
        for source, path in files.items():
            if not path.exists():
                _copy_labels(reader, path, SOURCES[source], _sampler(seed))
    return files


def _copy_labels(reader: SoftLabelReader, path: Path, codec: str, sampler: CropSampler) -> None:
    with SoftLabelWriter(path, reader.num_classes, codec, reader.metadata, crops="derived", sampler=sampler) as writer:
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=image.image_size, crops=image.crops, flips=image.flips, probs=image.labels.dense())


def _student(labels: Path, digits: Digits, epochs: int, seed: int, width: int = STUDENT_WIDTH) -> nn.Module:
    torch.manual_seed(seed)
    model = small_network(width)
    dataset = SoftLabelDataset(digits.folder, labels, CROPS_PER_IMAGE, IMAGE_SIDE, seed, mean=MEAN, std=STD, num_classes=NUM_CLASSES)
    train_student(model, dataset, StudentConfig(epochs=epochs, images_per_step=IMAGES_PER_STEP, learning_rate=LEARNING_RATE, seed=seed))
    return model


def _train_on(labels: Path, digits: Digits, epochs: int, seed: int) -> float:
    return accuracy(_student(labels, digits, epochs, seed), digits.test_images, digits.test_classes)
