"""Teachers by name: a factory in a Python file or module, or a model of timm or torchvision."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from softlabel_codec.errors import ArgumentError, MismatchError
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
    with _neighbours_importable(where):
        module = _import(where)
        factory = getattr(module, name, None)
        if not callable(factory):
            known = [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
            raise ArgumentError(f"teacher: {where} has no function {name!r}; it has {', '.join(known) or 'none'}")
        model = _run(factory, f"{where}:{name}")
    if not isinstance(model, nn.Module):
        raise MismatchError(f"teacher: {where}:{name} returned {type(model).__name__}: expected a torch.nn.Module")
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


@contextmanager
def _neighbours_importable(where: str) -> Iterator[None]:
    """Let a teacher import what lies beside it (a module: in the working folder), and forget these modules afterwards.

    Another teacher may have neighbours of the same names.
    """
    folder = (Path(where).parent if where.endswith(".py") else Path()).absolute()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _lies_in(folder, name, getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def _lies_in(folder: Path, name: str, file: str | None) -> bool:
    """Return whether a module was imported by its path below a folder, and not from an environment that happens to be there."""
    place = folder.joinpath(*name.split("."))
    return file is not None and Path(file) in (place.with_suffix(".py"), place / "__init__.py")


def _import(where: str) -> ModuleType:
    if not where.endswith(".py"):
        found: ModuleType = _run(lambda: importlib.import_module(where), where)
        return found
    path = Path(where)
    if not path.is_file():
        raise ArgumentError(f"teacher: {where}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"teacher: {where}: not a Python file")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules.setdefault(path.stem, module)  # where pickle and dataclasses look for it
    _run(lambda: loader.exec_module(module), where)
    return module


def _run(function: Callable[[], Any], what: str) -> Any:
    """Run somebody else's code, so that its failure says whose it is and where it happened."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise ArgumentError(f"teacher: {what} failed with {type(error).__name__}: {error} ({place})") from error


def _from_timm(name: str) -> Teacher:
    timm = _library("timm")
    model = _run(lambda: timm.create_model(name, pretrained=True), f"timm:{name}")
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][-1]
    return Teacher(
        model, f"timm {name}", f"timm:{name}", size, as_triple("mean", config["mean"]), as_std(config["std"]), str(config["interpolation"])
    )


def _from_torchvision(name: str) -> Teacher:
    torchvision = _library("torchvision")
    model = _run(lambda: torchvision.models.get_model(name, weights="DEFAULT"), f"torchvision:{name}")
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


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(f"teacher: {name} is not installed ({error}); install it, or name a FILE.py:FACTORY") from None
