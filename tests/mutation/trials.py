"""What the tests make of a mutant: each is tried in a process of its own.

A mutant inside a function is tried in a fork of a process that has collected the tests already: there the functions of the module get the
mutant's code. Any other mutant needs a fresh import: it is tried in a fork of a process that has imported numpy and pytest, but nothing of
the package, where an import hook gives the mutant instead of the module.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import mmap
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from mutation.mutants import Mutant

TIMEOUT_SECONDS = 90
"""Of processor time, of which all tests together take about 20; ten times as many of waiting."""
MAX_MEMORY_BYTES = 8 * 2**30
SURVIVED, KILLED, TIMED_OUT, NOT_IMPORTED = "survived", "killed", "timed out", "not imported"
_EXIT_NOT_IMPORTED = 77
MOST_LIKELY = 8
WRAPPED = ("fget", "func", "__func__", "__wrapped__")
"""Where properties, cached properties, class and static methods, and cached functions keep the function that was decorated."""
_PLACE = struct.Struct("<I")
_OPTIONS = ["-q", "--tb=native", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:doctest"]


@dataclass(frozen=True)
class Trials:
    """How mutants of a module are tried.

    Attributes
    ----------
    copy : Path
        A copy of the repository, which is the working directory.
    tests : list of str
        Tests that a mutant must survive, those first that are most likely to notice it.
    workers : int
        How many processes run at a time.
    """

    copy: Path
    tests: list[str]
    workers: int

    def fates(self, mutants: list[Mutant]) -> Iterator[tuple[Mutant, str]]:
        """Yield each mutant and what became of it, in the order in which they end."""
        served = [mutant for mutant in mutants if mutant.in_function]
        if served:
            yield from self._served(served)
        yield from _in_processes(self._import_and_test, (mutant for mutant in mutants if not mutant.in_function), self.workers)

    def _import_and_test(self, mutant: Mutant) -> int:
        import pytest

        finder = _MutantFinder(self.copy, mutant)
        sys.meta_path.insert(0, finder)
        code = int(pytest.main([*_OPTIONS, "-x", *self._paths]))
        return code or (0 if finder.found else _EXIT_NOT_IMPORTED)

    def _served(self, mutants: list[Mutant]) -> Iterator[tuple[Mutant, str]]:
        """Try mutants in forks of a process that has collected the tests; it says by a pipe what became of each."""
        reading, writing = os.pipe()
        server = _child(lambda: self._serve(mutants, writing), seconds=0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                number, fate = line.rstrip().split(" ", 1)
                yield mutants[int(number)], fate
        _, status = os.waitpid(server, 0)
        assert status == 0, f"the tests cannot be collected:\n{(self.copy / 'tests.log').read_text()}"

    def _serve(self, mutants: list[Mutant], writing: int) -> int:
        import pytest

        return int(pytest.main([*_OPTIONS, *self._paths], plugins=[_EveryMutant(mutants, self.workers, writing)]))

    @property
    def _paths(self) -> list[str]:
        return [str(self.copy / "tests" / name) for name in self.tests]


class _EveryMutant:
    """Runs the collected tests not once but for every mutant, each in a fork.

    The test that noticed a mutant is likely to notice the next one too, so those of the last few run first; a page of shared memory
    holds which they were. Tests of drawn examples take more time than all the others, and run last.
    """

    def __init__(self, mutants: list[Mutant], workers: int, writing: int) -> None:
        self._mutants, self._workers, self._writing = mutants, workers, writing
        self._noticed_by = mmap.mmap(-1, _PLACE.size * len(mutants))
        self._likely: list[int] = []

    def pytest_runtestloop(self, session: Any) -> bool:
        numbers = {id(mutant): number for number, mutant in enumerate(self._mutants)}
        for mutant, fate in _in_processes(lambda mutant: self._test(session, mutant, numbers[id(mutant)]), self._mutants, self._workers):
            number = numbers[id(mutant)]
            os.write(self._writing, f"{number} {fate}\n".encode())
            (place,) = _PLACE.unpack_from(self._noticed_by, _PLACE.size * number)
            if fate == KILLED:
                self._likely = [place, *(other for other in self._likely if other != place)][:MOST_LIKELY]
        return True

    def _test(self, session: Any, mutant: Mutant, number: int) -> int:
        module = sys.modules[mutant.module.removesuffix(".py").replace("/", ".")]
        assert Path(str(module.__file__)) == Path(mutant.module).absolute(), "the tests import another module"
        _become(module, mutant.source)
        places = sorted(dict.fromkeys([*self._likely, *range(len(session.items))]), key=lambda place: _draws(session.items[place]))
        for place, following in zip(places, [*places[1:], None], strict=True):
            item, next_item = session.items[place], None if following is None else session.items[following]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            if session.testsfailed:
                _PLACE.pack_into(self._noticed_by, _PLACE.size * number, place)
                return 1
        return 0


def _draws(item: Any) -> bool:
    """Whether hypothesis draws the examples of a test."""
    return bool(getattr(item.obj, "is_hypothesis_test", False))


def _become(module: ModuleType, source: str) -> None:
    """Give the functions of a module the code that they have in another source of it."""
    namespace: dict[str, Any] = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(source, str(module.__file__), "exec"), namespace)
    functions = dict(_functions(vars(module), module.__name__))
    for name, function in _functions(namespace, module.__name__):
        functions[name].__code__ = function.__code__
        functions[name].__defaults__, functions[name].__kwdefaults__ = function.__defaults__, function.__kwdefaults__


def _functions(namespace: dict[str, Any], module: str) -> Iterator[tuple[str, FunctionType]]:
    for name, value in namespace.items():
        bare = next((inner for way in WRAPPED if (inner := getattr(value, way, None)) is not None), value)
        if isinstance(bare, FunctionType) and bare.__module__ == module and bare.__code__.co_filename.endswith(".py"):
            yield name, bare
        elif isinstance(value, type) and value.__module__ == module:
            yield from ((f"{name}.{inner}", function) for inner, function in _functions(dict(vars(value)), module))


class _MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant when its module is imported."""

    def __init__(self, copy: Path, mutant: Mutant) -> None:
        self._path = copy / mutant.module
        self._name = mutant.module.removesuffix(".py").replace("/", ".")
        self._source = mutant.source
        self.found = False

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self, origin=str(self._path)) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        self.found = True
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def _in_processes(work: Callable[[Mutant], int], mutants: Iterable[Mutant], workers: int) -> Iterator[tuple[Mutant, str]]:
    running: dict[int, Mutant] = {}
    for mutant in mutants:
        if len(running) == workers:
            yield _ended(running)
        running[_child(lambda mutant=mutant: work(mutant), TIMEOUT_SECONDS)] = mutant
    while running:
        yield _ended(running)


def _ended(running: dict[int, Mutant]) -> tuple[Mutant, str]:
    process, status = os.wait()
    return running.pop(process), _fate(status)


def _fate(status: int) -> str:
    if os.WIFSIGNALED(status):
        return TIMED_OUT if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM) else KILLED
    return {0: SURVIVED, _EXIT_NOT_IMPORTED: NOT_IMPORTED}.get(os.WEXITSTATUS(status), KILLED)


def _child(work: Callable[[], int], seconds: int) -> int:
    """Fork a process that ends with the exit code that `work` returns; with SIGXCPU if that takes too long, or SIGALRM if it waits."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            signal.alarm(10 * seconds)
            if seconds:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
            os.dup2(os.open("tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return process
