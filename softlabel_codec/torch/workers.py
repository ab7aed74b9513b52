"""For all DataLoaders here: workers that end with the main process, pipes if shared memory is scarce, and a clear error."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from softlabel_codec.errors import StateError

BATCHES_AHEAD = 2
"""Batches that each worker makes ahead."""
SHARED_MEMORY = Path("/dev/shm")
SECONDS_BETWEEN_LOOKS = 1.0


def need_pipes(batch_bytes: int, workers: int) -> bool:
    """Return whether batches should be numpy arrays, which workers send through a pipe.

    Tensors go through shared memory. If it runs out, as may happen in containers, torch waits forever.
    """
    wanted = 2 * batch_bytes * BATCHES_AHEAD * (workers + 1)
    return workers > 0 and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free <= wanted


def empty_batch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor to be filled: in a worker process in shared memory, from which the main process takes it without a copy."""
    worker = get_worker_info()
    num_bytes = math.prod(shape) * dtype.itemsize
    if worker is None or not num_bytes or need_pipes(num_bytes, worker.num_workers):
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call]  # as torch's own collation does
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


def is_killed_worker(error: BaseException) -> bool:
    """Return whether an error means that a worker process was killed: torch raises it at any point of the main process."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def workers_watched() -> Iterator[None]:
    """Raise StateError, with advice, if a worker process is killed."""
    try:
        yield
    except RuntimeError as error:
        if not is_killed_worker(error):
            raise
        advice = "Memory may have run out: use fewer --workers or a smaller --batch-size"
        raise StateError(f"a worker process was killed: {str(error).splitlines()[0]}. {advice}") from None


def as_it_is(batch: Any) -> Any:
    """Return a batch unchanged: the `collate_fn` of a DataLoader whose dataset gives whole batches."""
    return batch


def end_with_main(worker: int) -> None:
    """End a worker when the main process ends, without a traceback: a `worker_init_fn`.

    Torch only checks whether the parent has changed since the worker started. A worker whose main process was killed before that
    would wait forever, and the parent of a worker of a fork server is the server.
    """
    report = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            report(kind, error, trace)

    sys.excepthook = hook
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_watch, args=(main,), daemon=True).start()


def _watch(main: Any) -> None:
    """End this process as soon as the main process is gone."""
    is_child = os.getppid() == main.pid
    while main.is_alive() and (not is_child or os.getppid() == main.pid):
        main.join(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
