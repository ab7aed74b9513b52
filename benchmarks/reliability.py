"""Try to break it, at length, and write the report: python -m benchmarks.reliability [SECTION ...], or `make reliability`.

Without sections all are tried that the installed packages allow, which takes two to three hours on two cores: `ray` and `storage` need the
environment of `make test-many`. `--brief` tries a hundredth of it and keeps nothing.
The figures of each section go to `results/reliability.json` as soon as it is done, with date and machine, and `RELIABILITY.md` is made of
them. Whatever does not hold is an error, and the section keeps its old figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure.common import circumstances
from benchmarks.report.reliability import PAGE, RESULT, render, rows_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # where what is tried is defined: the tests try the same, in small
FULL, BRIEF = 1.0, 0.01
MUTANTS_PER_MODULE = 25
_PACKAGES = ("softlabel_codec", "numpy", "zstandard", "torch")


def _vectors(folder: Path, scale: float) -> dict[str, Any]:
    from vectors import invalid, valid

    tests = [str(ROOT / "tests" / name) for name in ("test_vectors.py", "test_minimal_reader.py")]
    subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {
        "valid files": len(valid.NAMES),
        "invalid files, to be refused by every reader": len(invalid.REFUSED),
        "invalid files, to be found by every verifier": len(invalid.FOUND_BY_VERIFIERS),
        "unfinished files": len(invalid.UNFINISHED),
        "damaged files, to be recovered": len(invalid.DAMAGED),
    }


def _damage(folder: Path, scale: float) -> dict[str, Any]:
    import damage

    corpus = damage.write_corpus(folder)
    return {
        "every single bit flipped": damage.flip_bits(corpus if scale == FULL else corpus[:1], folder),
        "cut off at every length": damage.truncate(corpus, folder),
        "random splices": damage.splice(corpus, folder, count=round(4000 * scale)),
        "blocks swapped, repeated, foreign": damage.rearrange_blocks(corpus[1], corpus[2], folder),
    }


def _fuzzing(folder: Path, scale: float) -> dict[str, Any]:
    from fuzz.run import TARGETS, run

    found = {}
    for target in TARGETS:
        found[target] = run(target, seconds=100 * scale, keep=scale == FULL)
        if found[target].crashes:
            sys.exit(f"{target}: inputs that must not do what they do: {', '.join(found[target].crashes)}")
    return found


def _crashes(folder: Path, scale: float) -> dict[str, Any]:
    import crashes

    def within(name: str) -> Path:
        return _new(folder, name)

    return {
        "writers killed at random": crashes.random_kills(within("killed"), round(1000 * scale)),
        "writers interrupted at random": crashes.random_kills(within("interrupted"), round(300 * scale), signal_number=signal.SIGINT),
        "writers killed at every system call": crashes.kills_at_every_call(within("calls")),
        "recover killed at every system call": {"kills": crashes.recover_kills_at_every_call(within("recover"))},
        "slcodec encode killed at random": crashes.encode_kills(within("encode"), max(1, round(50 * scale))),
        "faults of the disk at every system call": crashes.faults_at_every_call(within("faults")),
        "a disk that is full": crashes.full_disk(within("full"), round(400 * scale)),
        "writes lost in a power failure": crashes.power_failures(within("power"), round(1000 * scale)),
        "several writers at once": crashes.rivals(within("rivals"), round(200 * scale)),
        "replaced while it is read": crashes.replaced_under_readers(within("replaced"), round(500 * scale)),
    }


def _workers(folder: Path, scale: float) -> dict[str, Any]:
    import crashes

    def within(name: str) -> Path:
        return _new(folder, name)

    kills, clocks, full = (max(1, round(count * scale)) for count in (200, 100, 60))
    return {
        "workers killed and stopped at random": crashes.kills_of_workers(within("killed"), kills),
        "the same, and no clock agrees with another, killed": crashes.kills_of_workers(within("clocks"), clocks, clocks_differ=True),
        "the disk of one worker is full": crashes.full_disk_of_one(within("full"), full),
    }


def _ray(folder: Path, scale: float) -> dict[str, Any]:
    import ray_kills

    drivers, actors = (max(1, round(count * scale)) for count in (10, 10))
    with ray_kills.two_nodes() as nodes:
        desk = ray_kills.write_desk(_new(folder, "desk"))
        return {
            "drivers killed at random": ray_kills.kills_of_drivers(nodes, desk, _new(folder, "drivers"), drivers),
            "actors killed at random": ray_kills.kills_of_actors(desk, _new(folder, "actors"), actors),
        }


def _storage(folder: Path, scale: float) -> dict[str, Any]:
    import remote

    openings, sets, damaged = (max(2, round(count * scale)) for count in (400, 30, 400))
    with remote.s3_store() as s3, remote.web_store(_new(folder, "served")) as web:
        return {
            "sets read from S3, answers fail": remote.read_through_faults(s3, _new(folder, "s3"), openings),
            "sets read over HTTP, answers fail": remote.read_through_faults(web, _new(folder, "http"), openings),
            "sets made in a bucket, requests fail": remote.upload_through_faults(s3, _new(folder, "uploads"), sets),
            "objects damaged in the bucket": remote.damaged_objects(s3, _new(folder, "damaged"), damaged),
        }


def _load(folder: Path, scale: float) -> dict[str, Any]:
    import load

    reads = round(10**6 * scale)
    workers = {
        f"16 DataLoader workers, {method}": load.worker_reads(_new(folder, method), max(10240, reads), method)
        for method in load.START_METHODS
    }
    return {
        **workers,
        "8 threads": load.thread_reads(_new(folder, "threads"), reads),
        "a file above 4 GiB": load.large_file(_new(folder, "large")) if scale == FULL else load.holes_before_the_end(folder),
        "ten million images, keys in no order": load.many_images(_new(folder, "many"), round(10**7 * scale)),
        "ten million images, ascending keys": load.many_images(_new(folder, "ascending"), round(10**7 * scale), ascending=True),
    }


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _mutation(folder: Path, scale: float) -> dict[str, Any]:
    from mutation.kill_mutants import run

    report = run(workers=2, sample=MUTANTS_PER_MODULE if scale == FULL else 3)
    return {one.module: dataclasses.asdict(one) for one in (*report.modules, report.total)}


def _coverage(folder: Path, scale: float) -> dict[str, Any]:
    chosen = [] if scale == FULL else ["tests/test_codec.py"]
    report = folder / "coverage.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        *chosen,
        "--cov=softlabel_codec",
        "--cov-branch",
        f"--cov-report=json:{report}",
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    files = json.loads(report.read_text())["files"]
    core = ("container/framing.py", "container/zstd_frames.py", "block/", "quantise/")
    of_core = [found["summary"] for name, found in files.items() if name.removeprefix("softlabel_codec/").startswith(core)]
    return {
        "lines of the package run by tests, %": _share([found["summary"] for found in files.values()], "covered_lines", "num_statements"),
        "branches of framing, packing and quantising run by tests, %": _share(of_core, "covered_branches", "num_branches"),
    }


def _share(summaries: list[dict[str, int]], part: str, whole: str) -> float:
    return round(100 * sum(found[part] for found in summaries) / sum(found[whole] for found in summaries), 2)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report: what it tries, and what must hold; `needs` names packages that only the environment of test-many has."""

    title: str
    text: str
    measure: Callable[[Path, float], dict[str, Any]]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """What is not installed, and what to do; empty if nothing is missing."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        advice = "use the environment of `make test-many`"
        return f"needs {', '.join(missing)}, not installed here: {advice}" if missing else ""


SECTIONS = {
    "vectors": Section(
        "Conformance",
        "Test vectors of [spec/conformance-v1.md](../spec/conformance-v1.md), which both readers, the package and the independent one of "
        "the tests, read or refuse as the table there says. Each invalid file has one defect.",
        _vectors,
    ),
    "damage": Section(
        "Damage",
        "Small files of every codec family and crop mode. A reader that reads everything must refuse each damaged file with the error that "
        "belongs to the place, naming it, or find exactly what was written; `verify` must find every one and say where. Where one block is "
        "damaged, the images of all others must come out unharmed. After each flipped bit, also of header and metadata, "
        "`recover` must bring back every image of the blocks that are not damaged themselves.",
        _damage,
    ),
    "fuzzing": Section(
        "Fuzzing",
        "Coverage-guided (atheris), each target from its kept corpus, each input in a process that may map 512 MiB more than before it. An "
        "input must not raise anything but the errors of the package, nor take more than a second of processor time. `whole_file` joins "
        "mutated parts behind recomputed checksums, does all that can be done with a file, and compares with the independent reader.",
        _fuzzing,
    ),
    "crashes": Section(
        "Crashes",
        "After each, a reader must refuse the unfinished file with a clear message, `recover` give exactly the whole blocks that were "
        "written, and a continued run end with the bytes of an unbroken one. (Where a power failure lost writes in front of whole blocks, "
        "the run must be refused, and continue from what `recover` keeps.) `runs` counts what ended early; `states` how far it had come: "
        "before the file there is nothing to recover, after the rename nothing left to do, and a file that is complete and only "
        "lacks its name can be read. A third of the random kills fall while the writer finishes, which a slow disk (1 ms for each call) "
        "draws out for them. `slcodec encode` is continued by the same command: its `finished files` have the bytes of an unbroken run.",
        _crashes,
    ),
    "workers": Section(
        "Workers of a label set",
        "Three workers make one set together. One after another is killed, or stopped for so long that it loses its lock, and others take "
        "their places. `finished sets` have the bytes of a set that one worker made, and nothing is left beside them. Every second set is "
        "made by workers that cannot see whether the others live, as on several machines. No worker may lose its lock (`lost`) that was "
        "not stopped, whatever its clock and those of others say: they are a minute to twelve hours ahead or behind, and set to another "
        "time during the work. In the last row one worker of three cannot make files longer than a random length; it must fail with "
        "an error that names the file, and what it has written is continued.",
        _workers,
    ),
    "ray": Section(
        "Drivers and actors of Ray's",
        "A cluster of two nodes labels images. Drivers are killed after a random number of parts and some time, and the same is run again, "
        "beside a part that is cut off, one that is there twice, and a part of a shard; actors are killed while their driver goes on. "
        "`finished sets` have the bytes of the labels that one process gives: no image twice, none missing, no other files.",
        _ray,
        ("ray",),
    ),
    "storage": Section(
        "Object storage and the network",
        "An S3 server and a web server of this machine, behind a proxy that delays answers, refuses (429, 500, 503), drops connections "
        "before or after it has done what was asked, cuts, shortens or lengthens bodies, flips bits, and sends other ranges, whole files, "
        "or what was there before. Every read is right or an error that names the file, and no reader mixes a set with the one that was "
        "there before. While two machines make a set in a bucket, every object there is whole, and there is an index only beside all "
        "shards. Damage in the bucket is a flipped bit, 16 random bytes, 512 zeros, a cut, or another object of the set in place of one: "
        "every read is right or an error that names the object, right if it needs nothing of a damaged shard; `verify` finds each.",
        _storage,
        ("moto", "s3fs"),
    ),
    "load": Section(
        "Load",
        "Every read is compared with what must be there. Memory is what workers hold for themselves, all together.",
        _load,
    ),
    "mutation": Section(
        "Mutation testing",
        "Framing, packing and quantising (`container/framing.py`, `container/zstd_frames.py`, `block/`, `quantise/`): small changes of the "
        f"code, {MUTANTS_PER_MODULE} of each module drawn at random or all that there are, of which the tests of these modules should "
        "notice all that change behaviour. Most survivors do the same as the original.",
        _mutation,
    ),
    "coverage": Section("Coverage", "What the tests run, of the whole package and of its core.", _coverage),
}


def measure(name: str, scale: float) -> dict[str, Any]:
    """Return the figures of a section, and when and where they were obtained."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = _plain(SECTIONS[name].measure(Path(folder), scale))
    packages = (*_PACKAGES, *SECTIONS[name].needs)
    return {**circumstances(packages), "seconds": round(time.perf_counter() - started), "figures": figures}


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def main() -> None:
    """Try, keep the figures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--brief", action="store_true", help="a hundredth of everything, printed and not kept")
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        if SECTIONS[name].missing:
            said = f"{name}: {SECTIONS[name].missing}"
            if options.sections:
                parser.error(said)
            print(f"{said}. Left out", file=sys.stderr)
            continue
        found = measure(name, BRIEF if options.brief else FULL)
        print(f"{name}: {found['seconds']} s", file=sys.stderr)
        if options.brief:
            print("\n".join(f"{what}: {value}" for what, value in rows_of(found["figures"])))
            continue
        results = {**(json.loads(RESULT.read_text()) if RESULT.exists() else {}), name: found}
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(render(results, SECTIONS))


if __name__ == "__main__":
    main()
