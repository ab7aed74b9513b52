"""What a labelling run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from softlabel_codec.checks.arguments import EXIF_POLICIES, ON_ERROR, PRECISIONS, TEACHER_OUTPUTS, check_choice
from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError
from softlabel_codec.images.files import resampling
from softlabel_codec.sampler import CropSampler

MAX_INPUT_SIZE = 8192
UNTRAINED = "none"
"""In place of a file of weights: a network without training."""


@dataclass(frozen=True)
class EncodeConfig:
    """Options of `encode`. What is None comes from the teacher file, or else has the default of ImageNet practice.

    Attributes
    ----------
    images : str
        Image folder.
    out : str
        Container file to write.
    teacher : str
        `FILE.py:FACTORY`, `MODULE:FACTORY`, `timm:NAME` or `torchvision:NAME`.
    teacher_weights : str, optional
        For `timm:NAME` and `torchvision:NAME`: a file of weights, or `none`, instead of the library's; see `load_teacher`.
    teacher_output : str
        What the teacher returns: `logits`, or `probs`, their softmax.
    codec : str
        Codec string.
    crops : int
        Crops per image, M.
    sampler : CropSampler
        Seed, scale, ratio and flip probability.
    store_crops : bool
        Keep the coordinates of every crop in the file, for readers without the crop sampler; by default they are derived from it.
    size : int, optional
        Side of a crop as the teacher sees it, in pixels; default `INPUT_SIZE` or 224.
    interpolation : str, optional
        How crops are scaled; default `INTERPOLATION` or bilinear.
    mean, std : three floats, optional
        Normalisation of RGB in 0..1; default `MEAN` and `STD`, or ImageNet's.
    temperature : float
        T of softmax(logits / T). Of a teacher that returns probabilities p it makes p^(1 / T), divided by its sum, which is the same.
    num_classes : int, optional
        Checked against what the teacher returns.
    batch_size : int, optional
        Crops per forward pass; default 16 on a CPU, 256 elsewhere.
    workers : int
        Processes that decode and cut images; 0: none but this one.
    device : str
        `auto`, `cpu`, `cuda`, `cuda:1`, ...
    precision : str
        Arithmetic of the teacher: `auto` is float16 on CUDA, else float32.
    on_error : str
        What an unreadable image does: `fail` or `skip`.
    exif_orientation : str
        `ignored` or `applied`.
    overwrite : bool
        Replace the output when the run is finished, and discard an unfinished one that was begun with other options.
    """

    images: str
    out: str
    teacher: str
    codec: str = "marginal_smoothing:k=5"
    crops: int = 200
    sampler: CropSampler = field(default_factory=CropSampler)
    store_crops: bool = False
    size: int | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    temperature: float = 1.0
    num_classes: int | None = None
    batch_size: int | None = None
    workers: int = 0
    device: str = "auto"
    precision: str = "auto"
    on_error: str = "fail"
    exif_orientation: str = "ignored"
    overwrite: bool = False
    teacher_weights: str | None = None
    teacher_output: str = "logits"

    def __post_init__(self) -> None:
        codec = Codec.parse(self.codec)
        _check("codec", codec.content != "features", "a codec of probabilities or logits", self.codec)
        _check("crops", 1 <= self.crops <= MAX_CROPS_PER_IMAGE, f"1 to {MAX_CROPS_PER_IMAGE}", self.crops)
        _check("size", self.size is None or 1 <= self.size <= MAX_INPUT_SIZE, f"1 to {MAX_INPUT_SIZE}", self.size)
        _check("temperature", self.temperature > 0 and math.isfinite(self.temperature), "a positive number", self.temperature)
        raw = codec.content == "logits"
        _check("temperature", not raw or self.temperature == 1, "1, as logits are kept before any temperature", self.temperature)
        _check("codec", not raw or self.teacher_output == "logits", "one of probabilities, as the teacher returns no logits", self.codec)
        _check("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1", self.batch_size)
        _check("workers", self.workers >= 0, "at least 0", self.workers)
        _check("std", self.std is None or min(self.std) > 0, "positive numbers", self.std)
        for name, choices in (
            ("precision", PRECISIONS),
            ("on_error", ON_ERROR),
            ("exif_orientation", EXIF_POLICIES),
            ("teacher_output", TEACHER_OUTPUTS),
        ):
            check_choice(name, getattr(self, name), choices)
        if self.interpolation is not None:
            resampling(self.interpolation)


def _check(name: str, good: bool, expected: str, value: object) -> None:
    if not good:
        raise ArgumentError(f"{name}: expected {expected}, got {value!r}")
