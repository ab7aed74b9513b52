"""Builds a student by name."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from softlabel_codec.checks.user_code import foreign_library, run_foreign
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.students.factories import call_factory
from softlabel_codec.students.resnet import STAGES, ResNet
from softlabel_codec.students.small import SmallNetwork

SMALL = "_small"
STUDENTS = ("small", *(f"resnet{depth}{suffix}" for suffix in ("", SMALL) for depth in STAGES))


def build_student(name: str, num_classes: int, size: int = 224) -> nn.Module:
    """Return a network with new weights.

    Parameters
    ----------
    name : str
        One of `STUDENTS`, `timm:NAME`, `torchvision:NAME`, or `FILE.py:FACTORY`: a function of the number of classes. The suffix
        `_small` means a stem for images of about 32 to 64 pixels.
    num_classes : int
        C.
    size : int
        Side of its images in pixels.

    Raises
    ------
    ArgumentError
        If there is no such network, or its factory fails.
    MismatchError
        If the factory does not return an `nn.Module`.
    """
    if name == "small":
        return SmallNetwork(num_classes)
    if name in STUDENTS:
        return ResNet(int(name.removeprefix("resnet").removesuffix(SMALL)), num_classes, name.endswith(SMALL))
    where, separator, rest = name.rpartition(":")
    if not separator:
        close = difflib.get_close_matches(name, STUDENTS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(STUDENTS)}"
        raise ArgumentError(f"student: unknown name {name!r}: {hint} (or FILE.py:FACTORY, timm:NAME, torchvision:NAME)")
    if where in ("timm", "torchvision"):
        return _from_library(where, rest, num_classes, size)
    return call_factory("student", where, rest, num_classes)[1]


def check_student(model: nn.Module, name: str, num_classes: int, size: int) -> None:
    """Run a network once, as in training, on images of this size in pixels, without changing its weights.

    Raises
    ------
    ArgumentError
        If it fails.
    MismatchError
        If it does not return logits (2, C) for 2 images.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.linspace(-1, 1, 6 * size * size, device=device).view(2, 3, size, size)
    kept = {name: value.clone() for name, value in model.state_dict().items()}  # normalisation layers update their statistics
    with torch.no_grad():
        found = run_foreign("student", lambda: model(images), f"{name} with 2 images of {size} x {size} pixels (--size)")
    model.load_state_dict(kept)
    got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
    if got != f"shape {(2, num_classes)}":
        advice = "Its factory must use the number of classes, and its forward pass must return only the logits"
        raise MismatchError(f"student {name}: expected logits of shape (2, {num_classes}) for 2 images, got {got}. {advice}")


def _from_library(library: str, name: str, num_classes: int, size: int) -> nn.Module:
    module = foreign_library("student", library)
    make = _make_of_timm if library == "timm" else _make_of_torchvision
    model: nn.Module = run_foreign("student", lambda: make(module, name, num_classes, size), f"{library}:{name}")
    return model


def _make_of_timm(timm: Any, name: str, num_classes: int, size: int) -> Any:
    """Return a network of timm; one with a fixed image size, such as a transformer, is built for this size."""
    config = timm.get_pretrained_cfg(name)
    how = {"img_size": size} if config is not None and config.fixed_input_size else {}
    return timm.create_model(name, num_classes=num_classes, **how)


def _make_of_torchvision(torchvision: Any, name: str, num_classes: int, size: int) -> Any:
    return torchvision.models.get_model(name, num_classes=num_classes)
