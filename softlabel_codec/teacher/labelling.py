"""`encode`: run a teacher over every crop of images and store its soft labels."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import MismatchError
from softlabel_codec.image_source import ImageSource, name_of
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import is_about_the_image
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.teacher.batches import CropBatches, Plan, load_batches
from softlabel_codec.teacher.finished import check_made_alike
from softlabel_codec.teacher.interrupted import saying_what_is_kept
from softlabel_codec.teacher.job import Job, prepare
from softlabel_codec.teacher.reports import EncodeReport
from softlabel_codec.teacher.run import LabelledImage
from softlabel_codec.torch.workers import workers_watched
from softlabel_codec.writer import SoftLabelWriter

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)


def encode(config: EncodeConfig, progress: Progress | None = None) -> EncodeReport:
    """Label the crops of all images of a source and store the labels.

    To continue an interrupted run, call this again with the same configuration. The finished file has the same bytes as without the
    interruption (on the same device and versions). If the run had finished, nothing is done, and the report says so.

    Parameters
    ----------
    config : EncodeConfig
        What to do.
    progress : callable, optional
        Called with the number of images done so far and in all.

    Raises
    ------
    ArgumentError
        If there are no images, as `open_images` finds, or the teacher cannot be loaded.
    MismatchError
        If the teacher does not return (B, C) logits (or the probabilities that were announced), C is not as expected, an
        unfinished file was started with other options, or an image has changed since it was labelled.
    FileExistsError
        If the file exists, was made with other options or images, and `overwrite` is not set.
    StateError
        If a process that cuts images was killed. Labels so far are kept.
    OSError
        If an image is unreadable and `on_error` is `fail`; if the system fails to read it for another reason (too
        many open files, a failing disk); or if the disk is full. Labels so far are kept.
    """
    started = time.monotonic()
    job, out = prepare(config), Path(config.out)
    images, crops_per_image = counted(len(job.keys), "image"), job.crops_per_image
    if out.is_file() and not config.overwrite:
        found = check_made_alike(out, job.description, config.on_error)
        logger.info("%s: finished before, with the same options: %s", out, counted(found.num_images, "image"))
        return EncodeReport(str(out), found.num_images, found.num_images, crops_per_image, found.skipped, *_ending(job, out, started), True)
    with job.writer(out) as writer:
        resumed = len(writer)
        earlier = f", {counted(resumed, 'image')} of them by an earlier run" if resumed else ""
        logger.info("%s: labelling %s%s, %s each", out, images, earlier, counted(crops_per_image, "crop"))
        with saying_what_is_kept(writer):
            skipped = label_images(job, job.keys, writer, progress or (lambda done, total: None))
            if not len(writer):
                raise none_readable(job, skipped)
            writer.finish(skipped_keys=list(skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(skipped))
    return EncodeReport(str(out), len(writer), resumed, crops_per_image, skipped, *_ending(job, out, started))


def _ending(job: Job, out: Path, started: float) -> tuple[list[str], int, float]:
    """Return the last fields of a report: files that are not images, the size of the file, and the time taken."""
    return job.other_files(), out.stat().st_size, time.monotonic() - started


def label_images(job: Job, keys: Sequence[str], writer: SoftLabelWriter, progress: Progress) -> dict[str, str]:
    """Add the labels of those of these images that a writer does not have yet; return the images that were skipped, and why.

    Which images go through the teacher together depends on `keys` alone, not on what the writer has.
    """
    _check_labelled(job.source, writer.image_crc32s)
    with workers_watched():
        return _label_images(job, keys, writer, progress)


def none_readable(job: Job, skipped: Mapping[str, str]) -> OSError:
    """Return the error that none of all images could be read."""
    first = f"; the first: {next(iter(skipped.values()))}" if skipped else ""
    return OSError(f"{name_of(job.source)}: none of {counted(len(job.keys), 'image')} could be read{first}")


def _label_images(job: Job, keys: Sequence[str], writer: SoftLabelWriter, progress: Progress) -> dict[str, str]:
    config, run, plan = job.config, job.run, Plan(len(keys), job.crops_per_image, job.run.batch_size)
    done = set(writer.keys)
    due = plan.due([key in done for key in keys])
    cutter = Cutter(run.size, run.interpolation, config.exif_orientation, padding=config.padding)
    batches = CropBatches(job.source, keys, plan, config.sampler, cutter, job.are_files)
    skipped: dict[str, str] = {}
    waiting: dict[int, LabelledImage] = {}
    progress(len(done), len(keys))
    for cut_runs, labels in run.label(load_batches(batches, due, config.workers, run.on_cuda)):
        for cut, labels_of_run in zip(cut_runs, labels, strict=True):
            key, image = keys[cut.run.image], cut.run.image
            if cut.transient:
                raise OSError(f"image {key!r}: {cut.error}. The labels so far are kept; run the same command again to continue")
            if key in done:
                continue
            if cut.error and key not in skipped:
                _skip(key, cut.error, config.on_error, skipped)
                waiting.pop(image, None)
            if key in skipped:
                continue
            labelled = waiting.setdefault(image, LabelledImage())
            labelled.runs.append(cut)
            labelled.labels.append(labels_of_run)
            if cut.run.stop == plan.crops_per_image:
                del waiting[image]
                run.store(labelled, writer, key)
        progress(len(writer) + len(skipped), len(keys))
    return skipped


def _check_labelled(source: ImageSource, crc32s: Mapping[str, int | None]) -> None:
    """Raise MismatchError if an image is not the one that was labelled; an image that has become unreadable is accepted."""

    def crc32_now(key: str) -> int | None:
        try:
            image = source.read(key)
        except OSError as error:
            if is_about_the_image(error):
                return crc32s[key]
            raise
        return zlib.crc32(image) if isinstance(image, bytes) else None

    if not any(crc32 is not None for crc32 in crc32s.values()):
        return
    with ThreadPoolExecutor() as threads:
        for (key, labelled), now in zip(crc32s.items(), threads.map(crc32_now, crc32s), strict=True):
            if now != labelled:
                advice = "Restore that image, or delete the unfinished file to label all images again"
                raise MismatchError(f"image {key!r}: is not the one that an earlier run labelled: its bytes differ. {advice}")


def _skip(key: str, error: str, on_error: str, skipped: dict[str, str]) -> None:
    if on_error == "fail":
        raise OSError(f"image {key!r}: {error}. Repair or remove it, or skip such images with on_error='skip' (--on-error skip)")
    logger.warning("image %r skipped: %s", key, error)
    skipped[key] = error
