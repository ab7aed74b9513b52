"""What targets share with tensors: they move between devices, have a shape, can be indexed by rows, and are nodes of a pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from softlabel_codec.checks.arguments import whole
from softlabel_codec.errors import ArgumentError

T = TypeVar("T", bound="TensorLike")
Overridden = TypeVar("Overridden", bound=Callable[..., Any])
_OVERRIDES: dict[Any, Callable[..., Any]] = {}


class TensorLike:
    """A batch of targets that consists of tensors on one device. Subclasses say which, and what remains of them if each is changed."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names; the first dimension of the first one is that of the crops."""
        raise NotImplementedError

    def with_tensors(self: T, tensors: dict[str, Tensor]) -> T:
        """Return targets of the same kind that consist of these tensors."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Return the targets of all classes, float32 (B, C)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> torch.Size:
        """(B, C), as of the dense targets."""
        raise NotImplementedError

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one dimension of it, as a tensor does."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2."""
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.tensors().values())).device

    def to(self: T, device: Any, non_blocking: bool = False, copy: bool = False) -> T:
        """Return the same targets on another device.

        Parameters
        ----------
        device : device
            For example `cuda:0`. A type raises ArgumentError: classes are integers.
        non_blocking, copy : bool
            As of `torch.Tensor.to`.
        """
        where = as_device(device)
        return self._changed(lambda tensor: tensor.to(where, non_blocking=non_blocking, copy=copy))

    def cuda(self: T, device: Any = None, non_blocking: bool = False) -> T:
        """Return the same targets on a CUDA device, the current one if none is named."""
        return self.to("cuda" if device is None else device, non_blocking)

    def cpu(self: T) -> T:
        """Return the same targets in the host's memory."""
        return self.to("cpu")

    def pin_memory(self: T) -> T:
        """Return the same targets in page-locked memory; DataLoader calls this if asked to pin."""
        return self._changed(Tensor.pin_memory)

    def is_pinned(self) -> bool:
        """Return whether they are in page-locked memory."""
        return all(tensor.is_pinned() for tensor in self.tensors().values())

    def detach(self: T) -> T:
        """Return the same targets without the history of gradients."""
        return self._changed(Tensor.detach)

    def _changed(self: T, change: Callable[[Tensor], Tensor]) -> T:
        return self.with_tensors({name: change(tensor) for name, tensor in self.tensors().items()})

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take part in those functions of torch that have a meaning for targets; torch raises TypeError for others."""
        if function not in _OVERRIDES:
            return NotImplemented
        return _OVERRIDES[function](*args, **(kwargs or {}))


def overrides(*functions: Any) -> Callable[[Overridden], Overridden]:
    """Let the decorated function do what functions of torch are to do with targets."""

    def decorate(function: Overridden) -> Overridden:
        _OVERRIDES.update(dict.fromkeys(functions, function))
        return function

    return decorate


def register_pytree(kind: type[T], context_of: Callable[[T], tuple[Any, ...]], make: Callable[..., T]) -> None:
    """Make a kind of targets a node of torch's pytrees, whose leaves are its tensors.

    Parameters
    ----------
    kind : type
        Of the targets.
    context_of : callable
        Returns what is not a tensor, as strings and numbers.
    make : callable
        Takes that, and `tensors=` by name; returns targets.
    """

    def flatten(targets: T) -> tuple[list[Tensor], tuple[Any, ...]]:
        tensors = targets.tensors()
        return list(tensors.values()), (tuple(tensors), *context_of(targets))

    def flatten_with_keys(targets: T) -> tuple[list[tuple[Any, Tensor]], tuple[Any, ...]]:
        leaves, context = flatten(targets)
        return [(_pytree.GetAttrKey(name), leaf) for name, leaf in zip(context[0], leaves, strict=True)], context

    def unflatten(leaves: Any, context: tuple[Any, ...]) -> T:
        names, *others = context
        return make(*others, tensors=dict(zip(names, leaves, strict=True)))

    _pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"softlabel_codec.torch.{kind.__name__}",
        to_dumpable_context=list,
        from_dumpable_context=lambda context: (tuple(context[0]), *context[1:]),
        flatten_with_keys_fn=flatten_with_keys,
    )


def as_device(device: Any) -> torch.device:
    """Return a device; ArgumentError for what is none."""
    try:
        return torch.device(device)
    except (TypeError, RuntimeError) as error:
        raise ArgumentError(f"device: expected a device such as 'cuda:0', got {device!r}: {error}") from None


def as_rows(rows: Any, num_rows: int) -> Any:
    """Return an index that selects rows of a tensor, and keeps the dimension if it is a single number.

    Raises
    ------
    IndexError
        If there is no row of this number.
    ArgumentError
        If it indexes more than rows.
    """
    if isinstance(rows, slice):
        return rows
    number = None if isinstance(rows, Tensor) else whole(rows)
    if number is not None:
        number = range(num_rows)[number]
        return slice(number, number + 1)
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":  # torch takes uint8 for a mask, and no array in reversed order
        rows = rows.astype(np.int64)
    found = None if isinstance(rows, tuple) or rows is None or rows is ... else torch.as_tensor(rows)
    if found is None or found.ndim > 1 or (found.ndim == 0 and found.dtype == torch.bool):
        raise ArgumentError(f"rows: expected a number, a slice, a list, an index tensor (B,) or a mask bool (B,), got {rows!r:.100}")
    if not found.numel() and found.is_floating_point():
        return found.long()
    return found[None] if found.ndim == 0 else found
