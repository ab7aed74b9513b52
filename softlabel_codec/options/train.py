"""`TrainConfig`: what a training run is asked to do, for Python, JSON files and the command line alike."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from softlabel_codec.checks.arguments import EXIF_POLICIES, INTERPOLATIONS, PRECISIONS, TEACHER_OUTPUTS, check_choice
from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError

TRUTH, ONLINE = "truth", "online"
OPTIMIZERS = ("sgd", "adamw")
WHERE_IT_RUNS = (
    *("images", "labels", "teacher", "teacher_weights", "val", "classes", "out"),
    *("workers", "device", "val_epochs", "checkpoint_epochs", "resume"),
)
"""Options that do not change what is trained, or where to find what fingerprints tell: a run may be continued with others."""
MOMENTUM = 0.9
"""Of SGD, unless said otherwise."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`. Build it with keywords, or from a mapping with `TrainConfig.from_mapping`.

    An epoch takes as many crops as there are images, and a batch is counted in crops: neither depends on how many crops an image
    has or how many of them are taken at a time. What each option means stands in its `metadata["help"]`, which `slcodec train
    --help` prints.
    """

    images: str = field(metadata={"help": "Folder of training images."})
    labels: str = field(
        metadata={"help": "FILE.slc; FILE.npz (ReLabel's label maps); 'truth' (the class folders); 'online' (a teacher in every step)."}
    )
    out: str = field(metadata={"help": "Folder of the run: checkpoint, log, result."})
    student: str = _option("resnet18", "Built in (see softlabel_codec.students), timm:NAME, torchvision:NAME, or FILE.py:FACTORY.")
    num_classes: int | None = _option(None, "Number of classes.  [default: from the labels, or the folders]")
    classes: str | None = _option(
        None, "File that lists the class folders by class number: one per line, or JSON.  [default: in ascending order]"
    )
    weights: str | None = _option(None, "File of weights to start from.")
    teacher: str | None = _option(None, "Teacher for labels=online, as for 'slcodec encode'.")
    teacher_weights: str | None = _option(None, "Weights of the teacher: a file, or none.  [default: those of its library or factory]")
    teacher_output: str | None = _option(None, "Output of the teacher: logits or probs.  [default: logits]")
    val: str | None = _option(None, "Folder of validation images, CLASS/NAME.")
    val_epochs: int = _option(1, "Epochs between validations; the last epoch is always validated.")
    epochs: int = _option(100, "Number of epochs; an epoch takes as many crops as there are images.")
    batch_size: int = _option(256, "Crops per step, over all processes.")
    crops_per_image: int = _option(4, "Number of crops that are taken from an image at a time.")
    single_crop_epochs: int = _option(0, "Number of epochs at the end that take one crop of an image at a time.")
    stored_crops: int | None = _option(None, "Number of stored crops of each image to use.  [default: all]")
    size: int = _option(224, "Side of a crop in pixels.")
    interpolation: str | None = _option(None, "How crops are scaled.  [default: as for the labels, or bilinear]")
    exif_orientation: str | None = _option(
        None, "Whether the EXIF orientation is applied or ignored.  [default: as for the labels, or ignored]"
    )
    mean: tuple[float, float, float] | None = _option(None, "Mean of RGB in 0..1.  [default: as for the labels, or ImageNet's]")
    std: tuple[float, float, float] | None = _option(None, "Standard deviation of RGB, as for mean.")
    scale: tuple[float, float] | None = _option(None, "Smallest and largest area of fresh crops, relative to the image.  [default: 0.08 1]")
    ratio: tuple[float, float] | None = _option(None, "Smallest and largest width / height of fresh crops.  [default: 3/4 4/3]")
    flip_probability: float | None = _option(None, "Probability that a fresh crop is mirrored.  [default: 0.5]")
    val_crop: float = _option(0.875, "Fraction of the shorter side that validation images are cropped to.")
    optimizer: str = _option("sgd", "sgd or adamw.")
    learning_rate: float = _option(0.1, "Peak learning rate, reached after the warm-up.")
    momentum: float | None = _option(None, f"Momentum of sgd.  [default: {MOMENTUM}]")
    nesterov: bool = _option(False, "Of sgd.")
    weight_decay: float = _option(1e-4, "Weight decay; not applied to biases, norms, tokens and positions.")
    warmup_epochs: float = _option(0.0, "Epochs in which the learning rate rises; then it falls along a half cosine.")
    ema: float = _option(0.0, "Decay of averaged weights, which are then evaluated and saved too; 0: none.")
    mixup: float = _option(0.0, "Alpha of mixup; 0: none.")
    cutmix: float = _option(0.0, "Alpha of cutmix; 0: none.")
    color_jitter: float = _option(0.0, "Largest change of brightness, contrast and saturation of each crop, 0 to 1.")
    temperature: float | None = _option(None, "T of softmax(logits / T) of student and labels.  [default: that of the labels, or 1]")
    truth_weight: float = _option(0.0, "Share of the cross-entropy with the images' classes in the loss, 0 to 1.")
    policy: str | None = _option(None, "Remainder policy for sparse labels.  [default: the codec's]")
    precision: str = _option("auto", "Arithmetic: auto is bfloat16 on CUDA, else float32.")
    channels_last: bool = _option(True, "Memory format.")
    compile: bool = _option(False, "Use torch.compile.")
    in_memory: bool = _option(False, "Keep all images in the device's memory and cut crops there; they must have one size.")
    seed: int = _option(0, "Seed of weights, order and crops.")
    workers: int = _option(0, "Processes that decode and crop images.")
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...")
    checkpoint_epochs: int = _option(1, "Epochs between checkpoints; one is always written after the last epoch.")
    resume: bool = _option(False, "Continue from the checkpoint in the folder of the run, if there is one.")

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _converted(option, getattr(self, option.name)))
        for name in ("epochs", "batch_size", "crops_per_image", "size", "val_epochs", "checkpoint_epochs"):
            _check(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in (
            "learning_rate",
            "weight_decay",
            "warmup_epochs",
            "mixup",
            "cutmix",
            "workers",
            "seed",
            "single_crop_epochs",
        ):
            _check(name, getattr(self, name) >= 0, "at least 0", getattr(self, name))
        for name in ("truth_weight", "color_jitter", "ema"):
            _check(name, 0 <= getattr(self, name) <= 1, "0 to 1", getattr(self, name))
        _check("seed", self.seed < 2**63, "below 2^63", self.seed)
        _check("ema", self.ema < 1, "below 1", self.ema)
        _check("val_crop", 0 < self.val_crop <= 1, "above 0, at most 1", self.val_crop)
        most = f"at most {counted(self.epochs, 'epoch')}"
        _check("single_crop_epochs", self.single_crop_epochs <= self.epochs, most, self.single_crop_epochs)
        _check("temperature", self.temperature is None or 0 < self.temperature < math.inf, "a positive number", self.temperature)
        _check(
            "stored_crops",
            self.stored_crops is None or self.stored_crops >= self.crops_per_image,
            "no fewer than crops_per_image",
            self.stored_crops,
        )
        _check(
            "teacher", (self.teacher is not None) == (self.labels == ONLINE), "a teacher with labels=online, and only there", self.teacher
        )
        for name in ("teacher_weights", "teacher_output"):
            _check(name, getattr(self, name) is None or self.labels == ONLINE, "nothing without labels=online", getattr(self, name))
        whole = f"a multiple of crops_per_image={self.crops_per_image}"
        _check("batch_size", self.batch_size % self.crops_per_image == 0, whole, self.batch_size)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        self._check_momentum()
        check_choice("precision", self.precision, PRECISIONS)
        for name, choices in (
            ("interpolation", INTERPOLATIONS),
            ("exif_orientation", EXIF_POLICIES),
            ("teacher_output", TEACHER_OUTPUTS),
        ):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)

    def _check_momentum(self) -> None:
        of_sgd = "nothing with optimizer='adamw': it is for sgd"
        _check("momentum", self.momentum is None or self.momentum >= 0, "at least 0", self.momentum)
        _check("momentum", self.optimizer == "sgd" or self.momentum is None, of_sgd, self.momentum)
        _check("nesterov", self.optimizer == "sgd" or not self.nesterov, of_sgd, self.nesterov)
        _check("nesterov", not self.nesterov or self.momentum != 0, "false without momentum", self.nesterov)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration that a mapping describes; ArgumentError for an unknown name, naming the nearest, or another type."""
        check_names(values)
        missing = [option.name for option in fields(cls) if option.default is dataclasses.MISSING and option.name not in values]
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


