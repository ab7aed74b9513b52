"""`EncodeConfig`: the options of a labelling run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from softlabel_codec.checks.arguments import (
    EXIF_POLICIES,
    INTERPOLATIONS,
    ON_ERROR,
    PRECISIONS,
    TEACHER_OUTPUTS,
    check_choice,
    check_temperature,
)
from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE, MAX_SHARDS
from softlabel_codec.choosing import Asked
from softlabel_codec.codec import AUTO, Codec
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.averaging import AVERAGES, check_average, shares_of, texts_of, weights_of_each
from softlabel_codec.options.fields import option
from softlabel_codec.padding import NO_PADDING, PADDING_MODES, Padding
from softlabel_codec.sampler import CropSampler
from softlabel_codec.storage.location import is_remote
from softlabel_codec.views import AllViews

MAX_INPUT_SIZE = 8192
DEFAULT_CROPS = 200
UNTRAINED = "none"
"""In place of a file of weights: an untrained network."""


@dataclass(frozen=True)
class CropOptions:
    """Options of the `CropSampler` of a labelling run, or what takes its place."""

    all_views: int | None = option(
        "Label every crop of SIZE x SIZE pixels, each as it is and mirrored, instead of random ones.", None, least=1, metavar="SIZE"
    )
    seed: int = option("Seed of the crops.", 0, least=0)
    scale: tuple[float, float] = option("Smallest and largest area of a crop, relative to the image.", (0.08, 1.0))
    ratio: tuple[float, float] = option("Smallest and largest width / height of a crop.", (3 / 4, 4 / 3), shown="3/4 4/3")
    flip_probability: float = option("Probability that a crop is mirrored.", 0.5)


@dataclass(frozen=True)
class PaddingOptions:
    """Options of the `Padding` of a labelling run."""

    padding: int = option("Pixels that are added on each side of an image before it is cropped.", 0, least=0)
    padding_mode: str = option("What these pixels are.", "constant", choices=PADDING_MODES)
    fill: tuple[int, int, int] | None = option("Red, green and blue of constant padding, 0 to 255.  [default: 0 0 0]", None)


@dataclass(frozen=True)
class EncodeConfig:
    """Options of `encode`. Where an option is None, its value comes from the teacher file, or else is the usual one for ImageNet.

    Each option is described in its `metadata["help"]`, which `slcodec encode --help` prints. In Python, `sampler` is a `CropSampler`
    or `AllViews`, `padding` is a `Padding`, and `workers=0`, the default, means that this process crops images itself.
    """

    images: Any = option("Images: whatever `softlabel_codec.images.open_images` takes.")  # noqa: RUF009  this returns a field
    out: str = option("Container file to write; with `shards`, folder of the label set. Or the URL of either in object storage.")
    teacher: str | Sequence[str] = option(
        "FILE.py:FACTORY, MODULE:FACTORY, timm:NAME or torchvision:NAME. Given several times, the output of these teachers is averaged.",
        several=True,
    )
    weights: str | Sequence[float] | None = option(
        "Weights of several teachers in their average, such as 0.7,0.3.  [default: the same for all]", None, metavar="W,W", kw_only=True
    )
    average: str = option(
        "What of several teachers is averaged: probabilities, or logits before softmax and temperature.",
        "probs",
        choices=AVERAGES,
        kw_only=True,
    )
    crops_of: str | None = option(
        "Label the crops of an existing label file or set, of these images, instead of drawing some.", None, metavar="LABELS", kw_only=True
    )
    stored_share: float | None = option(
        "With --crops-of: average the new labels with those that are stored there, which get this share, between 0 and 1. "
        "They count as they are read, with what their codec has lost.",
        None,
        metavar="SHARE",
        kw_only=True,
    )
    teacher_weights: str | Sequence[str] | None = option(
        "For timm:NAME or torchvision:NAME: your own checkpoint or state_dict, or none for an untrained network; of several teachers, "
        "for each of these in turn.  [default: the library's weights]",
        None,
        metavar="FILE|none",
        several=True,
        kw_only=True,
    )
    teacher_output: str = option(
        "What the teacher returns: logits, their softmax (probs), or the vectors of a self-supervised teacher (features).",
        "logits",
        choices=TEACHER_OUTPUTS,
        kw_only=True,
    )
    codec: str = option("How labels are stored: auto, which chooses by the labels of 256 images; or one of those that 'help' lists.", AUTO)
    crops: int | None = option(f"Crops per image.  [default: {DEFAULT_CROPS}; all with --all-views]", None)
    fidelity: str | float | None = option(
        "For auto: take the fewest bytes that lose at most this share of KL(teacher || uniform).  [default: 4%]",
        None,
        metavar="4%",
        kw_only=True,
    )
    bytes_per_image: float | None = option(
        "For auto: lose as little as possible in N bytes per image. Without --crops, the number of crops is chosen as well, from 5 to 200: "
        "fewer crops leave more bytes to each. If an image is drawn more than 80 times, 5 crops count as 5 % lost, 10 as 3 %, 20 as 1 %.",
        None,
        metavar="N",
        kw_only=True,
    )
    draws: int | None = option(
        "With --bytes-per-image: how often each image will be drawn, epochs times crops per image. No more crops are stored.  "
        "[default: often]",
        None,
        least=1,
        metavar="N",
        kw_only=True,
    )
    sampler: CropSampler | AllViews = field(default_factory=CropSampler, metadata={"group": CropOptions})
    padding: Padding = field(default=NO_PADDING, metadata={"group": PaddingOptions})
    store_crops: bool = option("Store the coordinates of every crop, for readers without our crop sampler: 4 bytes per crop.", False)
    size: int | None = option("Side of the teacher's input in pixels.  [default: INPUT_SIZE of the teacher file, or 224]", None)
    interpolation: str | None = option("How crops are scaled.  [default: the teacher's, or bilinear]", None, choices=INTERPOLATIONS)
    mean: tuple[float, float, float] | None = option("Mean of RGB in 0..1.  [default: MEAN of the teacher file, or ImageNet's]", None)
    std: tuple[float, float, float] | None = option("Standard deviation of RGB.  [default: STD of the teacher file, or ImageNet's]", None)
    temperature: float = option("T of softmax(logits / T).", 1.0)
    num_classes: int | None = option(
        "Fail if the teacher has another number of classes; with --teacher-weights, build a network with this number.", None, least=2
    )
    batch_size: int | None = option("Crops per forward pass.  [default: 16 on a CPU, else 256]", None, least=1)
    workers: int = option("Processes that decode and crop images.  [default: 1, with a GPU up to 8]", 0, least=0)
    device: str = option("auto, cpu, cuda, cuda:1, ... For several teachers also one for each, such as cuda:0,cuda:1.", "auto")
    precision: str = option("Arithmetic of the teacher.", "auto", choices=PRECISIONS, shown="float16 on a GPU, else float32")
    on_error: str = option("What to do with an unreadable image.", "fail", choices=ON_ERROR)
    exif_orientation: str = option("Whether the EXIF orientation of images is applied.", "ignored", choices=EXIF_POLICIES, flag="--exif")
    overwrite: bool = option(
        "Replace OUT when finished, and discard an OUT.partial that was started with other options. Of a set, replace the shards that were "
        "made with other options.",
        False,
    )
    shards: int | None = option(
        "Make a label set of N shards in the folder OUT, or under the URL OUT. Processes that run the same command, on any machines that "
        "share this folder (of a URL: that of --work), divide the shards among them. Give each that shares none its own --shard.",
        None,
        least=1,
        metavar="N",
        kw_only=True,
    )
    shard: str | int | None = option(
        "Make only these shards, numbered from 0: 3, 3-7 or 3,5.  [default: all that are left]", None, metavar="LIST", kw_only=True
    )

    work: str | None = option(
        "If OUT is a URL: folder of this machine, or of several that share it, for what is not uploaded yet.  "
        "[default: 'work' in SOFTLABEL_CACHE or ~/.cache/softlabel_codec]",
        None,
        metavar="DIR",
        kw_only=True,
    )

    def __post_init__(self) -> None:
        codec = self.parsed_codec
        asked = {"fidelity": self.fidelity, "bytes_per_image": self.bytes_per_image, "draws": self.draws}
        if self.is_auto:
            _ = self.asked
        for name, value in asked.items():
            _check(name, self.is_auto or value is None, "None, as the codec is not 'auto'", value)
        _check("crops", self.crops is None or 1 <= self.crops <= MAX_CROPS_PER_IMAGE, f"1 to {MAX_CROPS_PER_IMAGE}", self.crops)
        _check("crops", self.crops is None or isinstance(self.sampler, CropSampler), "None, as all views are labelled", self.crops)
        _check("size", self.size is None or 1 <= self.size <= MAX_INPUT_SIZE, f"1 to {MAX_INPUT_SIZE}", self.size)
        check_temperature(self.temperature)
        raw = codec.content != "probs"
        _check("temperature", not raw or self.temperature == 1, f"1, as {codec.content} are kept before any temperature", self.temperature)
        no_logits = codec.content == "logits" and self.teacher_output == "probs"
        _check("codec", not no_logits, "one of probabilities, as the teacher returns no logits", self.codec)
        _check("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1", self.batch_size)
        _check("workers", self.workers >= 0, "at least 0", self.workers)
        _check("std", self.std is None or min(self.std) > 0, "positive numbers", self.std)
        _check("shards", self.shards is None or 1 <= self.shards <= MAX_SHARDS, f"1 to {MAX_SHARDS}", self.shards)
        _check("shard", self.shard is None or self.shards is not None, "None, as shards (--shards) is not given", self.shard)
        _ = self.chosen_shards
        _check("work", self.work is None or is_remote(self.out), "None, as what is written is no URL", self.work)
        self._check_teachers()
        for name, choices in (
            ("precision", PRECISIONS),
            ("on_error", ON_ERROR),
            ("exif_orientation", EXIF_POLICIES),
            ("teacher_output", TEACHER_OUTPUTS),
        ):
            check_choice(name, getattr(self, name), choices)
        self._check_features(codec.content == "features")
        if self.interpolation is not None:
            check_choice("interpolation", self.interpolation, INTERPOLATIONS)

    def _check_features(self, stored: bool) -> None:
        """Raise ArgumentError unless features are stored if, and only if, the teacher returns them."""
        returned, how = self.teacher_output == "features", "--teacher-output features (teacher_output='features')"
        _check("codec", stored or not returned, "dense:values=f16,content=features (or f32), as the teacher returns features", self.codec)
        _check(
            "codec",
            returned or not stored,
            f"one of probabilities or logits, unless {how} says that the teacher returns features",
            self.codec,
        )

    def _check_teachers(self) -> None:
        """Raise ArgumentError if teachers, and labels that are stored, cannot be averaged as is said."""
        teachers, raw = self.teachers, self.parsed_codec.content == "logits"
        several, with_stored = len(teachers) > 1, self.stored_share is not None
        _, _ = self.shares, weights_of_each(teachers, self.teacher_weights)
        own = {name: getattr(self, name) for name in ("size", "interpolation", "mean", "std")}
        check_average(self.average, len(teachers), own)
        averaged, features = several or with_stored, self.teacher_output == "features"
        _check("teacher_output", not (averaged and features), "logits or probs, as features cannot be averaged", self.teacher_output)
        _check("average", not (several and raw) or self.average == "logits", "'logits', as the codec keeps logits", self.average)
        devices = f"one device, or one for each of {len(teachers)} teachers" if several else "one device, as there is one teacher"
        _check("device", len(self.devices) in (1, len(teachers)), devices, self.device)
        _check("crops", self.crops is None or self.crops_of is None, "None, as crops are those of other labels", self.crops)
        _check("stored_share", not with_stored or self.crops_of is not None, "None without crops_of (--crops-of)", self.stored_share)
        _check("stored_share", self.stored_share is None or 0 < self.stored_share < 1, "a number between 0 and 1", self.stored_share)
        _check("average", not with_stored or self.average == "probs", "'probs', as stored labels are probabilities", self.average)
        _check("codec", not with_stored or not raw, "one of probabilities, as stored labels are averaged", self.codec)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers, of which there is one at least."""
        return texts_of("teacher", self.teacher)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each teacher in their average; they sum to 1."""
        return shares_of(self.weights, len(self.teachers))

    @property
    def devices(self) -> list[str]:
        """The device of all teachers, or that of each."""
        return [one.strip() for one in str(self.device).split(",")]

    @property
    def is_auto(self) -> bool:
        """Whether the codec is to be chosen."""
        return isinstance(self.codec, str) and self.codec.strip() == AUTO

    @property
    def parsed_codec(self) -> Codec:
        """The codec; until one is chosen, one that keeps everything."""
        return Codec("dense", values="f32") if self.is_auto else Codec.parse(self.codec)

    @property
    def asked(self) -> Asked:
        """What is asked of the codec that is to be chosen."""
        return Asked.of(self.fidelity, self.bytes_per_image, self.draws)

    @property
    def chooses_crops(self) -> bool:
        """Whether the number of crops is to be chosen as well."""
        random = self.crops_of is None and isinstance(self.sampler, CropSampler)
        return self.bytes_per_image is not None and self.crops is None and random

    @property
    def chosen_shards(self) -> range | list[int]:
        """Numbers of the shards that may be made, ascending."""
        everything = range(self.shards or 0)
        if self.shard is None:
            return everything
        chosen: set[int] = set()
        for part in str(self.shard).split(","):
            found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
            expected = f"numbers of shards, 0 to {len(everything) - 1}, such as 3, 3-7 or 3,5"
            _check("shard", first <= last < len(everything), expected, self.shard)
            chosen |= set(range(first, last + 1))
        return sorted(chosen)


def _check(name: str, good: bool, expected: str, value: object) -> None:
    if not good:
        raise ArgumentError(f"{name}: expected {expected}, got {value!r}")
