"""The whole story in a few minutes: scikit-learn's handwritten digits, a small teacher, label files, students, one table, one picture."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from softlabel_codec.cli.output import print_table
from softlabel_codec.codec import Codec
from softlabel_codec.errors import StateError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.teacher import EncodeConfig, encode
from softlabel_codec.torch import SoftLabelDataset, normalize
from softlabel_codec.trainer import StudentConfig, accuracy, train_student
from softlabel_codec.writer import SoftLabelWriter

NUM_CLASSES = 10
IMAGE_SIDE = 32
NUM_TRAIN = 1200
CROPS = 40
CROPS_PER_IMAGE = 4
SEEDS = 3
TEACHER_EPOCHS, STUDENT_EPOCHS = 10, 6
TEACHER_WIDTH, STUDENT_WIDTH = 32, 16
IMAGES_PER_STEP = 16
LEARNING_RATE = 8e-3
MEAN = STD = (0.5, 0.5, 0.5)
SCALE = (0.35, 1.0)
SOURCES = {
    "ground truth": "hard",
    "dense labels": "dense:values=f32",
    "marginal smoothing": "marginal_smoothing:k=3",
    "smoothing": "smoothing",
    "hard": "hard",
}
TEACHER_FILE = '''"""The demo's teacher, as `slcodec encode --teacher teacher.py:build` takes it."""

from pathlib import Path

import torch

from softlabel_codec.demo import IMAGE_SIDE as INPUT_SIZE
from softlabel_codec.demo import MEAN, STD, TEACHER_WIDTH, small_network

NAME = "small network on handwritten digits"


def build():
    model = small_network(TEACHER_WIDTH)
    model.load_state_dict(torch.load(Path(__file__).with_name("teacher.pt"), weights_only=True))
    return model
