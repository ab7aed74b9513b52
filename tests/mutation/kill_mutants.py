"""How many defects of the framing, packing and quantisation modules the tests notice (mutation testing).

It works on a copy of the package and the tests, so that nothing here is changed and nothing that changes meanwhile counts. Mutants that
survive are listed. Many of them do the same as the module, or differ only in speed; the others show what has no test. Write a test only
for behaviour that somebody relies on: a test that pins a text or a private attribute to kill a mutant makes the code harder to change.

usage: PYTHONPATH=tests python -m mutation.kill_mutants [--workers N] [--sample N] [--json] [MODULE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mutation.mutants import Mutant, mutants_of
from mutation.trials import KILLED, SURVIVED, TIMED_OUT, Trials

REPOSITORY = Path(__file__).parents[2]
TARGETS = (
    "softlabel_codec/container/framing.py",
    "softlabel_codec/container/zstd_frames.py",
    "softlabel_codec/block",
    "softlabel_codec/quantise",
)
OWN_TESTS = {
    "container/": "test_framing.py",
    "block/": "test_packing.py",
    "quantise/neighbours": "test_neighbours.py",
    "quantise/temperature": "test_temperature.py",
    "quantise/transcoding": "test_transcoding.py",
    "quantise/": "test_quantising.py",
}
TESTS = ("test_framing.py", "test_packing.py", "test_quantising.py")
"""Only these, and a module's own, have to notice a defect: no test of the reader, the writer or the files as a whole helps them."""
COPIED = ("softlabel_codec", "tests", "pyproject.toml")


@dataclass(frozen=True)
class ModuleFigures:
    """What became of the mutants of a module; `killed` includes those that `timed_out`."""

    module: str
    mutants: int
    killed: int
    timed_out: int
    survived: int


@dataclass(frozen=True)
class MutationReport:
    """What became of all mutants.

    Attributes
    ----------
    modules : tuple of ModuleFigures
        By module.
    total : ModuleFigures
        Their sum.
    survivors : tuple of str
        The diff of each mutant that no test noticed.
    sampled : int or None
        How many mutants of each module were drawn; None: all.
    seconds : float
        How long it took.
    """

    modules: tuple[ModuleFigures, ...]
    total: ModuleFigures
    survivors: tuple[str, ...]
    sampled: int | None
    seconds: float


def run(targets: Sequence[str] = TARGETS, *, workers: int = 1, sample: int | None = None) -> MutationReport:
    """Return what becomes of the mutants of `targets` (modules or folders of the package), all or `sample` of each module.

    This takes a process of its own, in which nothing of the package has been imported.
    """
    options = ["--json", "--workers", str(workers), *([] if sample is None else ["--sample", str(sample)])]
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "mutation.kill_mutants", *options, *targets]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    modules = tuple(ModuleFigures(**figures) for figures in found["modules"])
    return MutationReport(modules, ModuleFigures(**found["total"]), tuple(found["survivors"]), found["sampled"], found["seconds"])


def measure(targets: Sequence[str], workers: int, sample: int | None) -> MutationReport:
    """Do what `run` says in this process, whose working directory and imports it changes."""
    start = time.monotonic()
    modules, survivors = [], []
    with tempfile.TemporaryDirectory() as folder:
        copy = _copied(Path(folder))
        _prepare(copy)
        for target in targets:
            for path in _python_files(copy / target):
                module = path.relative_to(copy).as_posix()
                found = _fates_of(copy, module, workers, sample)
                modules.append(_figures(module, found))
                survivors += [mutant.diff for mutant, fate in found if fate == SURVIVED]
    sums = [sum(getattr(figures, field.name) for figures in modules) for field in fields(ModuleFigures)[1:]]
    return MutationReport(tuple(modules), ModuleFigures("all", *sums), tuple(survivors), sample, round(time.monotonic() - start, 1))


def _copied(folder: Path) -> Path:
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder.resolve()


def _prepare(copy: Path) -> None:
    """Import what all processes need and no mutant is in, once, and make the copy what they work on."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    import hypothesis.extra.numpy
    import msgpack  # noqa: F401
    import PIL.Image  # noqa: F401
    import pytest  # noqa: F401
    import zstandard  # noqa: F401

    imported = [name for name in sys.modules if name.startswith("softlabel_codec")]
    assert not imported, f"a mutant would not be seen: {imported} are imported already"
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a failure is enough: it need not be made small
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutation")
    os.chdir(copy)
    sys.path.insert(0, str(copy))


def _python_files(target: Path) -> list[Path]:
    return sorted(path for path in target.glob("*.py") if path.name != "__init__.py") if target.is_dir() else [target]


def _fates_of(copy: Path, module: str, workers: int, sample: int | None) -> list[tuple[Mutant, str]]:
    source = (copy / module).read_text()
    own = next(tests for path, tests in OWN_TESTS.items() if module.startswith(f"softlabel_codec/{path}"))
    trials = Trials(copy, [own, *(name for name in TESTS if name != own)], workers)
    _check_that_the_module_itself_survives(trials, module, source)
    mutants = list(mutants_of(module, source))
    if sample is not None:
        mutants = random.Random(0).sample(mutants, min(sample, len(mutants)))
    found = []
    for mutant, fate in trials.fates(mutants):
        assert fate in {KILLED, SURVIVED, TIMED_OUT}, f"{module}: {fate}"
        found.append((mutant, fate))
        if fate == SURVIVED or len(found) % 100 == 0:
            print(f"{len(found)} of {len(mutants)}, {fate}: {module}:{mutant.line}: {mutant.after!r}", file=sys.stderr, flush=True)
    return found


def _check_that_the_module_itself_survives(trials: Trials, module: str, source: str) -> None:
    for in_function in (False, True):
        ((_, fate),) = trials.fates([Mutant(module, 0, "", "", source, in_function)])
        assert fate == SURVIVED, f"{module}: {fate} without a defect\n{(trials.copy / 'tests.log').read_text()}"


def _figures(module: str, found: list[tuple[Mutant, str]]) -> ModuleFigures:
    fates = [fate for _, fate in found]
    timed_out = fates.count(TIMED_OUT)
    return ModuleFigures(module, len(found), fates.count(KILLED) + timed_out, timed_out, fates.count(SURVIVED))


def main() -> None:
    """Print the figures and the survivors."""
    parser = argparse.ArgumentParser(description="Mutation testing of the framing, packing and quantisation modules.")
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="MODULE")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sample", type=int, help="so many mutants of each module instead of all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.targets, options.workers, options.sample)
    if options.json:
        print(json.dumps(asdict(report), indent=2))
        return
    for figures in (*report.modules, report.total):
        share = figures.killed / figures.mutants
        print(
            f"{figures.module:40} {figures.mutants:5} mutants, {share:6.1%} killed ({figures.timed_out} timed out), "
            f"{figures.survived} survived"
        )
    print(*report.survivors, sep="\n")


if __name__ == "__main__":
    main()