def check_names(names: Iterable[str], where: str = "configuration") -> None:
    """Raise ArgumentError unless these are all names of options, naming the nearest."""
    known = [option.name for option in fields(TrainConfig)]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise ArgumentError(f"{where}: unknown option {name!r}: {hint}")


def read_options(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options in a JSON file, which may be some of those of a `TrainConfig`.

    Raises
    ------
    ArgumentError
        If it holds no JSON object, an option twice, or one that there is not.
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
    """Return text of a file, which is UTF-8, as the command line would give it: paths in it are found in every locale."""
    return os.fsdecode(value.encode()) if isinstance(value, str) else value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


TYPES: dict[str, tuple[type, int]] = {}
"""Of each option, the type of its value (or of each of its values), and how many values it has; 0 for one that is no sequence."""


def _type_of(annotation: Any) -> tuple[type, int]:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if getattr(annotation, "__origin__", None) is tuple:
        return parts[0], len(parts)
    return _type_of(parts[0]) if parts else (annotation, 0)


def _converted(option: dataclasses.Field[Any], value: Any) -> Any:
    kind, count = TYPES[option.name]
    if value is None and option.default is None:
        return None
    if count:
        if not isinstance(value, list | tuple) or len(value) != count:
            raise ArgumentError(f"{option.name}: expected {count} numbers, got {value!r}")
        return tuple(_converted_one(option.name, kind, part) for part in value)
    return _converted_one(option.name, kind, value)


def _converted_one(name: str, kind: type, value: Any) -> Any:
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ArgumentError(f"{name}: expected {kind.__name__}, got {value!r}")
    return kind(value)


def _check(name: str, good: bool, expected: str, value: object) -> None:
    if not good:
        raise ArgumentError(f"{name}: expected {expected}, got {value!r}")


TYPES.update({name: _type_of(annotation) for name, annotation in get_type_hints(TrainConfig).items()})
