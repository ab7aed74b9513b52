"""Try to break it, at length, and write the report: python -m benchmarks.reliability [SECTION ...], or `make reliability`.

Without sections all are tried, which takes two to three hours on two cores; `--brief` tries a hundredth of it and keeps nothing.
The figures of each section go to `results/reliability.json` as soon as it is done, with date and machine, and `RELIABILITY.md` is made of
them. Whatever does not hold is an error, and the section keeps its old figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure.common import RESULTS, circumstances

ROOT = Path(__file__).resolve().parents[1]
RESULT, REPORT = RESULTS / "reliability.json", Path(__file__).with_name("RELIABILITY.md")
sys.path.insert(0, str(ROOT / "tests"))  # where what is tried is defined: the tests try the same, in small
FULL, BRIEF = 1.0, 0.01
MUTANTS_PER_MODULE = 25
_OUTCOMES = ("refused_unfinished", "recovered_exactly", "resumed_to_same_bytes", "failed", "succeeded", "images_beside", "unharmed")
"""Ways to end that not everything tried can end in: of these no zeros are reported."""


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

    return {"workers killed and stopped at random": crashes.kills_of_workers(folder, max(1, round(200 * scale)))}


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
    """A part of the report: what it tries, and what must hold."""

    title: str
    text: str
    measure: Callable[[Path, float], dict[str, Any]]


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
        "made by workers that cannot see whether the others live, as on several machines.",
        _workers,
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
    return {**circumstances(), "seconds": round(time.perf_counter() - started), "figures": figures}


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write(results: Mapping[str, Any]) -> None:
    """Write `RELIABILITY.md` from the figures of all sections."""
    parts = [
        "# How it fails\n",
        "Made by `make reliability` (`benchmarks/reliability.py`) from [results/reliability.json](results/reliability.json). The tests do "
        "the same in small; a figure stands here only if everything held that the text above it says.\n",
    ]
    parts += ["\n".join(["| at a glance | figure |", "|---|---|", *_at_a_glance(results), ""])]
    for name, section in SECTIONS.items():
        parts.append(f"## {section.title}\n\n{section.text}\n")
        if name not in results:
            parts.append("Not run yet.\n")
            continue
        found = results[name]
        machine = found["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
        parts.append(f"{found['date']}, {where}; {found['seconds']} s.\n")
        rows = [f"| {what} | {value} |" for what, value in _rows(found["figures"])]
        parts.append("\n".join(["| what | figure |", "|---|---|", *rows, ""]))
    parts += [_wrong_uses()]
    REPORT.write_text("\n".join(parts))


SILENT = "trained silently"
FOUND = "`check_against_teacher` finds it"
BY_NAME = f"`after_crop` refuses such transforms by name; {FOUND}"
BY_CHECKSUM = f"the dataset refuses the first such image, by its checksum; for arrays {FOUND}"
WRONG_USES = {
    "right": ("-", "passes"),
    "right, decoded at a part of the size": ("-", "passes"),
    "cropped and mirrored again": (SILENT, BY_NAME),
    "half of the crops mirrored": (SILENT, BY_NAME),
    "the middle cut out": (SILENT, BY_NAME),
    "normalised twice (timm's prefetcher)": (SILENT, FOUND),
    "normalised with ImageNet's mean, said to be the teacher's": (SILENT, f"the dataset warns of its default; {FOUND}"),
    "not normalised, said to be": (SILENT, FOUND),
    "interpolation bicubic": (SILENT, FOUND),
    "interpolation lanczos": (SILENT, FOUND),
    "interpolation hamming": (SILENT, FOUND),
    "interpolation box": (SILENT, FOUND),
    "interpolation nearest": (SILENT, FOUND),
    "another copy of the images, JPEG at quality 75": (SILENT, BY_CHECKSUM),
    "another copy of the images, JPEG at quality 95": (SILENT, BY_CHECKSUM),
    "other images under the same names": (SILENT, BY_CHECKSUM),
    "another temperature, 1.2 for 1": (SILENT, f"{FOUND}, except with `hard`, which does not depend on it"),
}
"""Of each wrong use, what happened before there was a check, and what happens now."""
NOT_SEEN_IN_PIXELS = (
    ("`set_epoch` forgotten, or unreachable", "the same N crops for ever", "other crops in each epoch"),
    ("N crops of an image at a time, where N does not divide M", "samples across a round held a crop twice", "no sample does"),
    ("MixUp or CutMix by rolling the batch", "75 % of the crops mixed with their own image", '`collate_crops(order="crop")`: none'),
    ("`transform=` as for an image folder", "cropped and mirrored twice", "refused, with what to use instead"),
    ("an image drawn twice in an epoch", "the same crops", "other crops"),
)


def _wrong_uses() -> str:
    """Return the section on labels that are used wrongly, from the figures of `wrong_uses.py`."""
    found = json.loads((RESULTS / "wrong-uses.json").read_text())
    codec = "marginal_smoothing:k=5"
    rows = []
    for what, (before, now) in WRONG_USES.items():
        figures = found["uses"][what][codec]
        assert figures["ok"] == what.startswith("right"), f"{what}: the check says {figures['reason']}"
        rows.append(f"| {what} | {before} | {figures['agreement']:.2f} | {figures['margin']:.3f} | {figures['difference']:.3f} | {now} |")
    return "\n".join(
        [
            "## Labels used wrongly\n",
            f"Made by `benchmarks/measure/wrong_uses.py` ([results/wrong-uses.json](results/wrong-uses.json)), {found['date']}: what a "
            f"loader delivers is shown to the teacher of the labels (`{codec}`, {found['num_crops']} crops of photographs). Agreement is "
            "that of the top classes; margin is by how much, in nats, the teacher prefers its own top class to the label's; difference is "
            "that of the top class's probability; means over crops. The tests have the same for other codecs.\n",
            "| use | before | agreement | margin | difference | now |",
            "|---|---|---:|---:|---:|---|",
            *rows,
            "",
            "What pixels and labels cannot show:\n",
            "| use | before | now |",
            "|---|---|---|",
            *(f"| {what} | {before} | {now} |" for what, before, now in NOT_SEEN_IN_PIXELS),
            "",
        ]
    )


def _at_a_glance(results: Mapping[str, Any]) -> list[str]:
    """Return the figures that people ask for first, of the sections that have been run."""
    figures = {name: found["figures"] for name, found in results.items()}
    rows = []
    if "damage" in figures:
        damage = figures["damage"]
        total, found = (sum(one[name] for one in damage.values()) for name in ("damaged", "found_by_verify"))
        bits = damage["every single bit flipped"]["damaged"]
        rows.append(("damaged files, of which `verify` found", f"{total:,} ({bits:,} of one flipped bit); {found:,}"))
    if "fuzzing" in figures:
        runs, crashes = (
            sum(found) for found in zip(*((one["runs"], len(one["crashes"])) for one in figures["fuzzing"].values()), strict=True)
        )
        rows.append(("inputs fuzzed; of them crashes, hangs, or beyond the limit of memory", f"{runs:,}; {crashes}"))
    if "crashes" in figures:
        rows.append(("processes killed or interrupted, all survived", f"{sum(_kills(figures['crashes'])):,}"))
    if "load" in figures:
        workers = [one for one in figures["load"].values() if "growth_bytes" in one]
        growth = [f"{one['growth_bytes'] / 1e6:+.1f} of {one['memory_bytes'][0] / 1e6:.0f} MB ({one['start_method']})" for one in workers]
        rows.append(("memory growth of 16 workers over a million reads", ", ".join(growth)))
    if "mutation" in figures:
        *_, total = figures["mutation"].values()
        rows.append(("mutants killed", f"{total['killed']:,} of {total['mutants']:,} ({total['killed'] / total['mutants']:.1%})"))
    if "coverage" in figures:
        rows.append(("coverage", "; ".join(f"{what}: {value:g}" for what, value in figures["coverage"].items())))
    return [f"| {what} | {value} |" for what, value in rows]


def _kills(figures: Any) -> Iterator[int]:
    """Yield the numbers of killed or interrupted runs, wherever they stand in the figures of the crashes."""
    for name, found in figures.items():
        if "killed" in name or "interrupted" in name:
            yield from _runs(found)


def _runs(found: Mapping[str, Any]) -> Iterator[int]:
    for name, value in found.items():
        if name in ("runs", "kills"):
            yield value
        elif isinstance(value, Mapping):
            yield from _runs(value)


def _rows(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and what is to be said of them: one row for each group of figures."""
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            yield before + name, _number(value)
        elif all(isinstance(item, Mapping) for item in value.values()) and "outcome" not in value:
            yield from _rows(value, f"{before}{name}: ")
        else:
            yield before + name, ", ".join(_said(value))


