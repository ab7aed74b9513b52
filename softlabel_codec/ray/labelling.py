"""`label_images`: a teacher labels the images of a Ray Dataset, on all nodes of a cluster."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.metadata import Description, difference
from softlabel_codec.errors import ArgumentError, SoftLabelError
from softlabel_codec.images.sources.keys import KeyList
from softlabel_codec.label_set.index_file import SUFFIX, SetIndex
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.ray.folders import SharedFolder
from softlabel_codec.ray.joining import asked_for, write_shards
from softlabel_codec.ray.parts import PARTS_SUFFIX, Part, PartsDatasink, description_of_parts, read_parts
from softlabel_codec.ray.teaching import PartLabeller, describe
from softlabel_codec.teacher.finished import NOT_COMPARED
from softlabel_codec.teacher.reports import EncodeReport, SetProgress

KEY, IMAGES = "key", ("bytes", "image")
"""Columns of a dataset: the key of each image, and what it is: the bytes of its file, or a uint8 array."""
CROPS_PER_PART = 2**16
"""Crops that a teacher labels at a time, and that are labelled again if it is killed: a few seconds of a GPU."""
DEFAULT_CODEC = "marginal_smoothing:k=5"
logger = logging.getLogger(__name__)


def label_images(
    dataset: ray.data.Dataset,
    out: str | os.PathLike[str],
    teacher: str | Sequence[str],
    *,
    shards: int = 1,
    concurrency: int = 1,
    num_gpus: float = 0,
    filesystem: Any = None,
    **options: Any,
) -> EncodeReport:
    """Label the crops of all images of a Ray Dataset, and make a label set of the labels.

    To continue an interrupted run, call this again with the same arguments: images are known by their keys, and those that
    have labels are not labelled again. The shards do not depend on how many actors there were, nor on the blocks of the dataset:
    images are in the order of their keys, as in a folder of images. They have the same bytes as those that `encode` makes of the same
    images on the same device and versions, if no two images share a batch of the teacher (`batch_size` < 2 `crops`); otherwise the
    last bits of labels may differ, because they may depend on the batch.

    Parameters
    ----------
    dataset : ray.data.Dataset
        Images, with the columns `key` (str), unique, and `bytes`, those of image files, or `image`, uint8 arrays (H, W, 3) or (H, W).
    out : path or URL
        Folder of the set, which gives it its name. All nodes must be able to write there.
    teacher : str, or sequence of str
        As for `EncodeConfig`, also several. All nodes must be able to load it.
    shards : int
        Number of shards.
    concurrency : int
        Number of actors, each with a teacher.
    num_gpus : float
        GPUs of each. Each also takes a CPU, and one for each of its `workers`; others are needed to read the dataset and to write.
    filesystem : pyarrow.fs.FileSystem or fsspec file system, optional
        Where `out` is a path, if not on the file system of the nodes.
    **options
        Those of `EncodeConfig`, but for `crops_of`. The codec cannot be `auto` and is `marginal_smoothing:k=5` by default.

    Returns
    -------
    EncodeReport
        Whose `path` is that of the index.

    Raises
    ------
    ArgumentError, LimitError
        If an argument is not as described, the dataset has other columns, or is empty.
    MismatchError
        If two images have the same key, an unfinished set was started with other options, or as for `encode`.
    FileExistsError
        If the set exists, was made with other options, and `overwrite` is not set.
    OSError
        As for `encode`. Labels so far are kept.
    """
    started = time.monotonic()
    config = EncodeConfig("", os.fspath(out), teacher, shards=shards, **{"codec": DEFAULT_CODEC, **options})
    if config.is_auto:
        advice = "Choose one with softlabel_codec.choose_codec, or by `slcodec encode` of some images"
        raise ArgumentError(
            f"codec: expected a codec string, as images of a Ray Dataset are not at hand to choose one by, got 'auto'. {advice}"
        )
    if config.crops_of is not None:
        raise ArgumentError("crops_of: expected None, as crops of a Ray Dataset are drawn. Label stored crops with `slcodec encode`")
    if config.shard is not None:
        raise ArgumentError(f"shard: expected None, as all shards are made together, got {config.shard!r}")
    if config.work is not None:
        raise ArgumentError(f"work: expected None, as what is not finished is kept beside the set, got {config.work!r}")
    actors = _Actors(check_whole("concurrency", concurrency, 1), 1 + config.workers, num_gpus)
    folder = SharedFolder.open(out, filesystem)
    with _own_errors():
        rows = _Rows.of(dataset)
        said, crops_per_image = ray.get(ray.remote(describe).options(**actors.each).remote(config, rows.first))
        found = None if config.overwrite else _made_before(folder, said, shards)
        if found is not None:
            return _report(folder, found, found.num_images, {}, started, finished_before=True)
        parts_in = folder.within(folder.name + PARTS_SUFFIX)
        before = read_parts(parts_in, [], said, config.overwrite)
        resumed = sum(len(part.keys) for part in before)
        logger.info("%s: labelling%s", folder, f", {counted(resumed, 'image')} were labelled by an earlier run" if resumed else "")
        actors.label(rows.without_labels(before), PartsDatasink(parts_in), crops_per_image, (config, rows.first, rows.column, said))
        parts = read_parts(parts_in, before, said, config.overwrite)
        index, skipped = _join(folder, parts_in, parts, said, shards)
    folder.write(folder.name + SUFFIX, index.pack())
    parts_in.remove_all()
    logger.info("%s: finished with %s in %s", folder, counted(index.num_images, "image"), counted(shards, "shard"))
    return _report(folder, index, resumed, dict.fromkeys(skipped, "could not be read"), started)


@dataclass(frozen=True)
class _Actors:
    """The actors of a run: how many, and how many processors and GPUs each takes."""

    count: int
    num_cpus: int
    num_gpus: float

    @property
    def each(self) -> dict[str, float]:
        """What each takes, as Ray calls it."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}

    def label(self, rows: ray.data.Dataset, sink: PartsDatasink, crops_per_image: int, arguments: tuple[Any, ...]) -> None:
        """Label the images of a dataset, and write parts."""
        there = int(ray.cluster_resources().get("CPU", 0))
        if there <= self.count * self.num_cpus:
            what = f"{counted(self.count, 'actor')} of {counted(self.num_cpus, 'CPU')} leave none to read images and to write"
            warnings.warn(f"the cluster has {counted(there, 'CPU')}: {what}. If it does not grow, this waits forever", stacklevel=3)
        images_per_part = max(1, CROPS_PER_PART // crops_per_image)
        due = rows.repartition(target_num_rows_per_block=images_per_part)
        with _errors_kept(due.context):
            due.map_batches(
                PartLabeller,
                batch_size=images_per_part,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=self.count),
                fn_constructor_args=arguments,
                **self.each,
            ).write_datasink(sink)


