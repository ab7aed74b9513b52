"""Which tests need no torch, for an environment with the lowest versions, which has none: told by what their modules import.

A test that needs torch in a module that does not import it has the mark `torch`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

FEWEST = 1500
"""How many tests need no torch, about: far fewer mean that they are told apart wrongly."""
ROOT = Path(__file__).resolve().parents[1]
PLACES = (ROOT, ROOT / "tests")
"""Where tests find modules of this repository."""


class WithoutTorch:
    """Leaves out, for pytest, all modules that import torch, and tests that are marked."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        return (collection_path.suffix == ".py" and needs_torch(collection_path)) or None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        marked = [item for item in items if item.get_closest_marker("torch")]
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if len(session.items) < FEWEST:
            raise pytest.UsageError(f"expected at least {FEWEST} tests that need no torch, got {len(session.items)}")


@cache
def needs_torch(path: Path) -> bool:
    """Return whether importing a Python file imports torch, itself or through other files of this repository."""
    packages = [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(ROOT / "softlabel_codec")]
    return any(_reaches_torch(file, set()) for file in (path, *packages))


def _reaches_torch(path: Path, seen: set[Path]) -> bool:
    seen.add(path)
    for name in _imported(path):
        if name.split(".")[0] == "torch":
            return True
        if any(other not in seen and _reaches_torch(other, seen) for other in _files(name)):
            return True
    return False


@cache
def _imported(path: Path) -> list[str]:
    """Return the names that a module imports when it is imported: not in its functions, and not for type checkers only."""
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and "TYPE_CHECKING" not in _condition(node):
            waiting += ast.iter_child_nodes(node)
    return names


def _condition(node: ast.AST) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


@cache
def _files(name: str) -> list[Path]:
    """Return the files of this repository that importing a name runs: its own, and those of the packages that it lies in."""
    parts, found = name.split("."), []
    for length in range(1, len(parts) + 1):
        for place in PLACES:
            path = place.joinpath(*parts[:length])
            found += [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found
