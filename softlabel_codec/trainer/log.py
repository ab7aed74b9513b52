"""What a run writes down: one JSON object to a line, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from types import TracebackType
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
        Its configuration.
    facts : dict
        What is known of its labels.
    first_epoch : int
        Where it begins; lines of later epochs, which an earlier run may have written, are dropped.
    """

    def __init__(self, folder: Path, config: TrainConfig, facts: dict[str, Any], first_epoch: int) -> None:
        self._path = folder / NAME
        kept = [line for line in self._lines() if line.get("epoch", -1) < first_epoch] if first_epoch else []
        versions = {"python": platform.python_version(), **library_versions("softlabel_codec", *PACKAGES)}
        about = {"run": config.to_mapping(), "labels": facts, "first_epoch": first_epoch, "versions": versions}
        write_text(self._path, "".join(_as_line(line) for line in (*kept, about)))
        self._board = _tensorboard(folder)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write down an epoch."""
        self._write(record)
        if self._board is not None:
            for name, value in (record | record.get("evaluation", {})).items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["epoch"])

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()

    def _write(self, line: dict[str, Any]) -> None:
        with open(self._path, "a") as file:
            file.write(_as_line(line))

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = []
        for line in self._path.read_text().splitlines():
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
