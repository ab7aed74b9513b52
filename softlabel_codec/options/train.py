"""`TrainConfig`: the options of a training run, for Python, JSON files and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from softlabel_codec.checks.arguments import (
    BACKENDS,
    EXIF_POLICIES,
    INTERPOLATIONS,
    OUTPUTS_OF_CLASSES,
    PRECISIONS,
    check_choice,
    check_temperature,
)
from softlabel_codec.checks.limits import MAX_IMAGE_SIDE
from softlabel_codec.errors import ArgumentError
from softlabel_codec.label_set.index_file import SUFFIX
from softlabel_codec.options.averaging import check_average, shares_of, texts_of, weights_of_each
from softlabel_codec.options.encode import MAX_INPUT_SIZE
from softlabel_codec.options.fields import option, types_of
from softlabel_codec.storage.location import is_remote

STORED, MAPS, TRUTH, ONLINE = "stored", "maps", "truth", "online"
"""Kinds of label sources: label files, label maps, class folders, a teacher in every step."""
OF_RANDOM_CROPS = ("scale", "ratio", "flip_probability")
OF_FRESH_CROPS = (*OF_RANDOM_CROPS, "all_views", "padding", "padding_mode", "fill")
OF_TEACHERS = ("teacher", "teacher_weights", "teacher_output", "teacher_size", "teacher_shares", "average")
OPTIMIZERS = ("sgd", "adamw")
WHERE_IT_RUNS = (
    *("images", "labels", "teacher", "teacher_weights", "val", "classes", "out"),
    *("workers", "device", "val_epochs", "checkpoint_epochs", "resume"),
)
"""Options that do not change the training, or only locate data that have a fingerprint: a run may be continued with other values."""
_SEQUENCES = {"teacher": str, "teacher_weights": str, "teacher_shares": float, "milestones": int}
"""Options that are a text or several values, and the type of these."""
MOMENTUM = 0.9
"""Default momentum of SGD."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`. Build it with keywords, or from a mapping with `TrainConfig.from_mapping`.

    An epoch takes as many crops as there are images, and a batch is counted in crops: neither depends on how many crops an image
    has or how many of them are taken at a time. Each option is described in its `metadata["help"]`, which `slcodec train
    --help` prints.
    """

    images: str = option("Training images, as for 'slcodec encode'.")
    labels: str = option(
        "FILE.slc or a label set (its folder); FILE.npz (label maps); 'truth' (the class folders); 'online' (a teacher in every step)."
    )
    out: str = option("Folder of the run: checkpoint, log, result.")
    student: str = option("Built in (see softlabel_codec.students), timm:NAME, torchvision:NAME, or FILE.py:FACTORY.", "resnet18")
    num_classes: int | None = option("Number of classes.  [default: from the labels, or the folders]", None)
    classes: str | None = option(
        "File that lists the class folders by class number: one per line, or JSON.  [default: in ascending order]", None
    )
    weights: str | None = option("File of weights to start from.", None)
    teacher: str | Sequence[str] | None = option(
        "Teacher for labels=online, as for 'slcodec encode'. Given several times, the output of these teachers is averaged.",
        None,
        several=True,
    )
    teacher_weights: str | Sequence[str] | None = option(
        "For timm:NAME or torchvision:NAME: a file of weights, or none for an untrained network; of several teachers, for each of these in "
        "turn.  [default: the library's weights]",
        None,
        metavar="FILE|none",
        several=True,
    )
    teacher_output: str | None = option("Output of the teacher: logits or probs.  [default: logits]", None)
    teacher_size: int | None = option(
        "Side of the crops of one teacher in pixels. Of several, each has its own size.  [default: that of the student]", None
    )
    teacher_shares: str | Sequence[float] | None = option(
        "Weights of several teachers in their average, such as 0.7,0.3.  [default: the same for all]", None, metavar="W,W"
    )
    average: str | None = option(
        "What of several teachers is averaged: probs, or logits before softmax and temperature.  [default: probs]", None
    )
    val: str | None = option("Validation images, likewise: a folder CLASS/NAME, or others with class numbers.", None)
    val_epochs: int = option("Epochs between validations; the last epoch is always validated.", 1)
    epochs: int = option("Number of epochs; an epoch takes as many crops as there are images.", 100)
    batch_size: int = option("Crops per step, over all processes.", 256)
    crops_per_image: int = option("Number of crops that are taken from an image at a time.", 4)
    stored_crops: int | None = option("Number of stored crops of each image to use.  [default: all]", None)
    size: int = option("Side of a crop in pixels.", 224)
    interpolation: str | None = option("How crops are scaled.  [default: as for the labels, or bilinear]", None)
    backend: str = option(
        "What cuts and scales crops: pillow, as for the teacher; or torch, faster, with about 1 % of the samples off by 1 of 255.", "pillow"
    )
    exif_orientation: str | None = option(
        "Whether the EXIF orientation is applied or ignored.  [default: as for the labels, or ignored]", None
    )
    mean: tuple[float, float, float] | None = option("Mean of RGB in 0..1.  [default: as for the labels, or ImageNet's]", None)
    std: tuple[float, float, float] | None = option("Standard deviation of RGB, as for mean.", None)
    scale: tuple[float, float] | None = option("Smallest and largest area of fresh crops, relative to the image.  [default: 0.08 1]", None)
    ratio: tuple[float, float] | None = option("Smallest and largest width / height of fresh crops.  [default: 3/4 4/3]", None)
    flip_probability: float | None = option("Probability that a fresh crop is mirrored.  [default: 0.5]", None)
    all_views: int | None = option(
        "Fresh crops are views of SIZE x SIZE pixels, as they are or mirrored, instead of random-resized ones.", None, metavar="SIZE"
    )
    padding: int | None = option("Pixels that are added on each side of an image before fresh crops are cut.  [default: 0]", None)
    padding_mode: str | None = option("What these pixels are: constant, edge, reflect or symmetric.  [default: constant]", None)
    fill: tuple[int, int, int] | None = option("Red, green and blue of constant padding, 0 to 255.  [default: 0 0 0]", None)
    val_crop: float = option("Fraction of the shorter side that validation images are cropped to.", 0.875)
    optimizer: str = option("sgd or adamw.", "sgd")
    learning_rate: float = option("Peak learning rate, reached after the warm-up.", 0.1)
    momentum: float | None = option(f"Momentum of sgd.  [default: {MOMENTUM}]", None)
    nesterov: bool = option("Use Nesterov momentum in sgd.", False)
    weight_decay: float = option("Weight decay; not applied to biases, norms, tokens and positions.", 1e-4)
    warmup_epochs: float = option("Epochs in which the learning rate rises; then it falls along a half cosine.", 0.0)
    milestones: str | Sequence[int] | None = option(
        "Epochs after each of which the learning rate is a tenth of what it was, such as 150,180,210, instead of the half cosine.",
        None,
        metavar="E,E",
    )
    ema: float = option("Decay of averaged weights, which are then evaluated and saved too; 0: none.", 0.0)
    mixup: float = option("Alpha of mixup; 0: none.", 0.0)
    cutmix: float = option("Alpha of cutmix; 0: none.", 0.0)
    temperature: float | None = option("T of softmax(logits / T) of student and labels.  [default: that of the labels, or 1]", None)
    teacher_temperature: float | None = option(
        "With labels that are features, the vectors of a self-supervised teacher: T of softmax(features / T). Then --temperature is that "
        "of the student alone.",
        None,
    )
    truth_weight: float = option("Share of the cross-entropy with the images' classes in the loss, 0 to 1.", 0.0)
    policy: str | None = option(
        "Remainder policy for sparse labels: uniform, renorm, tail, bucket or neighbours.  [default: the codec's]", None
    )
    precision: str = option("Arithmetic: auto is bfloat16 on CUDA, else float32.", "auto")
    in_memory: bool = option("Keep all images in the device's memory and cut crops there; they must have one size.", False)
    seed: int = option("Seed of weights, order and crops.", 0)
    workers: int = option("Processes that decode and crop images.", 0)
    device: str = option("auto, cpu, cuda, cuda:1, ...", "auto")
    checkpoint_epochs: int = option("Epochs between checkpoints; one is always written after the last epoch.", 1)
    resume: bool = option("Continue from the checkpoint in the folder of the run, if there is one.", False)

    def __post_init__(self) -> None:
        types = types_of(type(self))
        for known in fields(self):
            object.__setattr__(self, known.name, _converted(known, *types[known.name], getattr(self, known.name)))
        for name in ("epochs", "batch_size", "crops_per_image", "size", "val_epochs", "checkpoint_epochs"):
            _check(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in ("learning_rate", "weight_decay", "warmup_epochs", "mixup", "cutmix", "workers", "seed"):
            _check(name, getattr(self, name) >= 0, "at least 0", getattr(self, name))
        for name in ("truth_weight", "ema"):
            _check(name, 0 <= getattr(self, name) <= 1, "0 to 1", getattr(self, name))
        _check("seed", self.seed < 2**63, "below 2^63", self.seed)
        _check("ema", self.ema < 1, "below 1", self.ema)
        _check("val_crop", 0 < self.val_crop <= 1, "above 0, at most 1", self.val_crop)
        _check("std", self.std is None or min(self.std) > 0, "positive numbers", self.std)
        for name in ("temperature", "teacher_temperature"):
            if getattr(self, name) is not None:
                check_temperature(getattr(self, name), name)
        _check(
            "stored_crops",
            self.stored_crops is None or self.stored_crops >= self.crops_per_image,
            "no fewer than crops_per_image",
            self.stored_crops,
        )
        for name, reason in unused_options(self.labels).items():
            if getattr(self, name) is not None:
                raise ArgumentError(f"{name}: {reason}, leave it out with labels={self.labels!r}")
        self._check_fresh_crops()
        _check("teacher", self.labels != ONLINE or self.teacher is not None, "a teacher with labels='online'", self.teacher)
        self._check_teachers()
        whole = f"a multiple of crops_per_image={self.crops_per_image}"
        _check("batch_size", self.batch_size % self.crops_per_image == 0, whole, self.batch_size)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        self._check_momentum()
        if self.milestones is not None:
            object.__setattr__(self, "milestones", _milestones(self.milestones, self.epochs))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("backend", self.backend, BACKENDS)
        cuts = "pillow with in_memory: crops are cut by the device"
        _check("backend", self.backend == "pillow" or not self.in_memory, cuts, self.backend)
        for name, choices in (
            ("interpolation", INTERPOLATIONS),
            ("exif_orientation", EXIF_POLICIES),
            ("teacher_output", OUTPUTS_OF_CLASSES),
        ):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers of every step, if there are any."""
        return () if self.teacher is None else texts_of("teacher", self.teacher)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each teacher in their average; they sum to 1."""
        return shares_of(self.teacher_shares, len(self.teachers), "teacher_shares")

    def _check_teachers(self) -> None:
        """Raise ArgumentError if teachers cannot be averaged as is said."""
        if not self.teachers:
            return
        _, _ = self.shares, weights_of_each(self.teachers, self.teacher_weights)
        check_average(self.average or "probs", len(self.teachers), {"teacher_size": self.teacher_size})
        size = self.teacher_size
        _check("teacher_size", size is None or 1 <= size <= MAX_INPUT_SIZE, f"1 to {MAX_INPUT_SIZE}", size)

    def _check_fresh_crops(self) -> None:
        views, no_padding = self.all_views, f"none with labels={self.labels!r}, as label maps know nothing outside of an image"
        _check("all_views", views is None or 1 <= views <= MAX_IMAGE_SIDE, f"1 to {MAX_IMAGE_SIDE}", views)
        for name in OF_RANDOM_CROPS:
            _check(name, views is None or getattr(self, name) is None, f"none with all_views={views}", getattr(self, name))
        _check("padding", not self.padding or kind_of_labels(self.labels) != MAPS, no_padding, self.padding)

    def _check_momentum(self) -> None:
        of_sgd = "nothing with optimizer='adamw': it is for sgd"
        _check("momentum", self.momentum is None or self.momentum >= 0, "at least 0", self.momentum)
        _check("momentum", self.optimizer == "sgd" or self.momentum is None, of_sgd, self.momentum)
        _check("nesterov", self.optimizer == "sgd" or not self.nesterov, of_sgd, self.nesterov)
        _check("nesterov", not self.nesterov or self.momentum != 0, "false without momentum", self.nesterov)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration that a mapping describes; ArgumentError for an unknown name, naming the nearest, or a wrong type."""
        check_names(values)
        missing = [known.name for known in fields(cls) if known.default is dataclasses.MISSING and known.name not in values]
        if missing:
            raise ArgumentError(f"configuration: {', '.join(missing)}: missing")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TrainConfig:
        """Return the configuration in a JSON file."""
        return cls.from_mapping(read_options(path))

    def to_mapping(self) -> dict[str, Any]:
        """Return all options, as `from_mapping` takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()}


def kind_of_labels(labels: str) -> str:
    """Return the kind of a label source: `stored`, `maps`, `truth` or `online`; ArgumentError if it is none of them."""
    if labels in (TRUTH, ONLINE):
        return labels
    if labels.endswith((".slc", SUFFIX)) or Path(labels).is_dir():
        return STORED
    if labels.endswith(".npz"):
        return MAPS
    if is_remote(labels):
        return STORED
    files = f"FILE.slc, FILE.npz (label maps), a label set (its folder, or NAME{SUFFIX}), a URL of one of these"
    raise ArgumentError(f"labels: expected {files}, {TRUTH!r} or {ONLINE!r}, got {labels!r}")


def is_stored(labels: str) -> bool:
    """Return whether a label source is a label file or a label set."""
    return kind_of_labels(labels) == STORED


def unused_options(labels: str) -> dict[str, str]:
    """Return the options that do not apply to a label source, each with the reason."""
    kind = kind_of_labels(labels)
    unused: dict[str, str] = {}
    if kind == STORED:
        unused |= dict.fromkeys(OF_FRESH_CROPS, "is for fresh crops: those of a label file are fixed")
    else:
        unused |= dict.fromkeys(("stored_crops", "policy", "teacher_temperature"), "is for label files")
    if kind != ONLINE:
        unused |= dict.fromkeys(OF_TEACHERS, "is for a teacher in every step")
    if kind == TRUTH:
        unused["temperature"] = "is for soft labels: classes have none"
    return unused


def check_names(names: Iterable[str], where: str = "configuration") -> None:
    """Raise ArgumentError, naming the nearest option, unless these are all names of options."""
    known = [one.name for one in fields(TrainConfig)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise ArgumentError(f"{where}: unknown option {name!r}: {hint}")


def read_options(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options in a JSON file, which may be a subset of those of a `TrainConfig`.

    Raises
    ------
    ArgumentError
        If it does not hold a JSON object, or holds an option twice or an unknown one.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except ValueError as error:
        raise ArgumentError(f"{path}: expected a JSON object: {error}") from None
    if not isinstance(values, dict):
        raise ArgumentError(f"{path}: expected a JSON object, got {type(values).__name__}")
    check_names(values, str(path))
    return {name: _as_argument(value) for name, value in values.items()}


def _as_argument(value: Any) -> Any:
    """Return UTF-8 text of a file as the command line would pass it, so that paths in it are found in every locale."""
    return os.fsdecode(value.encode()) if isinstance(value, str) else value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found


def _converted(field: dataclasses.Field[Any], kind: type, count: int, value: Any) -> Any:
    if value is None and field.default is None:
        return None
    if field.name in _SEQUENCES and isinstance(value, list | tuple):
        return tuple(_converted_one(field.name, _SEQUENCES[field.name], part) for part in value)
    if count:
        if not isinstance(value, list | tuple) or len(value) != count:
            raise ArgumentError(f"{field.name}: expected {count} numbers, got {value!r}")
        return tuple(_converted_one(field.name, kind, part) for part in value)
    return _converted_one(field.name, kind, value)


def _converted_one(name: str, kind: type, value: Any) -> Any:
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ArgumentError(f"{name}: expected {kind.__name__}, got {value!r}")
    try:
        return kind(value)
    except OverflowError:  # of an integer that no float can hold
        raise ArgumentError(f"{name}: expected {kind.__name__}, got an integer that is too large") from None


def _milestones(given: str | Sequence[int], epochs: int) -> tuple[int, ...]:
    """Return epochs as numbers, also of text with commas between them."""
    try:
        found = tuple(int(part) for part in (given.split(",") if isinstance(given, str) else given))
    except ValueError:
        found = ()
    ascending = found == tuple(sorted(set(found)))
    good = bool(found) and ascending and found[0] >= 1 and found[-1] < epochs
    _check("milestones", good, f"ascending numbers from 1 to epochs - 1 = {epochs - 1}, such as 150,180,210", given)
    return found


def _check(name: str, good: bool, expected: str, value: object) -> None:
    if not good:
        raise ArgumentError(f"{name}: expected {expected}, got {value!r}")
