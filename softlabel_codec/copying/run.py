"""`copy_labels`: copies label files and sets in another arrangement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE, MAX_SHARDS
from softlabel_codec.codec import Codec
from softlabel_codec.copying.belonging import Changes
from softlabel_codec.copying.copier import Copier
from softlabel_codec.copying.dividing import ByNumber, BySize, Division, OneFile
from softlabel_codec.copying.output import destination
from softlabel_codec.copying.selection import Selection
from softlabel_codec.copying.sources import Source, find_sources
from softlabel_codec.copying.survey import survey
from softlabel_codec.errors import ArgumentError
from softlabel_codec.storage.location import Url, path_to_write

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CopyReport:
    """The result of `copy_labels`.

    Attributes
    ----------
    path : str
        The file, or the folder of the set, that was written.
    codec : str
        Its codec.
    num_images, num_crops : int
        Contents of it.
    num_files : int
        Number of files; of a set, without the index.
    copied_blocks, decoded_blocks : int
        Blocks of the sources that were copied as they are, and that were decoded because something in them changes.
    num_bytes : int
        Bytes of the files together.
    seconds : float
        Time taken.
    """

    path: str
    codec: str
    num_images: int
    num_crops: int
    num_files: int
    copied_blocks: int
    decoded_blocks: int
    num_bytes: int
    seconds: float


def copy_labels(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    shards: int | None = None,
    shard_bytes: int | None = None,
    keys: Iterable[str] | None = None,
    match: str | Sequence[str] | None = None,
    sample: float | None = None,
    seed: int = 0,
    crops: int | None = None,
    codec: str | Codec | None = None,
    metadata: Mapping[str, Any] | None = None,
    drop_metadata: str | Sequence[str] = (),
    force: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy label files and sets in another arrangement: merge, split, select, or store in another codec. No teacher is needed.

    Blocks in which nothing changes are copied as they are, and their checksums are checked; only others are decoded. The copy depends on
    its sources and the arguments only. It appears whole, or not at all.

    Parameters
    ----------
    sources : path or sequence of paths
        Label files, and sets: the folder of one, or its index. Their images follow each other.
    path : path
        The file to write; with `shards` or `shard_bytes` the folder of the set to write, which gets its name.
    shards : int, optional
        Write a set of so many files, with about the same number of images.
    shard_bytes : int, optional
        Write a set of files that have at most about so many bytes.
    keys : iterable of str, optional
        Copy only the images with these keys, in the order of the sources.
    match : str or sequence of str, optional
        Copy only images whose key fits one of these patterns: `*` stands for any characters (also `/`), `?` for one, `[abc]` for one of
        some.
    sample : float, optional
        Copy about this share of the images, which their keys and `seed` decide: those with `place_in_sample(key, seed) / 2^64 < sample`.
        A smaller share is part of a larger one.
    seed : int
        Seed of the sample.
    crops : int, optional
        Copy the first so many crops of each image; of those with fewer, all.
        `dense` labels with `log8` stay exactly what they were, with a profile and components that were chosen for all crops: ten of 200
        take three times the bytes that they would if the teacher had labelled ten.
    codec : str or Codec, optional
        Store the labels in this codec. What the sources hold is taken for what the teacher said, so that their rounding adds to that of the
        codec.
    metadata : mapping, optional
        Metadata to set, by name.
    drop_metadata : sequence of str
        Names of metadata to leave out.
    force : bool
        Put labels of different teachers together. The copy has the metadata of the first source; what the others say is in its
        `merged_from`.
    overwrite : bool
        Replace a file or set that exists, when the copy is finished.
    progress : callable, optional
        Called with the number of images so far and in all.

    Raises
    ------
    MismatchError
        If sources do not belong together, a key is in two of them, keys that are asked for are in none, or labels lack what the codec
        needs.
    ArgumentError
        If an argument is wrong, or labels cannot be stored in the codec.
    FormatError
        If a source is damaged or unfinished; the message names file, block and image.
    FileExistsError
        If `path` exists and `overwrite` is not set.
    StateError
        If `path` is being written, or was left unfinished and `overwrite` is not set.
    OSError
        If a file cannot be read or written.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from softlabel_codec import SoftLabelReader, SoftLabelWriter
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in "ab":
    ...     with SoftLabelWriter(folder / f"{name}.slc", num_classes=4, codec="marginal_smoothing:k=2") as writer:
    ...         writer.add(f"{name}.jpg", image_size=(60, 80), crops=[[0, 10, 50, 40]], flips=[True],
    ...                    probs=np.float32([[0.1, 0.6, 0.2, 0.1]]))
    >>> report = copy_labels([folder / "a.slc", folder / "b.slc"], folder / "both.slc")
    >>> report.num_images, report.copied_blocks, report.decoded_blocks, list(SoftLabelReader(folder / "both.slc").keys)
    (2, 2, 0, ['a.jpg', 'b.jpg'])
    """
    started = time.monotonic()
    is_set = _check_division(shards, shard_bytes)
    if crops is not None and not 1 <= check_whole("crops", crops, 1) <= MAX_CROPS_PER_IMAGE:
        raise ArgumentError(f"crops: expected 1 to {MAX_CROPS_PER_IMAGE}, got {crops}")
    selection, changes = Selection.of(keys, match, sample, seed), Changes.of(codec, crops, metadata, drop_metadata, force)
    found = find_sources(sources)
    target = path_to_write(path)
    _check_apart(found, target, is_set)
    with destination(target, is_set=is_set, overwrite=overwrite) as out:
        plan = survey(found, selection, changes)
        division: Division = OneFile() if not is_set else BySize(shard_bytes) if shard_bytes else ByNumber(plan.num_images, shards or 1)
        with Copier(plan, crops, division, out, progress or (lambda done, total: None)) as copier:
            copier.run()
        num_bytes = out.finish(plan.beginning.description)
    return CopyReport(str(path), str(plan.beginning.description.codec), *copier.done(), num_bytes, time.monotonic() - started)


def _check_division(shards: int | None, shard_bytes: int | None) -> bool:
    """Return whether a set is written."""
    if shards is not None and shard_bytes is not None:
        raise ArgumentError("shards, shard_bytes: expected one of them, got both")
    if shards is not None and check_whole("shards", shards, 1) > MAX_SHARDS:
        raise ArgumentError(f"shards: expected at most {MAX_SHARDS}, got {shards}")
    if shard_bytes is not None:
        check_whole("shard_bytes", shard_bytes, 1)
    return shards is not None or shard_bytes is not None


def _check_apart(sources: Sequence[Source], target: Path, is_set: bool) -> None:
    """Raise ArgumentError if a copy would be written over one of its sources."""
    for source in sources:
        for file in source.files:
            if isinstance(file.path, Url):
                continue
            replaced = file.path.parent if is_set else file.path
            if target.exists() and replaced.exists() and target.samefile(replaced):
                what = "in the folder that is to be written" if is_set else "the file that is to be written"
                raise ArgumentError(f"{target}: expected another place than that of the sources, got {file.path} {what}")
