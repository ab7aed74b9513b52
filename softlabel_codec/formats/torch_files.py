"""Files that `torch.save` wrote, read by torch's safe loader, which runs no code, with our replacements for numpy's types."""

from __future__ import annotations

import errno
import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from softlabel_codec.errors import CorruptError
from softlabel_codec.formats.numpy_stand_ins import STAND_INS

_ZIP_MAGIC = b"PK\x03\x04"
_MOST_NAME = 256
"""Characters of the name of a type in a pickle. In its errors, torch looks for words in time that grows with the square of the name."""
_MOST_DEPTH = 32
"""Tuples in one another: Python's hash of many more ends the process."""
_CALLED = frozenset(
    f"torch.{name}"
    for name in ("Size", "device", *(f"_utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter")))
)
"""What files may call of torch's. Others that its loader knows set aside any number of bytes, or make no plain tensors."""
_OLD_PICKLES = 5
"""Before the numbers of files of torch before 1.6."""


def load_safely(data: bytes | Path, where: object) -> Any:
    """Return what a file holds: tensors, stand-ins for arrays (see `as_array`), numbers and text in lists, tuples and dicts.

    `torch.load` does not compare the checksums that `torch.save` writes, so that is done first. (Files of torch before 1.6 have none.)

    Parameters
    ----------
    data : bytes or path
        The file. Tensors of one that is given by its path stay in it until they are used, if it is no older than torch 1.6.
    where : object
        Its name in errors.

    Raises
    ------
    CorruptError
        If it is damaged, would need code to be run, or a tensor claims more numbers than it has.
    """
    file: Any = io.BytesIO(data) if isinstance(data, bytes) else os.fspath(data)
    try:
        mapped = _is_checked_zip(file) and isinstance(data, Path)
        with torch.serialization.safe_globals(STAND_INS):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it requires {wanted[1]}" if wanted else "it contains more than arrays"
        raise CorruptError(f"{where}: not a label file that can be read without running code: {reason}") from None
    except Exception as error:  # torch.load raises many types of errors for damaged files
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # which says nothing of the file; a bad offset is EINVAL
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CorruptError(f"{where}: not a readable label file: {reason}") from None
    if any(_claims_too_much(tensor) for tensor in _tensors(found)):
        raise CorruptError(f"{where}: a tensor claims more numbers than the file holds")
    return found


def _is_checked_zip(file: Any) -> bool:
    """Return whether a file is a zip archive, as torch writes since 1.6, after a comparison of its checksums."""
    if _start(file) != _ZIP_MAGIC:
        with open(file, "rb") if isinstance(file, str) else io.BytesIO(file.getvalue()) as stream:
            _check_pickles(stream, _OLD_PICKLES)
        return False
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise zipfile.BadZipFile("it is compressed, but torch.save does not compress")
        damaged = archive.testzip()
        for name in archive.namelist():
            if damaged is None and name.endswith("data.pkl"):
                _check_pickles(io.BytesIO(archive.read(name)), 1)
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged!r} differs")
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return True


def _start(file: Any) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()[: len(_ZIP_MAGIC)]
    with open(file, "rb") as stream:
        return stream.read(len(_ZIP_MAGIC))


def _check_pickles(stream: IO[bytes], num_pickles: int) -> None:
    """Raise an error if a pickle is damaged, or would keep torch busy. Nothing is made of it."""
    for _ in range(num_pickles):
        _TupleCheck().follow(stream)


class _Value(NamedTuple):
    """Of a value in a pickle: the number of values in it, and of tuples in one another; of a function or type its name."""

    size: int = 1
    depth: int = 0
    function: str | None = None


_ONE = _Value()


class _TupleCheck:
    """Follows a pickle, of which it keeps the tuples' sizes and depths only: torch computes hashes of keys, and shows what is no function.

    All but tuples count as one value, since these have no hash or that of one number or text.
    """

    def __init__(self) -> None:
        self._stack: list[_Value | None] = []
        self._memo: dict[int, _Value] = {}
        self._repeated = 0

    def follow(self, stream: IO[bytes]) -> None:
        """Raise an error if tuples repeat more values than there are instructions, or are in one another more than `_MOST_DEPTH` deep."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name in ("GLOBAL", "INST") and len(str(argument)) > _MOST_NAME:
                raise pickle.UnpicklingError("the name of a type is too long")
            self._step(opcode, argument)
            if self._repeated > number:
                raise pickle.UnpicklingError("tuples that repeat one another")

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        stack, name = self._stack, opcode.name
        if name in ("BINGET", "LONG_BINGET", "GET"):
            value = self._memo[argument]
            self._repeated += value.size - 1
            stack.append(value)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1] or _ONE
        elif name == "MARK":
            stack.append(None)
        else:
            popped = self._popped(opcode)
            if name in ("REDUCE", "NEWOBJ"):
                _check_call(popped[-1].function)
            if name == "GLOBAL":
                stack.append(_Value(function=argument.replace(" ", ".")))
            elif opcode.stack_after:
                stack.append(_tuple_of(popped) if name.startswith("TUPLE") else _ONE)

    def _popped(self, opcode: pickletools.OpcodeInfo) -> list[_Value]:
        before = opcode.stack_before
        found: list[_Value] = []
        if pickletools.markobject in before:
            while (value := self._stack.pop()) is not None:
                found.append(value)
            before = before[: before.index(pickletools.markobject)]
        return found + [self._stack.pop() or _ONE for _ in before]


def _check_call(function: str | None) -> None:
    if function is None:
        raise pickle.UnpicklingError("it calls what is no function")
    if function.startswith(("torch.", "builtins.")) and function not in _CALLED:
        raise pickle.UnpicklingError(f"it calls GLOBAL {function}")


def _tuple_of(values: list[_Value]) -> _Value:
    depth = 1 + max((0, *(value.depth for value in values)))
    if depth > _MOST_DEPTH:
        raise pickle.UnpicklingError("too many tuples in one another")
    return _Value(1 + sum(value.size for value in values), depth)


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in lists, tuples and dicts."""
    waiting, seen = [found], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, torch.Tensor):
            yield part
        elif isinstance(part, list | tuple | dict) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values() if isinstance(part, dict) else part


def _claims_too_much(tensor: torch.Tensor) -> bool:
    """Return whether a tensor claims more numbers than are stored: a stride of 0 repeats one number any number of times."""
    return tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
