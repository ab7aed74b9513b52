"""Converts a folder of label files from FKD's generator to a container file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError, SoftLabelError
from softlabel_codec.formats.fkd.files import FkdImage, label_codec, label_type_of, read_fkd_file
from softlabel_codec.formats.importing import Entry, Found, ImportReport, SourceImage
from softlabel_codec.formats.labels import INDICES, PROBS, VALUES, Kind, checked, kept_float_bytes
from softlabel_codec.formats.run import import_source

logger = logging.getLogger(__name__)
KEY_PARTS = 2
"""A key is `<wnid>/<stem>`."""


def import_fkd(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    label_type: str | None = None,
    *,
    num_classes: int = 1000,
    codec: str | None = None,
    images: str | os.PathLike[str] | None = None,
    on_error: str = "fail",
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Convert a folder of FKD label files. After an interruption, the same call continues where it stopped.

    Parameters
    ----------
    folder : path
        Where the files are: `.../<wnid>/<stem>.tar`. Keys become `<wnid>/<stem>`.
    out : path
        Container file to write.
    label_type : str, optional
        One of `softlabel_codec.formats.fkd.files.LABEL_TYPES`, as given to FKD's generator. By default what the folder's name ends with, as
        those of FKD's releases do: `FKD_soft_label_500_crops_marginal_smoothing_k_5`.
    num_classes : int
        C.
    codec : str, optional
        Store the labels in another codec. By default their values are kept exactly.
    images : path, optional
        The image folder, `<wnid>/<stem>.<extension>`. Fractions are then converted back to exact pixels.
    on_error : str
        What to do with an unreadable label file: `fail` or `skip`.
    workers : int
        Processes that read and convert, besides this one; 0: this one does. The file is the same for any number.
    overwrite : bool
        Replace `out`, and discard an unfinished one that was started with other arguments.
    progress : callable, optional
        Called with the number of files done so far and in all.

    Raises
    ------
    ArgumentError
        If there are no such files, or an argument is invalid.
    CorruptError, MismatchError
        If a file is damaged or does not fit, and `on_error` is `fail`; if an image is missing or of another size.
    """
    from softlabel_codec.formats.image_sizes import ImageSizes  # noqa: PLC0415  imports Pillow

    source = FkdSource(folder, label_type, num_classes, skips_errors=on_error == "skip")
    sizes = None if images is None else ImageSizes(images, KEY_PARTS)
    return import_source(source, out, codec=codec, sizes=sizes, on_error=on_error, workers=workers, overwrite=overwrite, progress=progress)


@dataclass(frozen=True)
class FkdSource:
    """The label files in a folder.

    Attributes
    ----------
    folder : path
        Where they are.
    asked : str or None
        What FKD's generator was told to write, if the name of the folder does not say it.
    num_classes : int
        C.
    skips_errors : bool
        Whether the first file may be unreadable.
    """

    folder: str | os.PathLike[str]
    asked: str | None
    num_classes: int
    skips_errors: bool = False

    @cached_property
    def label_type(self) -> str:
        """What FKD's generator was told to write; ArgumentError if nothing says it."""
        found = self.asked or label_type_of(Path(self.folder))
        if found is None:
            advice = "pass what its generator was told (--label-type)"
            raise ArgumentError(f"{self.folder}: label_type: neither FKD's files nor the folder's name say it: {advice}")
        if self.asked is None:
            logger.info("label type, by the name of the folder: %s", found)
        return found

    @cached_property
    def _codec(self) -> Codec:
        return label_codec(self.label_type)

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        return _find_files(Path(self.folder))

    @cached_property
    def found(self) -> Found:
        """What the files hold, by the first that is readable."""
        codec, files = self._codec, self._files
        sample = self._first_readable()
        num_bytes = None if codec.name == "hard" else kept_float_bytes(sample.values.dtype, "labels")
        name = INDICES if sample.indices is not None else PROBS
        kind = Kind(name, self.num_classes, codec.kept_classes, num_bytes, codec)
        return Found(
            format="FKD",
            kind=kind,
            num_images=len(files),
            num_crops=len(files) * len(sample.flips),
            crops=f"fractions:f{8 * sample.crops.dtype.itemsize}",
            source_bytes=sum(path.stat().st_size for path in files.values()),
            provenance={"label_type": self.label_type, "float_type": str(sample.values.dtype), "files": len(files)},
        )

    def entries(self) -> Iterator[Entry]:
        """Yield all images, by key."""
        codec, kind = self._codec, self.found.kind
        for key, path in self._files.items():
            yield Entry(key, str(path), partial(_read, str(path), codec, kind))

    def _first_readable(self) -> FkdImage:
        """Return the contents of the first file, or of the first readable one if others may be skipped."""
        errors = []
        for path in self._files.values():
            try:
                return read_fkd_file(path, self._codec, self.num_classes)
            except SoftLabelError as error:
                errors.append(error)
                if not self.skips_errors:
                    break
        raise errors[0]


def _read(path: str, codec: Codec, kind: Kind) -> SourceImage:
    image = read_fkd_file(path, codec, kind.num_classes)
    if image.indices is None:
        return SourceImage(checked({PROBS: image.values}, kind), image.crops, image.flips)
    if kind.float_bytes is None:
        return SourceImage({INDICES: image.indices}, image.crops, image.flips)
    if image.values.dtype.itemsize > kind.float_bytes:
        raise MismatchError(f"labels: expected float{8 * kind.float_bytes}, as in the first file, got {image.values.dtype}")
    return SourceImage({INDICES: image.indices, VALUES: image.values}, image.crops, image.flips)


def _find_files(folder: Path) -> dict[str, Path]:
    """Return label files by key, in order of keys."""
    from softlabel_codec.images.paths import key_of_path  # noqa: PLC0415  imports Pillow

    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.tar")):
        key = key_of_path(path.parent.parent, path.with_suffix(""))
        if key in found:
            raise ArgumentError(f"{folder}: both {found[key]} and {path} have the key {key!r}: pass one of their folders")
        found[key] = path
    if not found:
        raise ArgumentError(f"{folder}: expected label files <wnid>/<stem>.tar in this folder or below it, found none")
    return dict(sorted(found.items()))