def _said(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of a group as words; of outcomes only those that there were."""
    for name, value in figures.items():
        words = name.replace("_", " ")
        if name in ("module", "target", "start_method", "signal"):  # said by what stands before
            continue
        if name == "outcome":
            yield from _said(value)
        elif isinstance(value, Mapping):
            yield f"{words}: " + "; ".join(f"{_number(item)} {kind}" for kind, item in value.items() if item)
        elif name == "memory_bytes":
            yield f"{min(value) / 1e6:,.1f} to {max(value) / 1e6:,.1f} MB"
        elif isinstance(value, list):
            yield f"{len(value)} {words}"
        elif isinstance(value, bool | str) or value is None:
            yield words if value is True else f"{words}: {value}"
        elif value or name not in _OUTCOMES:
            yield f"{_number(value)} {words}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def main() -> None:
    """Try, keep the figures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--brief", action="store_true", help="a hundredth of everything, printed and not kept")
    options = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in options.sections or SECTIONS:
        found = measure(name, BRIEF if options.brief else FULL)
        print(f"{name}: {found['seconds']} s", file=sys.stderr)
        if options.brief:
            print("\n".join(f"{what}: {value}" for what, value in _rows(found["figures"])))
            continue
        results[name] = found
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        write(results)


if __name__ == "__main__":
    main()
