"""`RunLog`: the log of a run, one JSON object per line; and TensorBoard's files if `tensorboard` is installed."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from softlabel_codec.container.whole_files import write_text
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.version import library_versions

NAME = "log.jsonl"
PACKAGES = ("numpy", "pillow", "torch", "zstandard")


class RunLog:
    """The log of a run: a line about the run, then one for each epoch.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : TrainConfig
        Its options.
    facts : dict
        What is known about its labels.
    first_epoch : int
        The epoch with which it begins. Lines of later epochs, which an earlier run may have written, are dropped.
    """

    def __init__(self, folder: Path, config: TrainConfig, facts: dict[str, Any], first_epoch: int) -> None:
        self._path = folder / NAME
        kept = [line for line in _read_lines(self._path) if line.get("epoch", -1) < first_epoch] if first_epoch else []
        versions = {"python": platform.python_version(), **library_versions("softlabel_codec", *PACKAGES)}
        about = {"run": config.to_mapping(), "labels": facts, "first_epoch": first_epoch, "versions": versions}
        write_text(self._path, "".join(_as_line(line) for line in (*kept, about)))
        self._board = _tensorboard(folder)

    def epoch(self, record: dict[str, Any]) -> None:
        """Add the line of an epoch."""
        with open(self._path, "a") as file:
            file.write(_as_line(record))
        if self._board is not None:
            for name, value in (record | record.get("evaluation", {})).items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["epoch"])

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a run that was killed
                break
    return lines


def _as_line(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  only where tensorboard is installed
    except ImportError:
        return None
    return SummaryWriter(folder)
