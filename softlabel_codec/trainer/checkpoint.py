"""Checkpoints: written so that there is always a whole one, and only continued by the run that they belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.whole_files import read_result, whole_file, write_json
from softlabel_codec.errors import CorruptError, MismatchError, StateError
from softlabel_codec.options.train import WHERE_IT_RUNS, TrainConfig
from softlabel_codec.students import read_weights
from softlabel_codec.teacher.load import weights_sha256

NAME, WEIGHTS = "checkpoint.pt", "weights.pt"
SHA256 = "weights_sha256"
"""Under which what is said of weights names them."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint into the folder of a run."""
    _save(folder / NAME, state)


def save_weights(folder: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write the plain `state_dict` of a finished student, for anybody's code, and beside it what it is and how images are prepared."""
    _save(folder / WEIGHTS, model.state_dict())
    write_json(_beside(folder / WEIGHTS), {**about, SHA256: weights_sha256(model)})


def read_about(weights: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what the file beside weights says of them, which `save_weights` wrote; None if there is none."""
    found = read_result(_beside(Path(weights)))
    return found if found is not None and SHA256 in found else None


def _beside(weights: Path) -> Path:
    return weights.with_suffix(".json")


def _save(path: Path, state: dict[str, Any]) -> None:
    with whole_file(path) as file:
        torch.save(state, file)


def refuse_begun(folder: Path) -> None:
    """Raise StateError if a folder holds the checkpoint of a run already."""
    if (folder / NAME).exists():
        raise StateError(f"{folder}: holds a run already. Continue it with --resume, or choose another --out")


def is_checkpoint(state: dict[str, Any]) -> bool:
    """Return whether what a file holds is a checkpoint of the trainer."""
    return {"model", "average", "config", "preprocessing", "world_size"} <= state.keys()


def load_checkpoint(folder: Path, config: TrainConfig, trained_on: Mapping[str, str], world_size: int) -> dict[str, Any] | None:
    """Return the checkpoint in the folder of a run, or None if there is none; read with torch's safe loader.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : TrainConfig
        The configuration of the run that wants to continue.
    trained_on : mapping of str to str
        Fingerprints of its labels and images.
    world_size : int
        Number of its processes.

    Raises
    ------
    CorruptError
        If the file is no checkpoint.
    MismatchError
        If it is that of another configuration, of other labels or images, or of more or fewer processes.
    """
    path = folder / NAME
    if not path.exists():
        return None
    state = read_weights(path)
    if not is_checkpoint(state):
        raise CorruptError(f"{path}: not a checkpoint of the trainer")
    wanted = config.to_mapping()
    for name, value in wanted.items():
        if name not in WHERE_IT_RUNS and state["config"].get(name) != value:
            found = state["config"].get(name)
            raise MismatchError(f"{path}: was made with {name}={found!r}, expected {value!r}. Use the same options, or another --out")
    for what, fingerprint in trained_on.items():
        if state[what] != fingerprint:
            found = f"fingerprint {state[what][:12]}..., expected {fingerprint[:12]}..."
            raise MismatchError(f"{path}: was made with other {what} ({found}). Use the same ones, or another --out")
    if state["world_size"] != world_size:
        advice = "Continue it with as many, since others would draw other crops, or use another --out"
        raise MismatchError(f"{path}: was made by {counted(state['world_size'], 'process', 'processes')}, expected {world_size}. {advice}")
    return state
