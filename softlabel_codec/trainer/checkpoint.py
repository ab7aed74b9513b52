"""Checkpoints of a run: only the same run is continued from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import CorruptError, MismatchError, StateError
from softlabel_codec.options.train import WHERE_IT_RUNS, TrainConfig
from softlabel_codec.students.weights import is_checkpoint, read_weights

CHECKPOINT = "checkpoint.pt"


def refuse_begun(folder: Path) -> None:
    """Raise StateError if a folder holds the checkpoint of a run already."""
    if (folder / CHECKPOINT).exists():
        raise StateError(f"{folder}: holds a run already. Continue it with --resume, or choose another --out")


def load_checkpoint(folder: Path, config: TrainConfig, trained_on: Mapping[str, str], world_size: int) -> dict[str, Any] | None:
    """Return the checkpoint in the folder of a run, read with torch's safe loader; None if there is none.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : TrainConfig
        The options of the run that is to be continued.
    trained_on : mapping of str to str
        Fingerprints of its labels and images.
    world_size : int
        Number of its processes.

    Raises
    ------
    CorruptError
        If the file is not a checkpoint.
    MismatchError
        If it belongs to a run with other options, other labels or images, or another number of processes.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state = read_weights(path)
    if not is_checkpoint(state):
        raise CorruptError(f"{path}: not a checkpoint of the trainer")
    check_same_run(path, state, config, trained_on)
    if state["world_size"] != world_size:
        advice = "Continue it with as many, since others would draw other crops, or use another --out"
        raise MismatchError(f"{path}: was made by {counted(state['world_size'], 'process', 'processes')}, expected {world_size}. {advice}")
    return state


def check_same_run(path: Path, found: Mapping[str, Any], config: TrainConfig, trained_on: Mapping[str, str]) -> None:
    """Raise MismatchError if a checkpoint or result, `found` at a path, is that of other options, labels or images."""
    for name, wanted in config.to_mapping().items():
        if name not in WHERE_IT_RUNS and found["config"].get(name) != wanted:
            made = f"was made with {name}={found['config'].get(name)!r}, expected {wanted!r}"
            raise MismatchError(f"{path}: {made}. Use the same options, or another folder for the run")
    for what in ("labels", "images"):
        if found.get(what) != trained_on[what]:
            made = f"was made with other {what} than {getattr(config, what)}"
            other = f"fingerprint {str(found.get(what))[:12]}..., expected {trained_on[what][:12]}..."
            raise MismatchError(f"{path}: {made} ({other}). Use the same ones, or another folder for the run")