@dataclass(frozen=True)
class _Rows:
    """A dataset with images: the column that holds them, and the first by its key."""

    dataset: ray.data.Dataset
    column: str
    first: dict[str, Any]

    @classmethod
    def of(cls, dataset: ray.data.Dataset) -> _Rows:
        """Return a dataset as it is labelled; ArgumentError if it holds no images."""
        rows = dataset.take(1)
        if not rows:
            raise ArgumentError("dataset: expected images, found none")
        (row,) = rows
        column = next((name for name in IMAGES if name in row), None)
        if KEY not in row or column is None:
            raise ArgumentError(f"dataset: expected columns {KEY!r} and {' or '.join(map(repr, IMAGES))}, got {', '.join(map(repr, row))}")
        return cls(dataset.select_columns([KEY, column]), column, {row[KEY]: row[column]})

    def without_labels(self, parts: Sequence[Part]) -> ray.data.Dataset:
        """Return the rows whose images are in none of these parts."""
        keys = [key.as_py().decode() for part in parts for key in part.keys]
        if not keys:
            return self.dataset
        return self.dataset.map_batches(_drop, batch_format="pyarrow", fn_kwargs={"labelled": ray.put(KeyList(keys, "parts"))})


def _join(
    folder: SharedFolder, parts_in: SharedFolder, parts: Sequence[Part], said: Description, shards: int
) -> tuple[SetIndex, list[str]]:
    """Write the shards of what is in parts; return the index, and the keys of images that could not be read."""
    asked = asked_for(parts_in, parts)
    if not asked.labelled.any():
        raise OSError(f"the Ray Dataset: none of {counted(len(asked), 'image')} could be read")
    said = description_of_parts(said, asked.described())
    if folder.name + SUFFIX in folder.files():
        folder.remove(folder.name + SUFFIX)
    made = write_shards(folder, parts_in, parts, asked, said, shards)
    return SetIndex(said, tuple(made), said.metadata["crops_per_image"]), asked.skipped_keys()


