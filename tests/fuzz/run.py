"""Run fuzz targets, each in a process of its own with limited memory.

usage: python tests/fuzz/run.py [TARGET...] [--runs N | --seconds N] [--keep] [--seeds] [--json]

Crashes are written to `crashes/`, which git ignores; replay one with `python tests/fuzz/run.py TARGET --replay FILE`. Once the defect
is repaired, move the file to `fixed/TARGET/`. The kept corpus is in `corpus.zip` (`corpus.py`), which `--keep` writes again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # as a script
    sys.path.insert(0, str(HERE.parent))

from fuzz import corpus  # noqa: E402

CRASHES, FIXED = HERE / "crashes", HERE / "fixed"
TARGETS = ("header", "metadata", "codec_string", "block", "index_and_trailer", "whole_file", "fkd", "imports")
MAX_INPUT_BYTES = {
    "header": 64,
    "metadata": 1024,
    "codec_string": 256,
    "block": 2048,
    "index_and_trailer": 96,
    "whole_file": 96,
    "fkd": 2048,
    "imports": 128,
}
MAX_CRASHES = 10
SECONDS_PER_PROCESS = 30
"""Then a new process goes on: atheris itself loses some 50 kB for each input that compares arrays."""
HANG_SECONDS = 20
"""By the clock, after which libFuzzer ends a run: the targets themselves measure the second of processor time that an input may take."""


@dataclass(frozen=True)
class FuzzReport:
    """What came of fuzzing a target.

    Attributes
    ----------
    target : str
        Which one.
    runs : int
        Inputs that were run, not counting the kept ones.
    seconds : float
        By the clock, from the start of the process.
    corpus_inputs, corpus_bytes : int
        The kept inputs, which were run first.
    new_inputs : int
        Inputs that reached something new.
    peak_memory_mb : int
        Most resident memory.
    crashes : tuple of str
        Files of inputs that raised what they must not, took too long, or ran out of memory.
    """

    target: str
    runs: int
    seconds: float
    corpus_inputs: int
    corpus_bytes: int
    new_inputs: int
    peak_memory_mb: int
    crashes: tuple[str, ...]


def run(target: str, *, runs: int | None = None, seconds: float | None = None, keep: bool = False) -> FuzzReport:
    """Fuzz one target, starting from the kept corpus, for so many inputs or so long.

    Parameters
    ----------
    target : str
        One of `TARGETS`.
    runs : int, optional
        Inputs to run, not counting those of the kept corpus: always the same ones, as far as libFuzzer can say.
    seconds : float, optional
        How long, with the start; 60 if neither is given.
    keep : bool
        Add new interesting inputs to the kept corpus.
    """
    start = time.monotonic()
    end = start + (seconds or 60) if runs is None else float("inf")
    sizes = [len(data) for data in corpus.kept_inputs(target).values()]
    total = peak = 0
    crashes: list[str] = []
    CRASHES.mkdir(exist_ok=True)
    with _empty_folder() as kept, _empty_folder() as found:
        corpus.unpack(target, Path(kept))
        while len(crashes) < MAX_CRASHES and total < (runs or float("inf")) and time.monotonic() < end:
            known = len(sizes) + len(list(Path(found).iterdir()))
            lasting = max(1, round(min(SECONDS_PER_PROCESS, end - time.monotonic())))
            until = [f"-max_total_time={lasting}", *([] if runs is None else ["-seed=1", f"-runs={runs - total + known}"])]
            executed, memory, crash, output = _start(target, [*until, found, kept])
            total, peak = total + max(1, executed - known), max(peak, memory)
            if crash is not None:
                crashes.append(crash)
                print(output, file=sys.stderr)
        new = len(list(Path(found).iterdir()))
        if keep:
            merge(target, found)
    return FuzzReport(target, total, round(time.monotonic() - start, 1), len(sizes), sum(sizes), new, peak, tuple(crashes))


def fixed_inputs(target: str) -> list[Path]:
    """Return inputs that once were crashes of a target."""
    return sorted((FIXED / target).glob("*"))


def merge(target: str, *folders: str) -> None:
    """Put into the kept corpus what reaches something new, and leave out what reaches nothing that smaller inputs don't."""
    with _empty_folder() as kept, _empty_folder() as least:
        corpus.unpack(target, Path(kept))
        command = [*_command(target), "-merge=1", "-use_counters=0", least, kept, *folders]
        done = subprocess.run(command, env=_environment(), check=False, capture_output=True, cwd=HERE.parent)
        inputs = {path.name: path.read_bytes() for path in Path(least).iterdir()}
        if done.returncode or not inputs:
            raise RuntimeError(f"{target}: nothing was kept: {done.stderr.decode('utf-8', 'replace')[-2000:]}")
        corpus.replace_inputs(target, inputs)


