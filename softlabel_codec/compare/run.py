"""`compare`: train the same student from several label sources with several seeds, and compare accuracy and cost of the labels."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabel_codec.checks.wording import counted
from softlabel_codec.compare.outcome import Cell, CompareReport, draw_comparison, make_report, need_libraries
from softlabel_codec.compare.quality import label_quality
from softlabel_codec.container.whole_files import read_result, write_json
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.options.averaging import texts_of
from softlabel_codec.options.train import OF_FRESH_CROPS, OF_RANDOM_CROPS, TrainConfig, check_names, is_stored, unused_options
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.students.factories import device_by_name
from softlabel_codec.teacher.load import source_of
from softlabel_codec.teacher.stored import teachers_with_shares
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.trainer.checkpoint import check_same_run
from softlabel_codec.trainer.draws import check_draws
from softlabel_codec.trainer.loop import RESULT, train
from softlabel_codec.trainer.setup import find_test_images, make_online_teachers, make_student, set_up
from softlabel_codec.views import NAME as ALL_VIEWS

Progress = Callable[[int, int], None]
TABLE, PICTURE, RUNS = "compare.json", "compare.png", "runs"
logger = logging.getLogger(__name__)
OF_A_RUN = ("labels", "out", "seed", "resume")
"""Options that a comparison sets for each run."""
_OF_TEACHERS = ("teacher_size", "teacher_shares", "average")
_OF_LABELS = (*OF_FRESH_CROPS, "mean", "std", "interpolation", "exif_orientation", "temperature", *_OF_TEACHERS)
_INSTEAD_OF = {
    **dict.fromkeys(OF_RANDOM_CROPS, ("all_views",)),
    "all_views": OF_RANDOM_CROPS,
    "padding": ("padding_mode", "fill"),
    "padding_mode": ("fill",),
}
"""Options that, if they are given, also take the place of others of the labels."""


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
    """Train a student from each source with each seed, and compare them. Finished runs are not repeated.

    Parameters
    ----------
    sources : mapping of str to str
        Label sources by name, as `TrainConfig.labels` takes them.
    out : path
        Folder for the runs, the table (`compare.json`) and the picture (`compare.png`).
    options : mapping
        Other options of `TrainConfig`, at least `images` and `val`. Fresh crops, padding, preprocessing and shares of as many teachers of
        sources without stored crops are those of the first label file, unless given.
        Shares are found by the teachers' names, if these are the same.
    seeds : sequence of int
        One run each.
    reference : str, optional
        Name of the source that the others are compared with; by default the first.
    margin : float
        Largest difference in points that is considered negligible.
    vary : mapping of str to sequence, optional
        Options and their values; all combinations are trained: `{"crops_per_image": [1, 2, 4]}`.
    progress : callable, optional
        Called with the number of training steps done and in all, over all runs.

    Raises
    ------
    ArgumentError, MismatchError, FormatError
        If there is nothing to compare, an option is unknown or wrong, sources do not label the same images, or runs with other options,
        labels or images are in the folder. Raised before any training.
    """
    reference = reference or next(iter(sources), "")
    _check_request(sources, options, seeds, reference, vary or {})
    need_libraries()
    cells = list(_plan(sources, Path(out), options, seeds, vary or {}))
    _check_cells(cells)
    quality = label_quality(sources, str(options["images"]), options.get("classes"))
    unfinished = [config for cell in cells for config in cell.configs if _result(config, cell) is None]  # before the first run begins
    memory = ImageMemory()
    before = sum(len(cell.configs) for cell in cells) - len(unfinished)
    logger.info("%s: %s to train, %d trained before", out, counted(len(unfinished), "student"), before)
    for number, config in enumerate(unfinished):
        train(config, _part_of(progress, number, len(unfinished)), memory)
    finished = [Cell(cell.name, cell.varied, {config.seed: _result(config, cell) or {} for config in cell.configs}) for cell in cells]
    report = make_report(finished, sources, quality, options, reference, margin)
    write_json(Path(out) / TABLE, dataclasses.asdict(report))
    draw_comparison(report, Path(out) / PICTURE)
    logger.info("%s: finished", out)
    return report


def _check_request(
    sources: Mapping[str, str], options: Mapping[str, Any], seeds: Sequence[int], reference: str, vary: Mapping[str, Sequence[Any]]
) -> None:
    check_names([*options, *vary])
    if not sources or not seeds:
        raise ArgumentError("a comparison needs at least one source and one seed")
    if reference not in sources:
        raise ArgumentError(f"reference: expected one of {', '.join(sources)}, got {reference!r}")
    for name in OF_A_RUN:
        if name in options or name in vary:
            raise ArgumentError(f"{name}: not allowed in a comparison, which sets it for each run")
    for name, values in {"seeds": seeds, **vary}.items():
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise ArgumentError(f"{name}: expected values that differ, got {list(values)}")
    if not options.get("val"):
        raise ArgumentError("val: a comparison needs validation images")
    if len({_file_name(name) for name in sources}) < len(sources):
        raise ArgumentError(f"two sources would have folders of the same name: {', '.join(sources)}")


@dataclass(frozen=True)
class _Planned:
    """A row with the configurations of its runs, and the fingerprints of their training and validation data."""

    name: str
    varied: dict[str, Any]
    configs: list[TrainConfig]
    fingerprints: dict[str, str]
    num_images: int


def _plan(
    sources: Mapping[str, str], out: Path, options: Mapping[str, Any], seeds: Sequence[int], vary: Mapping[str, Sequence[Any]]
) -> Iterator[_Planned]:
    """Yield all rows, with the configurations of their runs, set up as far as possible without training."""
    of_labels = _options_of_labels(sources)
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        for name, labels in sources.items():
            configs = []
            for seed in seeds:
                folder = out / RUNS / "-".join([_file_name(name), *(f"{key}={value}" for key, value in varied.items()), f"seed={seed}"])
                given = {**options, **varied, "labels": labels, "seed": seed, "out": str(folder), "resume": True}
                configs.append(TrainConfig.from_mapping(_fitting(given, of_labels, labels)))
            fingerprints, num_images = _try(configs[0])  # seeds make no difference to them
            yield _Planned(name, varied, configs, fingerprints, num_images)


def _try(config: TrainConfig) -> tuple[dict[str, str], int]:
    """Set up a run so that its errors are raised before any training; return fingerprints and number of images."""
    device = device_by_name(config.device)
    setup = set_up(config)
    num_images = len(setup.crops.keys)
    check_draws(config, num_images)
    make_student(config, setup, device)
    make_online_teachers(config, setup, device)
    images = find_test_images(config, setup)
    assert images is not None  # a comparison has validation images
    return {**setup.trained_on, "val": images.sha256()}, num_images


def _check_cells(cells: Sequence[_Planned]) -> None:
    """Raise MismatchError unless all sources label the same images: otherwise the accuracies say nothing about the labels."""
    firsts: dict[str, _Planned] = {}
    for cell in cells:
        first = firsts.setdefault(str(cell.varied), cell)
        if cell.fingerprints["images"] != first.fingerprints["images"]:
            counts = f"{counted(cell.num_images, 'image')}, {first.name!r} on {first.num_images}"
            advice = "Compare labels of the same images (and classes)"
            raise MismatchError(f"sources: {cell.name!r} would train on {counts}, and not the same ones. {advice}")


def _options_of_labels(sources: Mapping[str, str]) -> dict[str, Any]:
    """Return how crops were drawn and prepared for the first label file, as far as it is stored."""
    for labels in sources.values():
        if is_stored(labels):
            with SoftLabelReader(labels) as reader:
                said, sampler, padding = reader.metadata, reader.sampler, reader.padding
            crops = _mapping(said.get("crop_sampler")) if sampler is None else sampler.describe()
            if crops.get("name") == ALL_VIEWS:
                crops = {"all_views": _side_of_views(crops, labels, sources)}
            added = {"padding": padding.pixels, "padding_mode": padding.mode, "fill": padding.describe().get("fill")} if padding else {}
            fresh = {**dict.fromkeys(OF_FRESH_CROPS), **crops, **added}
            prepared, teachers = _mapping(said.get("preprocessing")), _of_teachers(said)
            known = {**prepared, **teachers, **fresh, "temperature": said.get("temperature")}
            return {name: known[name] for name in _OF_LABELS if known.get(name) is not None}
    return {}


def _of_teachers(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return how metadata say that teachers labelled: the size of crops of one, or how several were averaged."""
    teacher = _mapping(said.get("teacher"))
    each = teachers_with_shares(teacher)
    if len(each) < 2:
        return {"teacher_size": _mapping(said.get("preprocessing")).get("size")}
    return {"teacher_shares": [(str(one.get("source")), one["share"]) for one in each], "average": teacher.get("average")}


