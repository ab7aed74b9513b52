"""Networks from a function in a Python file or module; and the device that they run on."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from softlabel_codec.checks.user_code import call_function
from softlabel_codec.errors import ArgumentError, MismatchError


def call_factory(role: str, where: str, name: str, *arguments: Any) -> tuple[ModuleType, nn.Module]:
    """Return the module that holds a factory, and the network that the factory returns.

    Parameters and errors are those of `call_function`; MismatchError if it does not return an `nn.Module`.
    """
    module, model = call_function(role, where, name, *arguments)
    if not isinstance(model, nn.Module):
        raise MismatchError(f"{role}: {where}:{name} returned {type(model).__name__}: expected a torch.nn.Module")
    return module, model


def device_by_name(name: str) -> torch.device:
    """Return a device, for `auto` CUDA if available; ArgumentError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {name!r} cannot be used: {error}") from None
    return device