def add_seeds(target: str) -> None:
    """Add the first inputs of a target to its kept corpus."""
    make = importlib.import_module("fuzz.seeds").seeds
    with _empty_folder() as folder:
        for number, data in enumerate(make(target)):
            (Path(folder) / str(number)).write_bytes(data)
        merge(target, folder)


def _start(target: str, arguments: Sequence[str]) -> tuple[int, int, str | None, str]:
    """Run libFuzzer and return the inputs it ran, the memory it took in MB, the file of a crash, and the end of its output."""
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        words.write("\n".join(_words()))
        words.flush()
        command = [*_command(target), f"-dict={words.name}", "-print_final_stats=1", f"-artifact_prefix={CRASHES}/{target}-", *arguments]
        done = subprocess.run(command, env=_environment(), check=False, capture_output=True, cwd=HERE.parent)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    numbers = dict(re.findall(r"stat::(\w+):\s+(\d+)", output))
    written = re.search(r"Test unit written to (\S+)", output)
    if done.returncode and not written:
        raise RuntimeError(f"{target}: the fuzzer failed: {output[-2000:]}")
    crash = written[1] if written else None
    return int(numbers.get("number_of_executed_units", 0)), int(numbers.get("peak_rss_mb", 0)), crash, output[-3000:]


def _command(target: str) -> list[str]:
    limits = [f"-timeout={HANG_SECONDS}", f"-max_len={MAX_INPUT_BYTES[target]}", "-rss_limit_mb=0"]
    return [sys.executable, "-m", "fuzz.one", target, *limits]


def _environment() -> dict[str, str]:
    folder = _memory_folder()
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])  # the package that this process has, too
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", **({"TMPDIR": folder} if folder else {})}


def _empty_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=_memory_folder())


def _memory_folder() -> str | None:
    """Return a folder in memory, where files of which thousands are written a second cost nothing, if there is one."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None


def _words() -> Sequence[str]:
    return (HERE / "words.dict").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Fuzz the targets of the command line, one after the other; exit with 1 if anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all if none is given: {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, help="inputs to run of each target")
    parser.add_argument("--seconds", type=float, help="how long to run each target (60)")
    parser.add_argument("--keep", action="store_true", help="add what reaches something new to the kept corpus")
    parser.add_argument("--seeds", action="store_true", help="only add the first inputs to the kept corpus")
    parser.add_argument("--replay", metavar="FILE", help="only run one input, a file or the name of a kept one, without a fuzzer")
    parser.add_argument("--json", action="store_true", help="print reports as JSON")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}: expected some of {', '.join(TARGETS)}")
    names = options.targets or TARGETS
    if options.replay:
        data = corpus.kept_inputs(names[0]).get(options.replay) or Path(options.replay).read_bytes()
        importlib.import_module("fuzz.targets").TARGETS[names[0]](data)
        return
    if options.seeds:
        for name in names:
            add_seeds(name)
        return
    reports = [run(name, runs=options.runs, seconds=options.seconds, keep=options.keep) for name in names]
    if options.json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
    else:
        for report in reports:
            print(f"{report.target}: {report.runs} inputs in {report.seconds} s, {len(report.crashes)} crashes {' '.join(report.crashes)}")
    sys.exit(any(report.crashes for report in reports))


if __name__ == "__main__":
    main()
