"""`import_source`: carries the images of a source to a container file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from softlabel_codec.checks.arguments import ON_ERROR, check_choice, check_whole
from softlabel_codec.checks.interrupted import saying_what_is_kept
from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.copying.belonging import in_another_codec
from softlabel_codec.errors import MismatchError
from softlabel_codec.formats.importing import DERIVED, NO_CROPS, PIXELS, Found, ImportReport, LabelSource, Sizes
from softlabel_codec.formats.parts import Conversion, Converted, Item, converted
from softlabel_codec.quantise.transcoding import stored_alike
from softlabel_codec.reader import UNKNOWN_CROPS
from softlabel_codec.version import PACKAGE
from softlabel_codec.writer import SoftLabelWriter

logger = logging.getLogger(__name__)
_NUMBERS_AT_ONCE, _MOST_AT_ONCE, _BYTES_AT_ONCE = 2**19, 4096, 2**26
"""Parts of a source have at most so many numbers, about, images, and bytes in memory, but for those of the last image.

A part ends with a block; an interrupted one is begun again."""


def import_source(
    source: LabelSource,
    out: str | os.PathLike[str],
    *,
    codec: str | None = None,
    sizes: Sizes | None = None,
    on_error: str = "fail",
    workers: int = 0,
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
    sizes : Sizes, optional
        Sizes of the images. Crops that are fractions are then converted back to exact pixels.
    on_error : str
        What to do with an image whose labels cannot be read: `fail` or `skip`.
    workers : int
        Processes that read and convert, besides this one; 0: this one does. The file is the same for any number.
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
    StateError
        If one of the processes ends unexpectedly.
    """
    started = time.monotonic()
    check_choice("on_error", on_error, ON_ERROR)
    check_whole("workers", workers, 0)
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
    options: dict[str, Any] = {"crops": mode, "sampler": found.sampler, "image_checksums": checksums, "overwrite": overwrite}
    with SoftLabelWriter(out, found.kind.num_classes, stored, metadata, resume=True, **options) as writer:
        _tell(found, stored, str(out), len(writer))
        conversion = Conversion(found.kind, stored, mode, writer.description, fails=on_error == "fail")
        with saying_what_is_kept(writer):
            total = _convert(source, writer, conversion, sizes, workers, progress or (lambda done, total: None))
            writer.finish(skipped_keys=list(total.skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(total.skipped))
    return ImportReport(
        path=str(out),
        codec=str(stored),
        num_images=len(writer),
        num_crops=total.num_crops,
        uncertain_crops=total.uncertain_crops,
        skipped=total.skipped,
        source_bytes=found.source_bytes,
        file_bytes=Path(out).stat().st_size,
        seconds=time.monotonic() - started,
        format=found.format,
        labels=str(found.kind),
        lost=[*_lost(found, stored)],
        notes=total.notes.lines(),
    )


def _convert(
    source: LabelSource,
    writer: SoftLabelWriter,
    conversion: Conversion,
    sizes: Sizes | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> Converted:
    """Carry the images of a source to a writer, part by part, and return what there is to say of all of them."""
    total, done, num_images = Converted(), 0, source.found.num_images
    with closing(converted(_parts(source, set(writer.keys), sizes), conversion, workers)) as parts:
        for part in parts:
            for block in part.blocks:
                writer.add_packed(block)
            for key, reason in part.skipped.items():
                logger.warning("labels of %r skipped: %s", key, reason)
            if part.error is not None:
                raise part.error
            total.add(part)
            for _ in range(part.num_entries):
                done += 1
                progress(done, num_images)
    return total


def _parts(source: LabelSource, earlier: set[str], sizes: Sizes | None) -> Iterator[list[Item]]:
    """Yield the images of a source in parts, which depend on the source only; `earlier` are keys that are in the file."""
    found, seen = source.found, set[str]()
    numbers = max(1, found.num_crops // max(1, found.num_images)) * (5 + found.kind.numbers_of_crop)
    at_once, part, held = min(_MOST_AT_ONCE, max(1, _NUMBERS_AT_ONCE // numbers)), list[Item](), 0
    for entry in source.entries():
        if entry.key in seen:
            raise MismatchError(f"{entry.where}: the key {entry.key!r} occurs twice: expected the crops of an image together, once")
        seen.add(entry.key)
        part.append(Item(entry, None if sizes is None else sizes.reader(entry.key), entry.key in earlier))
        held += entry.held_bytes
        if len(part) == at_once or held >= _BYTES_AT_ONCE:
            yield part
            part, held = [], 0
    if part:
        yield part


def _crop_mode(found: Found, sizes: Sizes | None) -> str:
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
