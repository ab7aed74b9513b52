"""One process, or several that `torchrun` has started: which of them this is, and what they exchange."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import distributed, nn

from softlabel_codec.errors import SoftLabelError
from softlabel_codec.students.factories import device_by_name

Made = TypeVar("Made")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this is.

    Attributes
    ----------
    rank, world_size : int
        Number of this process, and how many there are.
    device : torch.device
        The device that this process computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, logs and writes checkpoints."""
        return self.rank == 0

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the network, wrapped so that gradients are averaged over all processes."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a number over all processes."""
        if self.world_size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.world_size
        return value

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block when all processes do. An error in one is raised in all: otherwise the others would wait for it forever."""
        own: Exception | None = None
        try:
            yield
        except (SoftLabelError, OSError) as error:
            own = error
        errors: list[Exception | None] = [own] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(errors, own)
        for found in (own, *errors):
            if found is not None:
                raise found

    def from_first(self, make: Callable[[], Made]) -> Made:
        """Return in all processes what the first one makes: on several machines, only the first may have the folder of the run."""
        made: list[Any] = [None]
        with self.together():
            if self.first:
                made = [make()]
        if self.world_size > 1:
            distributed.broadcast_object_list(made)
        return cast(Made, made[0])


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` has started, if it has.

    Raises
    ------
    ArgumentError
        If the device cannot be used.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and (device == "cuda" or (device == "auto" and torch.cuda.is_available())):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    where = device_by_name(device)
    if world_size == 1:
        yield Processes(0, 1, where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    ours = not distributed.is_initialized()  # a script that trains several times has joined before, since a process cannot join twice
    if ours:
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world_size, where)
    finally:
        if ours:
            gc.collect()  # the parallel network refers to the group, which must not live until the interpreter ends
            distributed.destroy_process_group()