'''


@dataclass(frozen=True)
class Row:
    """One source of labels, and what students make of it.

    Attributes
    ----------
    source, codec : str
        Where labels come from and how they are stored.
    bytes_per_crop, fkd_bytes_per_crop : float
        Of our file, and of FKD's files with the same labels in float32.
    accuracies : list of float
        Of students, one per seed.
    """

    source: str
    codec: str
    bytes_per_crop: float
    fkd_bytes_per_crop: float
    accuracies: list[float]


@dataclass(frozen=True)
class Digits:
    """The images: an image folder for training, tensors for testing."""

    folder: Path
    classes: dict[str, int]
    test_images: Tensor
    test_classes: Tensor


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
        Everything is written here; what an earlier demo wrote is replaced.
    epochs, seeds, seed : int
        Epochs of each student, students per source, and where to start counting.
    progress : callable, optional
        Called with steps done and in all.

    Raises
    ------
    StateError
        If scikit-learn or matplotlib is missing, or the folder holds something else.
    """
    out = _fresh_folder(Path(folder))
    steps = _Steps(progress, 3 + len(SOURCES) * seeds)
    digits = _write_digits(out)
    _say(steps, f"{len(digits.classes)} real images, {len(digits.test_classes)} more to test on, in {digits.folder}")
    teacher_accuracy = _train_teacher(out, digits, seed)
    _say(steps, f"teacher: {teacher_accuracy:.1%} of the test images right, after {TEACHER_EPOCHS} epochs from ground truth")
    files = _label(out, digits, seed)
    _say(steps, f"labelled {CROPS} crops of each image with it: {', '.join(sorted(path.name for path in files.values()))}")
    rows = []
    for source, codec in SOURCES.items():
        accuracies = []
        for student in range(seeds):
            accuracies.append(_train_on(files[source], digits, epochs, seed + student))
            _say(steps, f"student {student + 1} of {seeds} from {source}: {accuracies[-1]:.1%}")
        rows.append(_row(source, codec, files[source], out, accuracies))
    _print(rows, teacher_accuracy)
    _write_results(rows, teacher_accuracy, out)
    _draw(rows, files["marginal smoothing"], digits, out / "demo.png")
    click.echo(f"\nThe picture is {out / 'demo.png'}. Look further: slcodec inspect {files['marginal smoothing']}")
    return rows


def small_network(width: int) -> nn.Sequential:
    """Return a small convolutional network for 32 x 32 images."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(3, width),
        *stage(width, 2 * width),
        *stage(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, NUM_CLASSES),
    )


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
    mark = folder / "made-by-slcodec-demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise StateError(f"{folder}: expected an empty folder, or one that an earlier demo made")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
    return folder


def _write_digits(out: Path) -> Digits:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ImportError:
        raise StateError("the demo needs scikit-learn and matplotlib: pip install 'softlabel_codec[demo]'") from None
    data = load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    large = [Image.fromarray(image).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC).convert("RGB") for image in pixels]
    classes = {}
    for number in order[:NUM_TRAIN].tolist():
        key = f"{data.target[number]}/{number:04d}.png"
        path = out / "train" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        large[number].save(path)
        classes[key] = int(data.target[number])
    test = order[NUM_TRAIN:]
    stack = torch.from_numpy(np.stack([np.asarray(large[number]) for number in test])).permute(0, 3, 1, 2)
    return Digits(out / "train", classes, normalize(stack, MEAN, STD), torch.from_numpy(data.target[test]).long())


def _sampler(seed: int) -> CropSampler:
    return CropSampler(seed=seed, scale=SCALE, flip_probability=0.0)  # a mirrored digit is not a digit


def _write_ground_truth(path: Path, digits: Digits, seed: int) -> None:
    """Store ground truth as hard labels of the same crops, so that students from it take the same way as all others."""
    with SoftLabelWriter(path, NUM_CLASSES, "hard", {"source": "ground truth"}) as writer:
        for key in sorted(digits.classes):
            crops, flips = _sampler(seed).sample(key, (IMAGE_SIDE, IMAGE_SIDE), range(CROPS))
            classes = np.full((CROPS, 1), digits.classes[key])
            writer.add(key, image_size=(IMAGE_SIDE, IMAGE_SIDE), crops=crops, flips=flips, indices=classes, values=np.ones((CROPS, 1)))


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
                _copy_labels(reader, path, SOURCES[source])
    return files


def _copy_labels(reader: SoftLabelReader, path: Path, codec: str) -> None:
    with SoftLabelWriter(path, reader.num_classes, codec, reader.metadata) as writer:
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


def _row(source: str, codec: str, path: Path, out: Path, accuracies: list[float]) -> Row:
    with SoftLabelReader(path) as reader:
        num_crops = int(reader.num_crops.sum())
        fkd_bytes = sum(_fkd_file_bytes(image, Codec.parse(codec), out / "fkd.tar") for image in reader)
    return Row(source, str(Codec.parse(codec)), path.stat().st_size / num_crops, fkd_bytes / num_crops, accuracies)


def _fkd_file_bytes(image: Any, codec: Codec, path: Path) -> int:
    """Return the size of the file that FKD's generator would write for an image, by writing it."""
    if codec.family == "dense":
        labels: NDArray[Any] = image.labels.vectors
    elif codec.name == "hard":
        labels = image.labels.indices[:, 0].astype(np.int64)
    else:
        labels = np.stack([image.labels.indices, image.labels.values], axis=1).astype(np.float32)
    fractions = (image.crops / IMAGE_SIDE).astype(np.float32)
    torch.save([fractions, image.flips, labels], path)
    size = path.stat().st_size
    path.unlink()
    return size


def _print(rows: Sequence[Row], teacher_accuracy: float) -> None:
    click.echo(f"\nThe teacher gets {teacher_accuracy:.1%} right. Its labels, and students trained from them:\n")
    print_table(
        f"{len(rows[0].accuracies)} students each; accuracy in % +- standard deviation",
        ["labels", "codec", "bytes/crop", "FKD files", "smaller", "accuracy"],
        [
            (
                row.source,
                row.codec,
                f"{row.bytes_per_crop:.1f}",
                f"{row.fkd_bytes_per_crop:.1f}",
                f"{row.fkd_bytes_per_crop / row.bytes_per_crop:.1f} x",
                _accuracy_text(row),
            )
            for row in rows
        ],
    )


def _accuracy_text(row: Row) -> str:
    spread = f" +- {100 * stdev(row.accuracies):.1f}" if len(row.accuracies) > 1 else ""
    return f"{100 * mean(row.accuracies):.1f}{spread}"


def _write_results(rows: Sequence[Row], teacher_accuracy: float, out: Path) -> None:
    results = {"date": time.strftime("%Y-%m-%d"), "teacher_accuracy": teacher_accuracy, "rows": [asdict(row) for row in rows]}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def _draw(rows: Sequence[Row], labels: Path, digits: Digits, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_crops(left, labels, digits)
    _draw_sizes(middle, rows)
    _draw_accuracies(right, rows)
    figure.savefig(path, dpi=120)


def _draw_crops(axes: Any, labels: Path, digits: Digits) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    with SoftLabelReader(labels) as reader:
        number = min(range(len(reader)), key=lambda image: float(reader[image].labels.dense().max(axis=1).mean()))
        image, key = reader.read(number, crops=[0, 1, 2]), reader.keys[number]
    axes.imshow(Image.open(digits.folder / key), extent=(0, IMAGE_SIDE, IMAGE_SIDE, 0))
    lines = []
    for crop, color in enumerate(("tab:orange", "tab:green", "tab:red")):
        top, left, height, width = image.crops[crop].tolist()
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, linewidth=2.5))
        targets = image.labels.dense()[crop]
        lines.append((",  ".join(f"{digit}: {targets[digit]:.2f}" for digit in np.argsort(-targets)[:3]), color))
    axes.set_title(f"{key}: three of {CROPS} crops and their labels")
    for place, (line, color) in enumerate(lines):
        axes.text(0.5, -0.08 - 0.07 * place, line, color=color, ha="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_sizes(axes: Any, rows: Sequence[Row]) -> None:
    places = np.arange(len(rows))
    axes.barh(places - 0.2, [row.fkd_bytes_per_crop for row in rows], height=0.4, color="lightgrey", label="FKD files")
    bars = axes.barh(places + 0.2, [row.bytes_per_crop for row in rows], height=0.4, label="softlabel container")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(places, [row.source for row in rows])
    axes.invert_yaxis()
    axes.set(title="Bytes per crop", xlabel="bytes")
    axes.legend(loc="lower right")


def _draw_accuracies(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        values = 100 * np.array(row.accuracies)
        axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.5)
        axes.plot(values.mean(), place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(rows)), [row.source for row in rows])
    axes.invert_yaxis()
    axes.set(title="Accuracy of students (each, and mean)", xlabel="% of test images")
