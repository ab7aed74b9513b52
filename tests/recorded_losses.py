"""Every loss of a training script, with its logits and labels: as a context manager, and as a program that runs a script.

    python tests/recorded_losses.py FOLDER SCRIPT ARGUMENT...

The program writes the losses to FOLDER/RANK.json, one file for each process.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.module import register_module_forward_hook

CRITERIA = ("SoftCrossEntropy", "CrossEntropyLoss", "SoftTargetCrossEntropy")


@dataclass(frozen=True)
class Loss:
    """A loss that a criterion returned, the logits, and the labels: targets of this package, probabilities or classes."""

    given: float
    logits: Tensor
    labels: Any

    @property
    def dense(self) -> float:
        """What PyTorch's cross-entropy says of the labels of all classes."""
        labels = dense(self.labels)
        return float(cross_entropy(self.logits.double(), labels.double() if labels.is_floating_point() else labels))

    @property
    def marks(self) -> list[float]:
        """A number for each label that hardly any other has."""
        return marks(dense(self.labels))


def dense(labels: Any) -> Tensor:
    """Return labels as a tensor."""
    return labels if isinstance(labels, Tensor) else labels.dense()


def marks(labels: Tensor) -> list[float]:
    """Return a number for each label that hardly any other has."""
    return (labels.double() @ torch.linspace(0, 1, labels.shape[-1]).double()).tolist() if labels.ndim == 2 else labels.tolist()


@contextmanager
def recorded_losses() -> Iterator[list[Loss]]:
    """Record the losses of all criteria that are called inside the block."""
    losses: list[Loss] = []

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if type(module).__name__ in CRITERIA:
            logits, labels = inputs
            losses.append(Loss(float(output.detach()), logits.detach(), labels))

    hook = register_module_forward_hook(record)
    try:
        yield losses
    finally:
        hook.remove()


def main() -> None:
    """Run a script as if it had been started itself, and write its losses."""
    folder, *sys.argv = sys.argv[1:]
    with recorded_losses() as losses:
        runpy.run_path(sys.argv[0], run_name="__main__")
    written = [{"given": loss.given, "dense": loss.dense, "marks": loss.marks} for loss in losses]
    Path(folder, f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(written))
    if distributed.is_initialized():
        distributed.barrier()  # a process that leaves early may abort while others still talk to it
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