def _side_of_views(views: Mapping[str, Any], labels: str, sources: Mapping[str, str]) -> Any:
    """Return height and width of all views of a label file; MismatchError if fresh crops of other sources cannot be such views."""
    height, width, flips = (views.get(name) for name in ("height", "width", "flips"))
    fresh = [name for name, source in sources.items() if not is_stored(source)]
    if fresh and (height != width or flips is not True):
        drawn = f"{fresh[0]!r} can only be trained on square views, as they are and mirrored"
        stored = f"the labels in {labels} are of views of {height} x {width} pixels (height x width), flips={flips}"
        raise MismatchError(f"sources: {drawn}; {stored}. Compare label files only")
    return height


def _fitting(given: dict[str, Any], of_labels: Mapping[str, Any], labels: str) -> dict[str, Any]:
    """Return the options of a run that apply to its source."""
    defaults, unused = {} if is_stored(labels) else of_labels, unused_options(labels)
    replaced = {other for name, value in given.items() if value is not None for other in _INSTEAD_OF.get(name, ())}
    kept = {name: value for name, value in defaults.items() if name not in replaced}
    teachers = () if given.get("teacher") is None else texts_of("teacher", given["teacher"])
    stored = kept.get("teacher_shares", ())
    if max(1, len(teachers)) != max(1, len(stored)):
        kept = {name: value for name, value in kept.items() if name not in _OF_TEACHERS}
    elif stored:
        kept["teacher_shares"] = _shares_of(teachers, stored)
    return {name: value for name, value in {**kept, **given}.items() if name not in unused}


def _shares_of(teachers: Sequence[str], stored: Sequence[tuple[str, float]]) -> list[float]:
    """Return the shares of teachers in their order, given source and share of as many: by source, or in order if they are others."""
    sources = list(map(source_of, teachers))
    if sorted(sources) != sorted(source for source, _ in stored):
        return [share for _, share in stored]
    shares = {source: iter([share for other, share in stored if other == source]) for source in sources}
    return [next(shares[source]) for source in sources]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "._=" else "-" for char in name)


def _part_of(progress: Progress | None, number: int, runs: int) -> Progress | None:
    """Return a progress function for one run that reports the steps of all runs to `progress`."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, runs * total)


def _result(config: TrainConfig, cell: _Planned) -> dict[str, Any] | None:
    """Return the result of a run; None if it is not finished, or was validated with other images.

    Raises
    ------
    MismatchError
        If it has other options, labels or images.
    """
    found = read_result(Path(config.out) / RESULT)
    if found is None:
        return None
    check_same_run(Path(config.out), found, config, cell.fingerprints)
    return found if found.get("val") == cell.fingerprints["val"] else None
