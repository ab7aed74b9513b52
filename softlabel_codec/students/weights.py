"""Reads files of weights without running code, and writes those of a run of the trainer."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softlabel_codec.container.framing import MAGIC
from softlabel_codec.container.whole_files import read_result, whole_file, write_json
from softlabel_codec.errors import ArgumentError, CorruptError, MismatchError

_NAMES_OF_STATES = ("average", "state_dict_ema", "model_ema", "ema", "state_dict", "model")
"""Entries that hold a network's state in checkpoints of this package, timm, torchvision and others; averaged weights are preferred."""
_MOST_CHARACTERS = 200
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of the parameter names of parallel, averaged and compiled networks."""
SHA256 = "weights_sha256"
"""Entry of the description of weights that identifies them."""


class _Forgotten:
    """Replaces `argparse.Namespace`, the options of a training script, which are not needed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights into a network: a plain `state_dict`, or the entry `model` of a checkpoint.

    Raises
    ------
    CorruptError
        If the file holds no weights, or cannot be read without running code.
    ArgumentError
        If it is a label file.
    MismatchError
        If they belong to another network.
    """
    found = read_weights(path)
    take_weights(model, found.get("model", found), path)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the contents of a file of weights, read with torch's safe loader.

    Raises
    ------
    CorruptError
        If it cannot be read, or holds no mapping.
    ArgumentError
        If it is a label file.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise ArgumentError(f"{path}: is a label file: expected weights (checkpoint.pt of a run, or a state_dict)")
    try:
        with torch.serialization.safe_globals([(_Forgotten, "argparse.Namespace")]):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many types of errors for damaged files
        raise CorruptError(f"{path}: no weights that can be read without running code: {_reason(error)}") from None
    if not isinstance(found, dict) or not found:
        raise CorruptError(f"{path}: expected a state_dict, got {type(found).__name__}")
    return found


def _reason(error: Exception) -> str:
    """Return the reason why a file was not read, without torch's advice to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it requires {wanted[1]}" if wanted else "it is not what torch.save writes"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def take_weights(model: nn.Module, state: Any, path: str | os.PathLike[str]) -> None:
    """Put a `state_dict`, read from `path`, into a network; MismatchError if it belongs to another."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [_shortened(line.strip()) for line in str(error).splitlines()[1:4]] or [_shortened(str(error))]
        raise MismatchError(f"{path}: the weights of another network: {' '.join(lines)}") from None


def _shortened(line: str) -> str:
    """Return a line of torch's message, which may name hundreds of parameters, shortened."""
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."


def network_state(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `state_dict` in a file of weights, under any of the usual entries, with the names of the bare network.

    Examples
    --------
    >>> network_state({"epoch": 3, "state_dict": {"module.fc.bias": 0.5}})
    {'fc.bias': 0.5}
    """
    for name in _NAMES_OF_STATES:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    state = {str(name): value for name, value in found.items() if name != "n_averaged"}  # of torch's AveragedModel
    while prefix := next((wrapper for wrapper in _WRAPPERS if state and all(name.startswith(wrapper) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file for `read_weights`, completely or not at all."""
    with whole_file(path) as file:
        torch.save(state, file)


def save_weights(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write the plain `state_dict` of a finished student, and beside it a description of the network and its preprocessing."""
    save_state(path, model.state_dict())
    write_json(path.with_suffix(".json"), {**about, SHA256: weights_sha256(model)})


def read_about(weights: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the description beside weights that `save_weights` wrote; None if there is none."""
    found = read_result(Path(weights).with_suffix(".json"))
    return found if found is not None and SHA256 in found else None


def is_checkpoint(state: Mapping[str, Any]) -> bool:
    """Return whether the contents of a file are a checkpoint of the trainer."""
    return {"model", "average", "config", "about", "world_size"} <= state.keys()


def weights_sha256(model: nn.Module) -> str:
    """Return a fingerprint of a model's parameters and buffers: SHA-256 over name, type, shape and bytes of each, in order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