def _drop(rows: pa.Table, labelled: Any) -> pa.Table:
    keys: KeyList = ray.get(labelled)
    return rows.filter(pa.array([key not in keys for key in rows[KEY].to_pylist()], pa.bool_()))


def _made_before(folder: SharedFolder, said: Description, shards: int) -> SetIndex | None:
    """Return the index of a finished set that these options would make, if it is there; FileExistsError if another one is."""
    names = folder.files()
    if folder.name + SUFFIX in names:
        return _made_alike(folder, said, shards)
    shape = re.compile(rf"{re.escape(folder.name)}-\d+-of-\d+\.slc")
    found = next(filter(shape.fullmatch, names), None)
    if found is not None and not folder.within(folder.name + PARTS_SUFFIX).exists():
        what = "is of a label set that was not begun on Ray. Finish that, or pass overwrite=True to replace it"
        raise FileExistsError(errno.EEXIST, what, f"{folder}/{found}")
    return None


def _made_alike(folder: SharedFolder, said: Description, num_shards: int) -> SetIndex:
    """Return the index of a finished set if a run with these options would make it; FileExistsError if not."""
    index = SetIndex.unpack(folder.read(folder.name + SUFFIX))
    found, wanted = (_compared(description) for description in (index.description, said))
    differs = f"shards: expected {num_shards}, found {len(index.shards)}" if len(index.shards) != num_shards else None
    if found != wanted or differs:
        what = f"the set exists and was made with other options: {differs or difference(found, wanted)}. Pass overwrite=True to replace it"
        raise FileExistsError(errno.EEXIST, what, str(folder))
    logger.info("%s: finished before, with the same options: %s", folder, counted(index.num_images, "image"))
    return index


def _compared(description: Description) -> Description:
    left_out = {*NOT_COMPARED, "images"}
    metadata: Mapping[str, Any] = description.metadata
    return replace(description, metadata={name: value for name, value in metadata.items() if name not in left_out}, other={})


def _report(
    folder: SharedFolder,
    index: SetIndex,
    resumed: int,
    skipped: dict[str, str],
    started: float,
    *,
    finished_before: bool = False,
) -> EncodeReport:
    num_bytes, seconds = sum(shard.bytes for shard in index.shards), time.monotonic() - started
    path, shards = f"{folder}/{folder.name}{SUFFIX}", len(index.shards)
    label_set = SetProgress(True, shards, [] if finished_before else list(range(shards)), {}, [])
    crops_per_image = index.description.metadata["crops_per_image"]
    return EncodeReport(path, index.num_images, resumed, crops_per_image, skipped, [], num_bytes, seconds, finished_before, label_set)


@contextmanager
def _errors_kept(context: ray.data.DataContext) -> Iterator[None]:
    """Let Ray raise errors of actors as they are; otherwise only their text is left."""
    before, context.raise_original_map_exception = context.raise_original_map_exception, True
    try:
        yield
    finally:
        context.raise_original_map_exception = before


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise errors of this package, and of input and output, as they were raised on the cluster, not as Ray wraps them."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, SoftLabelError | OSError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise
