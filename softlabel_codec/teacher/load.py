"""Teachers by name: a factory in a Python file or module, or a model of timm or torchvision."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softlabel_codec.checks.arguments import TEACHER_OUTPUTS, check_choice
from softlabel_codec.checks.user_code import foreign_library, run_foreign
from softlabel_codec.errors import ArgumentError
from softlabel_codec.images.files import resampling
from softlabel_codec.images.paths import text_of_path
from softlabel_codec.options.encode import MAX_INPUT_SIZE, UNTRAINED
from softlabel_codec.students import network_state, read_weights, take_weights
from softlabel_codec.students.factories import call_factory
from softlabel_codec.teacher.outputs import Logits
from softlabel_codec.torch.pixels import IMAGENET_MEAN, IMAGENET_STD, Triple, as_std, as_triple

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A model and how its images are prepared.

    Attributes
    ----------
    model : nn.Module
        Images (B, 3, size, size), normalised, to logits (B, C), or what `output` says. In eval mode, without gradients.
    name : str
        Its name.
    source : str
        The text that it was loaded by, without folders.
    input_size : int
        Side of its input in pixels.
    mean, std : three floats
        Normalisation of RGB in 0..1.
    interpolation : str
        How its images are scaled.
    code_sha256 : str
        SHA-256 of the Python file that builds it; empty if it does not come from a file.
    weights : str
        Where its weights came from, if not from the library or the factory: the name of a file, without folders, or `none`.
    output : str
        What the model returns: `logits`, `probs` or `features`.
    """

    model: nn.Module
    name: str
    source: str
    input_size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bilinear"
    code_sha256: str = ""
    weights: str = ""
    output: str = "logits"

    @property
    def logits(self) -> nn.Module:
        """The model, wrapped if necessary so that it returns logits (or features, if it has none)."""
        return Logits(self.model) if self.output == "probs" else self.model


def load_teacher(
    text: str, *, weights: str | os.PathLike[str] | None = None, num_classes: int | None = None, output: str = "logits"
) -> Teacher:
    """Load a teacher.

    Parameters
    ----------
    text : str
        `FILE.py:FACTORY` or `MODULE:FACTORY`: a function without arguments that returns an `nn.Module`; its module may define `NAME`,
        `INPUT_SIZE`, `MEAN`, `STD` and `INTERPOLATION`. `timm:NAME` or `torchvision:NAME`: a pretrained model of that library.
    weights : path, optional
        For a model of a library: a file of weights to use instead of those that the library would fetch, as a training script wrote it
        (a `state_dict`, or a checkpoint that holds one); or `none`, for an untrained network, the same each time.
    num_classes : int, optional
        Number of classes of a network with such weights, if it is not that of the file's last layer or the library's.
    output : str
        What the model returns: `logits`, `probs` or `features`.

    Raises
    ------
    ArgumentError
        If there is no such file, module, factory or model, or the factory fails.
    CorruptError
        If the file of weights cannot be read without running code.
    MismatchError
        If the factory does not return an `nn.Module`, or the weights belong to another network.
    """
    check_choice("teacher_output", output, TEACHER_OUTPUTS)
    where, separator, name = text.rpartition(":")
    if not separator or not where or not name:
        raise ArgumentError(f"teacher: expected FILE.py:FACTORY, MODULE:FACTORY, timm:NAME or torchvision:NAME, got {text!r}")
    load = {"timm": _from_timm, "torchvision": _from_torchvision}.get(where)
    own = None if weights is None else os.fspath(weights)
    if load is None and own is not None:
        raise ArgumentError(f"teacher_weights: is for timm:NAME and torchvision:NAME; {text} loads its weights itself")
    teacher = load(name, own, num_classes) if load else _from_factory(where, name)
    teacher.model.eval().requires_grad_(False)
    logger.info("teacher %s: loaded%s", teacher.name, f" with weights {own}" if own else "")
    return replace(teacher, weights=text_of_path(Path(own).name) if own else "", output=output)


def source_of(text: str) -> str:
    """Return the `source` of a teacher, given the text that it is loaded by."""
    where, _, name = text.rpartition(":")
    return f"{text_of_path(Path(where).name)}:{name}"


def _from_factory(where: str, name: str) -> Teacher:
    module, model = call_factory("teacher", where, name)
    source = source_of(f"{where}:{name}")
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


def _from_timm(name: str, weights: str | None, num_classes: int | None) -> Teacher:
    timm = foreign_library("teacher", "timm")

    def make(**how: Any) -> nn.Module:
        made: nn.Module = run_foreign("teacher", lambda: timm.create_model(name, pretrained=weights is None, **how), f"timm:{name}")
        return made

    model = make() if weights is None else _with_weights(make, weights, num_classes)
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][-1]
    return Teacher(
        model, f"timm {name}", f"timm:{name}", size, as_triple("mean", config["mean"]), as_std(config["std"]), str(config["interpolation"])
    )


def _from_torchvision(name: str, weights: str | None, num_classes: int | None) -> Teacher:
    torchvision = foreign_library("teacher", "torchvision")

    def make(**how: Any) -> nn.Module:
        which = "DEFAULT" if weights is None else None
        made: nn.Module = run_foreign("teacher", lambda: torchvision.models.get_model(name, weights=which, **how), f"torchvision:{name}")
        return made

    model = make() if weights is None else _with_weights(make, weights, num_classes)
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


def _with_weights(make: Callable[..., nn.Module], weights: str, num_classes: int | None) -> nn.Module:
    """Return a network of a library with the weights in a file, or untrained."""
    wanted = {} if num_classes is None else {"num_classes": num_classes}
    if weights == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # or a run that was interrupted could not be continued
            return make(**wanted)
    state = network_state(read_weights(weights))
    model = make(**wanted)
    found = None if wanted else _classes_of_head(model.state_dict(), state)
    if found is not None:
        model = make(num_classes=found)
    take_weights(model, state, weights)
    return model


def _classes_of_head(usual: Mapping[str, Any], state: Mapping[str, Any]) -> int | None:
    """Return the number of classes of the network in a file, if it differs from the usual network in nothing else."""
    rows = {
        len(state[name])
        for name, value in usual.items()
        if isinstance(state.get(name), torch.Tensor) and value.ndim and state[name].shape[1:] == value.shape[1:]
        if len(state[name]) != len(value)
    }
    return rows.pop() if len(rows) == 1 else None
