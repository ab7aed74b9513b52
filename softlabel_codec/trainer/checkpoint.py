"""Checkpoints: written so that there is always a whole one, and only continued by the run that they belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softlabel_codec.errors import CorruptError, MismatchError, StateError
from softlabel_codec.students import read_weights
from softlabel_codec.train_config import WHERE_IT_RUNS, TrainConfig

NAME, WEIGHTS = "checkpoint.pt", "weights.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint into the folder of a run."""
    _save(folder / NAME, state)


def save_weights(folder: Path, model: nn.Module) -> None:
    """Write the plain `state_dict` of a finished student, for anybody's code."""
    _save(folder / WEIGHTS, model.state_dict())


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a file under another name first, then in place of the last one."""
    unfinished = path.with_suffix(".partial")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def refuse_begun(folder: Path) -> None:
    """Raise StateError if a folder holds the checkpoint of a run already."""
    if (folder / NAME).exists():
        raise StateError(f"{folder}: holds a run already. Continue it with --resume, or choose another --out")


def is_checkpoint(state: dict[str, Any]) -> bool:
    """Return whether what a file holds is a checkpoint of the trainer."""
    return {"model", "average", "config", "preprocessing"} <= state.keys()


def load_checkpoint(folder: Path, config: TrainConfig, labels: str) -> dict[str, Any] | None:
    """Return the checkpoint in the folder of a run, or None if there is none; read with torch's safe loader.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : TrainConfig
        The configuration of the run that wants to continue.
    labels : str
        Fingerprint of its labels.

    Raises
    ------
    CorruptError
        If the file is no checkpoint.
    MismatchError
        If it is that of another configuration, or of other labels.
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
    if state["labels"] != labels:
        raise MismatchError(f"{path}: was made with other labels (fingerprint {state['labels'][:12]}..., expected {labels[:12]}...)")
    return state
