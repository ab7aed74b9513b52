"""`compare`: train the same student from several label sources and seeds, and see whether it is as good and what the labels cost."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.train_config import ONLINE, WHERE_IT_RUNS, TrainConfig
from softlabel_codec.trainer.classes import read_class_folders
from softlabel_codec.trainer.loop import RESULT, train
from softlabel_codec.trainer.memory import ImageMemory
from softlabel_codec.trainer.outcome import Cell, CompareReport, draw_comparison, make_report
from softlabel_codec.trainer.quality import label_quality

Progress = Callable[[int, int], None]
TABLE, PICTURE, RUNS = "compare.json", "compare.png", "runs"
_OF_FRESH_CROPS = ("scale", "ratio", "flip_probability")
_OF_LABELS = (*_OF_FRESH_CROPS, "mean", "std", "interpolation", "temperature")


def compare(
    sources: Mapping[str, str],
    out: str | Path,
    options: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    reference: str | None = None,
    margin: float = 0.5,
    vary: Mapping[str, Sequence[Any]] | None = None,
    progress: Progress | None = None,
) -> CompareReport:
    """Train a student from each source with each seed, and say how they compare. What was trained before is not trained again.

    Parameters
    ----------
    sources : mapping of str to str
        Label sources by name, as `TrainConfig.labels` takes them.
    out : path
        Folder for the runs, the table (`compare.json`) and the picture (`compare.png`).
    options : mapping
        What else `TrainConfig` takes, `images` and `val` at least. Fresh crops and preprocessing of sources without stored crops are
        those of the first label file, unless given.
    seeds : sequence of int
        One run each.
    reference : str, optional
        Name of the source that the others are compared with; by default the first.
    margin : float
        What difference in points would not matter.
    vary : mapping of str to sequence, optional
        Options and the values that each is to have, all combinations: `{"crops_per_image": [1, 2, 4]}`.
    progress : callable, optional
        Called with training steps done and in all of all runs.

    Raises
    ------
    ArgumentError
        If there is nothing to compare, or an option is unknown or wrong.
    MismatchError
        If runs of other options are in the folder.
    """
    if not sources or not seeds:
        raise ArgumentError("a comparison needs at least one source and one seed")
    reference = reference or next(iter(sources))
    if reference not in sources:
        raise ArgumentError(f"reference: expected one of {', '.join(sources)}, got {reference!r}")
    if not options.get("val"):
        raise ArgumentError("val: a comparison needs validation images")
    if len({_file_name(name) for name in sources}) < len(sources):
        raise ArgumentError(f"two sources would have folders of the same name: {', '.join(sources)}")
    cells = list(_plan(sources, Path(out), options, seeds, vary or {}))
    configs = [config for cell in cells for config in cell.configs]
    unfinished = [config for config in configs if _result(config) is None]  # before the first run begins
    memory = ImageMemory()
    for number, config in enumerate(unfinished):
        train(config, _part_of(progress, number, len(unfinished)), memory)
    finished = [Cell(cell.name, cell.varied, {config.seed: _result(config) or {} for config in cell.configs}) for cell in cells]
    order = read_class_folders(options["classes"]) if options.get("classes") else ()
    quality = label_quality(sources, str(options["images"]), order)
    report = make_report(finished, sources, quality, options, reference, margin)
    (Path(out) / TABLE).write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    draw_comparison(report, Path(out) / PICTURE)
    return report


@dataclass(frozen=True)
class _Planned:
    """A row whose runs are described."""

    name: str
    varied: dict[str, Any]
    configs: list[TrainConfig]


def _plan(
    sources: Mapping[str, str], out: Path, options: Mapping[str, Any], seeds: Sequence[int], vary: Mapping[str, Sequence[Any]]
) -> Iterator[_Planned]:
    """Yield all rows, each run described; so a wrong option is an error before the first run begins."""
    of_labels = _options_of_labels(sources)
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        for name, labels in sources.items():
            configs = []
            for seed in seeds:
                folder = out / RUNS / "-".join([_file_name(name), *(f"{key}={value}" for key, value in varied.items()), f"seed={seed}"])
                given = {**options, **varied, "labels": labels, "seed": seed, "out": str(folder), "resume": True}
                configs.append(TrainConfig.from_mapping(_fitting(given, of_labels, labels)))
            yield _Planned(name, varied, configs)


def _options_of_labels(sources: Mapping[str, str]) -> dict[str, Any]:
    """Return how crops were drawn and prepared for the first label file, as far as it says."""
    for labels in sources.values():
        if labels.endswith(".slc"):
            with SoftLabelReader(labels) as reader:
                said, sampler = reader.metadata, reader.sampler
            crops = _mapping(said.get("crop_sampler")) if sampler is None else sampler.describe()
            known = {**crops, **_mapping(said.get("preprocessing")), "temperature": said.get("temperature")}
            return {name: known[name] for name in _OF_LABELS if known.get(name) is not None}
    return {}


def _fitting(given: dict[str, Any], of_labels: Mapping[str, Any], labels: str) -> dict[str, Any]:
    """Return the options of a run without those that its source has no use for."""
    stored, online = labels.endswith(".slc"), labels == ONLINE
    useless = {*(_OF_FRESH_CROPS if stored else ("stored_crops", "policy")), *(() if online else ("teacher",))}
    defaults = {name: value for name, value in of_labels.items() if not stored and (online or name != "temperature")}
    return {name: value for name, value in {**defaults, **given}.items() if name not in useless}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "._=" else "-" for char in name)


def _part_of(progress: Progress | None, number: int, runs: int) -> Progress | None:
    """Return what a run may call with its own steps, so that `progress` learns about those of all runs."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, runs * total)


def _result(config: TrainConfig) -> dict[str, Any] | None:
    """Return the result of a run; None if it is not finished.

    Raises
    ------
    MismatchError
        If it is that of other options or labels.
    """
    path = Path(config.out) / RESULT
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    for name, wanted in config.to_mapping().items():
        if name not in WHERE_IT_RUNS and found["config"].get(name) != wanted:
            expected = f"expected {name}={wanted!r}, got {found['config'].get(name)!r}"
            raise MismatchError(f"{config.out}: a run of other options: {expected}. Use another folder, or remove this one")
    if config.labels.endswith(".slc"):
        with SoftLabelReader(config.labels) as reader:
            if reader.fingerprint != found["labels"]:
                raise MismatchError(f"{config.out}: a run with another {config.labels}. Use another folder, or remove this one")
    return found
