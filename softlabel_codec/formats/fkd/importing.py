"""Converts a folder of label files from FKD's generator to a container file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from softlabel_codec.checks.arguments import ON_ERROR, check_choice
from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError, MismatchError, SoftLabelError
from softlabel_codec.formats.fkd.files import FkdImage, exact_crops, label_codec, read_fkd_file
from softlabel_codec.images.files import is_about_the_image, read_size
from softlabel_codec.images.paths import Stems, key_of_path, list_images, path_of_key
from softlabel_codec.teacher.interrupted import saying_what_is_kept
from softlabel_codec.version import PACKAGE
from softlabel_codec.writer import SoftLabelWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes
    ----------
    path : str
        The finished file.
    codec : str
        Its codec.
    num_images, num_crops : int
        Contents of the file.
    uncertain_crops : int
        Crops of float16 files in images so large that the fractions do not determine the pixels.
    skipped : dict
        Keys of label files that could not be read, and why.
    source_bytes, file_bytes : int
        Bytes of all label files, and of the container file.
    seconds : float
        Time taken.
    """

    path: str
    codec: str
    num_images: int
    num_crops: int
    uncertain_crops: int
    skipped: dict[str, str]
    source_bytes: int
    file_bytes: int
    seconds: float


def import_fkd(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    label_type: str,
    *,
    num_classes: int = 1000,
    codec: str | None = None,
    images: str | os.PathLike[str] | None = None,
    on_error: str = "fail",
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
    label_type : str
        One of `softlabel_codec.formats.fkd.files.LABEL_TYPES`, as given to FKD's generator.
    num_classes : int
        C.
    codec : str, optional
        Store the labels in another codec. By default their values are kept exactly.
    images : path, optional
        The image folder, `<wnid>/<stem>.<extension>`. Fractions are then converted back to exact pixels.
    on_error : str
        What to do with an unreadable label file: `fail` or `skip`.
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
    started = time.monotonic()
    check_choice("on_error", on_error, ON_ERROR)
    source = _Source(_find_files(Path(folder)), label_codec(label_type), num_classes, _ImageSizes(images) if images is not None else None)
    sample = source.first_readable(on_error)
    stored = Codec.parse(codec) if codec else _faithful(source.codec, sample)
    if (stored.kept_classes or 1) > (source.codec.kept_classes or 1):
        kept = counted(source.codec.kept_classes or 1, "class", "classes")
        raise ArgumentError(f"codec {str(stored)!r}: the label files keep only {kept} of a crop")
    crop_mode = "pixels" if source.sizes else f"fractions:f{8 * sample.crops.dtype.itemsize}"
    metadata = {
        "source": {"format": "FKD", "label_type": label_type, "float_type": str(sample.values.dtype), "files": len(source.files)},
        "package": PACKAGE,
    }
    with SoftLabelWriter(out, num_classes, str(stored), metadata, crops=crop_mode, resume=True, overwrite=overwrite) as writer:
        earlier = f", {len(writer)} of them converted before" if len(writer) else ""
        logger.info("%s: converting %s of FKD to %s%s", out, counted(len(source.files), "label file"), stored, earlier)
        with saying_what_is_kept(writer):
            found = _convert(source, writer, on_error, progress or (lambda done, total: None))
            writer.finish(skipped_keys=list(found.skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(found.skipped))
    return ImportReport(
        path=str(out),
        codec=str(stored),
        num_images=len(writer),
        num_crops=found.num_crops,
        uncertain_crops=found.uncertain_crops,
        skipped=found.skipped,
        source_bytes=sum(path.stat().st_size for path in source.files.values()),
        file_bytes=Path(out).stat().st_size,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Source:
    """Label files by key, their contents, and the sizes of their images if a folder is given."""

    files: Mapping[str, Path]
    codec: Codec
    num_classes: int
    sizes: _ImageSizes | None

    def read(self, key: str) -> FkdImage:
        return read_fkd_file(self.files[key], self.codec, self.num_classes)

    def first_readable(self, on_error: str) -> FkdImage:
        """Return the contents of the first file, or of the first readable one if others may be skipped."""
        errors = []
        for key in self.files:
            try:
                return self.read(key)
            except SoftLabelError as error:
                errors.append(error)
                if on_error == "fail":
                    break
        raise errors[0]


@dataclass
class _Found:
    """What was found while reading the files."""

    num_crops: int = 0
    uncertain_crops: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def _convert(source: _Source, writer: SoftLabelWriter, on_error: str, progress: Callable[[int, int], None]) -> _Found:
    found = _Found()
    earlier = set(writer.keys)
    for done, (key, path) in enumerate(source.files.items()):
        try:
            image = source.read(key)
            size = source.sizes(key) if source.sizes else None
            crops, unsure = exact_crops(image.crops, size) if size else (image.crops, 0)
            if key not in earlier:
                _add(writer, key, size, crops, image)
        except SoftLabelError as error:
            if on_error == "fail":
                raise type(error)(_located(path, error)) from None
            logger.warning("label file %r skipped: %s", key, error)
            found.skipped[key] = str(error)
            continue
        found.uncertain_crops += unsure
        found.num_crops += len(image.flips)
        progress(done + 1, len(source.files))
    return found


def _add(writer: SoftLabelWriter, key: str, size: tuple[int, int] | None, crops: NDArray[Any], image: FkdImage) -> None:
    try:
        writer.add(key, image_size=size, crops=crops, flips=image.flips, indices=image.indices, values=image.values)
    except ArgumentError as error:
        raise MismatchError(f"its labels cannot be stored: {error}") from None


class _ImageSizes:
    """Sizes of images by key without extension."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._names = Stems(list_images(folder), parts=2)

    def __call__(self, key: str) -> tuple[int, int]:
        name = self._names.find(key)
        if name is None:
            raise MismatchError(f"no image for the key {key!r} in {self._folder}")
        try:
            return read_size(path_of_key(self._folder, name))
        except OSError as error:
            if not is_about_the_image(error):
                raise
            raise MismatchError(f"image {name!r}: {error}") from None


def _find_files(folder: Path) -> dict[str, Path]:
    """Return label files by key, in order of keys."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.tar")):
        key = key_of_path(path.parent.parent, path.with_suffix(""))
        if key in found:
            raise ArgumentError(f"{folder}: both {found[key]} and {path} have the key {key!r}: pass one of their folders")
        found[key] = path
    if not found:
        raise ArgumentError(f"{folder}: expected label files <wnid>/<stem>.tar in this folder or below it, found none")
    return dict(sorted(found.items()))


def _faithful(codec: Codec, sample: FkdImage) -> Codec:
    """Return the codec that keeps values as they are."""
    if codec.name == "hard":
        return codec
    return Codec.parse(f"{codec}{',' if ':' in str(codec) else ':'}values=f{8 * sample.values.dtype.itemsize}")


def _located(path: Path, error: SoftLabelError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"
