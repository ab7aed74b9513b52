"""Mutants of a module: its source with one small defect each, made by the operators of mutmut.

mutmut itself leaves out module level, class level and properties, which its trampolines cannot reach; here every statement takes part.
What is left out: annotations, decorators and type variables, which make no difference to what runs, and calls of `len` and `isinstance`,
whose mutants fail whatever the tests look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import libcst as cst

LEFT_ALONE = {"len", "isinstance", "TypeVar"}


@dataclass(frozen=True)
class Mutant:
    """A module with one defect.

    Attributes
    ----------
    module : str
        Path of the module in the repository.
    line : int
        First line that differs.
    before, after : str
        The lines that differ, without indentation.
    source : str
        The whole source of the mutant.
    in_function : bool
        Whether the defect is inside a function, so that it makes no difference before that is called.
    """

    module: str
    line: int
    before: str
    after: str
    source: str = field(repr=False)
    in_function: bool

    @property
    def diff(self) -> str:
        """What differs, as lines of a diff."""
        lines = [f"{sign}{line}" for sign, text in (("-", self.before), ("+", self.after)) for line in text.splitlines()]
        return "\n".join([f"@@ {self.module}", *lines])


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of the source of a module, in the order of its text."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators

    tree = cst.parse_module(source)
    statements = [tree.code_for_node(statement) for statement in (*tree.header, *tree.body, *tree.footer)]
    assert "".join(statements) == source
    for place, statement in enumerate(tree.body, len(tree.header)):
        before, after = "".join(statements[:place]), "".join(statements[place + 1 :])
        for node, in_function in _nodes(statement, False):
            for kind, operator in mutation_operators:
                for changed in operator(node) if isinstance(node, kind) else ():
                    mutated = statement.deep_replace(node, changed)
                    assert isinstance(mutated, cst.CSTNode)
                    yield _mutant(module, source, before + tree.code_for_node(mutated) + after, in_function)


def _nodes(node: cst.CSTNode, in_function: bool) -> Iterator[tuple[Any, bool]]:
    import libcst as cst

    left_alone = isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in LEFT_ALONE
    if left_alone or isinstance(node, (cst.Annotation, cst.Decorator)):
        return
    yield node, in_function
    for child in node.children:
        yield from _nodes(child, in_function or isinstance(node, cst.FunctionDef))


def _mutant(module: str, source: str, mutated: str, in_function: bool) -> Mutant:
    old, new = source.splitlines(), mutated.splitlines()
    first = next(line for line in range(len(old)) if old[: line + 1] != new[: line + 1])
    last = next(line for line in range(len(old)) if line >= min(len(old), len(new)) - first or old[-1 - line] != new[-1 - line])
    before, after = ("\n".join(line.strip() for line in lines[first : len(lines) - last]) for lines in (old, new))
    return Mutant(module, first + 1, before, after, mutated, in_function)
