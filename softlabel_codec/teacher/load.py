"""Teachers by name: a factory in a Python file or module, or a model of timm or torchvision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from softlabel_codec.errors import ArgumentError
from softlabel_codec.factories import call_factory, foreign_library, run_foreign
from softlabel_codec.images import resampling
from softlabel_codec.teacher.config import MAX_INPUT_SIZE
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple, as_std, as_triple


@dataclass(frozen=True)
class Teacher:
    """A model and what it expects.

    Attributes
    ----------
    model : nn.Module
        Images (B, 3, size, size), normalised, to logits (B, C). In eval mode, without gradients.
    name : str
        What to call it.
    source : str
        Where it came from: the text that named it, without folders.
    input_size : int
        Side of its input in pixels.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    interpolation : str
        How its images are scaled.
    code_sha256 : str
        SHA-256 of the file that it was made by; empty if it does not come from a file.
    """

    model: nn.Module
    name: str
    source: str
    input_size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bilinear"
    code_sha256: str = ""


def load_teacher(text: str) -> Teacher:
    """Return the teacher that a text names.

    Parameters
    ----------
    text : str
        `FILE.py:FACTORY` or `MODULE:FACTORY`: a function without arguments that returns an `nn.Module`; beside it may stand `NAME`,
        `INPUT_SIZE`, `MEAN`, `STD` and `INTERPOLATION`. `timm:NAME` or `torchvision:NAME`: a pretrained model of that library.

    Raises
    ------
    ArgumentError
        If there is no such file, module, factory or model, or the factory fails.
    MismatchError
        If the factory returns something else than an `nn.Module`.
    """
    where, separator, name = text.rpartition(":")
    if not separator or not where or not name:
        raise ArgumentError(f"teacher: expected FILE.py:FACTORY, MODULE:FACTORY, timm:NAME or torchvision:NAME, got {text!r}")
    load = {"timm": _from_timm, "torchvision": _from_torchvision}.get(where)
    teacher = load(name) if load else _from_factory(where, name)
    teacher.model.eval().requires_grad_(False)
    return teacher


def weights_sha256(model: nn.Module) -> str:
    """Return a fingerprint of a model's parameters and buffers: SHA-256 over name, type, shape and bytes of each, in order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_factory(where: str, name: str) -> Teacher:
    module, model = call_factory("teacher", where, name)
    source = f"{Path(where).name}:{name}"
    size, interpolation = getattr(module, "INPUT_SIZE", 224), str(getattr(module, "INTERPOLATION", "bilinear"))
    if not isinstance(size, int) or not 1 <= size <= MAX_INPUT_SIZE:
        raise ArgumentError(f"teacher: {where}: INPUT_SIZE: expected pixels, 1 to {MAX_INPUT_SIZE}, got {size!r}")
    try:
        mean, std = as_triple("MEAN", getattr(module, "MEAN", IMAGENET_MEAN)), as_std(getattr(module, "STD", IMAGENET_STD))
        resampling(interpolation)
    except ArgumentError as error:
        raise ArgumentError(f"teacher: {where}: {error}") from None
    return Teacher(
        model,
        str(getattr(module, "NAME", source)),
        source,
        size,
        mean,
        std,
        interpolation,
        hashlib.sha256(Path(where).read_bytes()).hexdigest() if where.endswith(".py") else "",
    )


def _from_timm(name: str) -> Teacher:
    timm = foreign_library("teacher", "timm")
    model = run_foreign("teacher", lambda: timm.create_model(name, pretrained=True), f"timm:{name}")
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][-1]
    return Teacher(
        model, f"timm {name}", f"timm:{name}", size, as_triple("mean", config["mean"]), as_std(config["std"]), str(config["interpolation"])
    )


def _from_torchvision(name: str) -> Teacher:
    torchvision = foreign_library("teacher", "torchvision")
    model = run_foreign("teacher", lambda: torchvision.models.get_model(name, weights="DEFAULT"), f"torchvision:{name}")
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = preset.crop_size[0]
    return Teacher(
        model,
        f"torchvision {name}",
        f"torchvision:{name}",
        size,
        as_triple("mean", preset.mean),
        as_std(preset.std),
        preset.interpolation.value,
    )
