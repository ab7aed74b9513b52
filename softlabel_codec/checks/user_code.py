"""Runs code that belongs to the user or to a library: a function in a Python file or module, by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from softlabel_codec.errors import ArgumentError


def call_function(role: str, where: str, name: str, *arguments: Any) -> tuple[ModuleType, Any]:
    """Return the module that holds a function, and what the function returns.

    Parameters
    ----------
    role : str
        What the result is for, in errors: `teacher`, `student` or `images`.
    where : str
        A Python file, `FILE.py`, or the name of a module. It can import modules in its own folder.
    name : str
        The function's name.
    arguments
        Its arguments.

    Raises
    ------
    ArgumentError
        If there is no such file, module or function, or it fails.
    """
    with _neighbours_importable(where):
        module = _import(role, where)
        function = getattr(module, name, None)
        if not callable(function):
            known = [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
            raise ArgumentError(f"{role}: {where} has no function {name!r}; it has {', '.join(known) or 'none'}")
        return module, run_foreign(role, lambda: function(*arguments), f"{where}:{name}")


def run_foreign(role: str, function: Callable[[], Any], what: str) -> Any:
    """Run code of the user or of a library; if it fails, raise ArgumentError that says where."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise ArgumentError(f"{role}: {what} failed with {type(error).__name__}: {error} ({place})") from error


def foreign_library(role: str, name: str) -> Any:
    """Return an installed library; ArgumentError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(f"{role}: {name} is not installed ({error}); install it, or name a FILE.py:FACTORY") from None


@contextmanager
def _neighbours_importable(where: str) -> Iterator[None]:
    """Let a factory import modules in its folder (for a module: the working folder), and forget these modules afterwards.

    Another factory may have modules of the same names beside it.
    """
    folder = (Path(where).parent if where.endswith(".py") else Path()).absolute()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _lies_in(folder, name, getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def _lies_in(folder: Path, name: str, file: str | None) -> bool:
    """Return whether a module was imported from a folder, but not from an environment inside this folder."""
    place = folder.joinpath(*name.split("."))
    return file is not None and Path(file) in (place.with_suffix(".py"), place / "__init__.py")


def _import(role: str, where: str) -> ModuleType:
    if not where.endswith(".py"):
        found: ModuleType = run_foreign(role, lambda: importlib.import_module(where), where)
        return found
    path = Path(where)
    if not path.is_file():
        raise ArgumentError(f"{role}: {where}: file not found")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{role}: {where}: not a Python file")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules.setdefault(path.stem, module)  # where pickle and dataclasses look for it
    run_foreign(role, lambda: loader.exec_module(module), where)
    return module
