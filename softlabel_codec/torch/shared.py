"""Numbers that a dataset shares with its worker processes."""

from __future__ import annotations

import zlib
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor


class SharedTensor:
    """A tensor in shared memory.

    Worker processes of every start method see the same numbers. A plain pickle or a deep copy holds the numbers of that moment and is
    restored as a new shared tensor. (A plain tensor would not be shared after that, and workers would not see changes.) Equal
    numbers pickle small.

    Parameters
    ----------
    tensor : Tensor
        The numbers; any shape and type.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Any, ...]:
        data = zlib.compress(self.tensor.numpy().tobytes(), 1)
        return _from_bytes, (data, self.tensor.dtype, tuple(self.tensor.shape))


def _from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> SharedTensor:
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        tensor.view(-1).copy_(torch.frombuffer(bytearray(zlib.decompress(data)), dtype=dtype))
    return SharedTensor(tensor)


def _to_worker(shared: SharedTensor) -> tuple[Any, ...]:
    return SharedTensor, (shared.tensor,)  # torch hands over where it lies, not what it holds


ForkingPickler.register(SharedTensor, _to_worker)
