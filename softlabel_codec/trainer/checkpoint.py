"""Checkpoints: written so that there is always a whole one, and only continued by the run that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import CorruptError, MismatchError, StateError
from softlabel_codec.options.train import WHERE_IT_RUNS, TrainConfig
from softlabel_codec.students.weights import is_checkpoint, read_weights, save_state

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint into the folder of a run."""
    save_state(folder / NAME, state)


def refuse_begun(folder: Path) -> None:
    """Raise StateError if a folder holds the checkpoint of a run already."""
    if (folder / NAME).exists():
        raise StateError(f"{folder}: holds a run already. Continue it with --resume, or choose another --out")


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
