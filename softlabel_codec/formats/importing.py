"""Converts label files of other projects to a container file, whatever their format."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import ON_ERROR, check_choice
from softlabel_codec.checks.interrupted import saying_what_is_kept
from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.copying.belonging import in_another_codec
from softlabel_codec.errors import ArgumentError, LimitError, MismatchError, SoftLabelError
from softlabel_codec.formats.fractions import exact_crops
from softlabel_codec.formats.labels import Kind, Notes
from softlabel_codec.quantise.transcoding import stored_alike
from softlabel_codec.reader import UNKNOWN_CROPS
from softlabel_codec.sampler import CropSampler
from softlabel_codec.version import PACKAGE
from softlabel_codec.writer import SoftLabelWriter

logger = logging.getLogger(__name__)
SizeOf = Callable[[str], tuple[int, int]]
PIXELS, DERIVED, NO_CROPS = "pixels", "derived", "unknown"
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Found:
    """What a source holds, as far as it is known before all of it was read.

    Attributes
    ----------
    format : str
        Its format.
    kind : Kind
        What the labels are.
    num_images, num_crops : int
        Contents; crops counted as if all images had as many as the first, where images may differ.
    crops : str
        How crops are given: `pixels`, `fractions:f32`, `fractions:f16`, `unknown`; or `derived`: they are those of a sampler of ours.
    source_bytes : int
        Size of its files.
    provenance : dict
        What the metadata of the file say of it.
    metadata : dict
        Metadata that the source has from a label file of ours.
    stored_as : Codec or None
        The codec that its labels had in that file.
    image_checksums : bool
        Whether it has the checksums of the images' files.
    lost : tuple of str
        What a container file cannot keep, a line each.
    why_no_crops : str
        Why crops are unknown, if they are.
    sampler : CropSampler or None
        The sampler of derived crops.
    """

    format: str
    kind: Kind
    num_images: int
    num_crops: int
    crops: str
    source_bytes: int
    provenance: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    stored_as: Codec | None = None
    image_checksums: bool = False
    lost: tuple[str, ...] = ()
    why_no_crops: str = ""
    sampler: CropSampler | None = None


class SourceImage(NamedTuple):
    """One image of a source. Labels are as `softlabel_codec.formats.labels.checked` returns them; without crops there are no flips.

    What was `repaired` is counted, for the report: how often, by what.
    """

    labels: dict[str, NDArray[Any]]
    crops: NDArray[Any] | None = None
    flips: NDArray[np.bool_] | None = None
    image_size: tuple[int, int] | None = None
    image_crc32: int | None = None
    repaired: Mapping[str, int] = {}


class Entry(NamedTuple):
    """An image that a source comes to: its key, where it is in words, and a function that returns its contents."""

    key: str
    where: str
    load: Callable[[], SourceImage]


class LabelSource(Protocol):
    """Label files of another project."""

    @property
    def found(self) -> Found:
        """What they hold."""

    def entries(self) -> Iterator[Entry]:
        """Yield all images, in the order of the files. What is wrong with a single image is raised by its `load`."""


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
        Crops in float16 of images so large that the fractions do not determine the pixels.
    skipped : dict
        Keys of images whose labels could not be read, and why.
    source_bytes, file_bytes : int
        Bytes of all label files, and of the container file.
    seconds : float
        Time taken.
    format : str
        What was read.
    labels : str
        What labels it has, in words.
    lost, notes : list of str
        What the container file does not keep, and what this run had to repair, a line each.
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
    format: str = ""
    labels: str = ""
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_source(
    source: LabelSource,
    out: str | os.PathLike[str],
    *,
    codec: str | None = None,
    sizes: SizeOf | None = None,
    on_error: str = "fail",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Convert a source. After an interruption, the same call continues where it stopped.

    Parameters
    ----------
    source : LabelSource
        What to convert.
    out : path
        Container file to write.
    codec : str, optional
        Store the labels in another codec. By default their numbers are kept exactly.
    sizes : callable, optional
        Returns height and width of the image of a key. Crops that are fractions are then converted back to exact pixels.
    on_error : str
        What to do with an image whose labels cannot be read: `fail` or `skip`.
    overwrite : bool
        Replace `out`, and discard an unfinished one that was started with other arguments.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Raises
    ------
    ArgumentError
        If the labels cannot be stored in this codec, or an argument is invalid.
    CorruptError, MismatchError
        If a file is damaged or holds something else, and `on_error` is `fail`; if an image is missing or of another size.
    """
    started = time.monotonic()
    check_choice("on_error", on_error, ON_ERROR)
    found = source.found
    stored = Codec.parse(codec) if codec else found.kind.codec
    found.kind.check_codec(stored)
    mode = _crop_mode(found, sizes)
    metadata = {**found.metadata, "source": {"format": found.format, **found.provenance}, "package": PACKAGE}
    before = found.stored_as or found.kind.codec
    if not stored_alike(before, stored):
        metadata = in_another_codec(metadata, before)
    if found.crops == NO_CROPS:
        metadata[UNKNOWN_CROPS] = found.why_no_crops
    checksums = found.image_checksums
    options: dict[str, Any] = {
        "crops": mode,
        "image_checksums": checksums,
        "resume": True,
        "overwrite": overwrite,
        "sampler": found.sampler,
    }
    with SoftLabelWriter(out, found.kind.num_classes, stored, metadata, **options) as writer:
        _tell(found, stored, str(out), len(writer))
        converter = _Converter(writer, found, stored, sizes, mode)
        with saying_what_is_kept(writer):
            converter.run(source, on_error, progress or (lambda done, total: None))
            writer.finish(skipped_keys=list(converter.skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(converter.skipped))
    return ImportReport(
        path=str(out),
        codec=str(stored),
        num_images=len(writer),
        num_crops=converter.num_crops,
        uncertain_crops=converter.uncertain_crops,
        skipped=converter.skipped,
        source_bytes=found.source_bytes,
        file_bytes=Path(out).stat().st_size,
        seconds=time.monotonic() - started,
        format=found.format,
        labels=str(found.kind),
        lost=[*_lost(found, stored)],
        notes=converter.notes.lines(),
    )


def _crop_mode(found: Found, sizes: SizeOf | None) -> str:
    if found.crops == NO_CROPS:
        return "fractions:f32"
    if found.sampler is not None:
        return DERIVED
    return PIXELS if sizes is not None else found.crops


def _lost(found: Found, stored: Codec) -> Iterator[str]:
    yield from found.lost
    if stored != found.kind.codec:
        yield f"the labels as they are, in {found.kind.codec}: they are stored in {stored}"
    if found.crops == NO_CROPS:
        yield f"training: {found.why_no_crops}"


def _tell(found: Found, stored: Codec, out: str, num_earlier: int) -> None:
    images, crops = counted(found.num_images, "image"), counted(found.num_crops, "crop")
    logger.info("found %s: %s; %s, %s; %s; crops: %s", found.format, found.kind, images, crops, _size(found.source_bytes), found.crops)
    for line in _lost(found, stored):
        logger.info("will be lost: %s", line)
    earlier = f", {num_earlier} of them converted before" if num_earlier else ""
    logger.info("%s: converting %s of %s to %s%s", out, images, found.format, stored, earlier)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 100_000 else counted(num_bytes, "byte")


class _Converter:
    """Carries the images of a source to a writer."""

    def __init__(self, writer: SoftLabelWriter, found: Found, codec: Codec, sizes: SizeOf | None, mode: str) -> None:
        self._writer, self._found, self._codec, self._sizes, self._mode = writer, found, codec, sizes, mode
        self._earlier, self._seen = set(writer.keys), set[str]()
        self.num_crops = self.uncertain_crops = 0
        self.skipped: dict[str, str] = {}
        self.notes = Notes()

    def run(self, source: LabelSource, on_error: str, progress: Callable[[int, int], None]) -> None:
        for done, entry in enumerate(source.entries()):
            if entry.key in self._seen:
                raise MismatchError(f"{entry.where}: the key {entry.key!r} occurs twice: expected the crops of an image together, once")
            self._seen.add(entry.key)
            try:
                self._convert(entry)
            except SoftLabelError as error:
                if on_error == "fail":
                    raise type(error)(_located(entry.where, error)) from None
                logger.warning("labels of %r skipped: %s", entry.key, error)
                self.skipped[entry.key] = str(error)
                continue
            progress(done + 1, self._found.num_images)

    def _convert(self, entry: Entry) -> None:
        image = entry.load()
        size = self._sizes(entry.key) if self._sizes else image.image_size
        crops, flips, unsure = self._geometry(image, size)
        if entry.key not in self._earlier:
            self._add(entry.key, image, size, crops, flips)
        self.notes.count(image.repaired)
        self.uncertain_crops += unsure
        self.num_crops += len(crops)

    def _geometry(self, image: SourceImage, size: tuple[int, int] | None) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
        """Return the crops of an image as they are stored, its flips, and how many crops are not certain."""
        num_crops = len(next(iter(image.labels.values())))
        if image.crops is None:
            return np.tile(np.array(WHOLE_IMAGE, np.float32), (num_crops, 1)), np.zeros(num_crops, np.bool_), 0
        if len(image.crops) != num_crops:
            raise MismatchError(f"expected as many crops as labels, {num_crops}, got {len(image.crops)}")
        flips = np.zeros(num_crops, np.bool_) if image.flips is None else image.flips
        if self._mode == PIXELS and image.crops.dtype.kind == "f":
            if size is None:
                raise MismatchError("the size of the image is not known, so that fractions cannot be converted to pixels")
            crops, unsure = exact_crops(image.crops, size)
            return crops, flips, unsure
        return image.crops, flips, 0

    def _add(self, key: str, image: SourceImage, size: tuple[int, int] | None, crops: NDArray[Any], flips: NDArray[np.bool_]) -> None:
        try:
            labels = self._found.kind.for_writer(image.labels, self._codec, self.notes)
            self._writer.add(key, image_size=size, crops=crops, flips=flips, image_crc32=image.image_crc32, **labels)
        except (ArgumentError, LimitError, MismatchError) as error:
            raise MismatchError(f"its labels cannot be stored: {error}") from None


def _located(where: str, error: SoftLabelError) -> str:
    return str(error) if where in str(error) else f"{where}: {error}"
