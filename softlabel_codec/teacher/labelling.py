"""Adds the labels of images to a file, as the teacher gives them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from itertools import islice
from operator import itemgetter

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import MismatchError
from softlabel_codec.image_source import ImageSource, name_of
from softlabel_codec.images.files import is_about_the_image
from softlabel_codec.teacher.batches import CropBatches, load_batches
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.run import LabelledImage
from softlabel_codec.torch.workers import workers_watched
from softlabel_codec.writer import SoftLabelWriter

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)


def label_images(
    job: Job, keys: Sequence[str], writer: SoftLabelWriter, progress: Progress, may_write: Callable[[], None] | None = None
) -> dict[str, str]:
    """Add the labels of those of these images that a writer does not have yet; return the images that were skipped, and why.

    Which images go through the teacher together depends on `keys` alone, not on what the writer has.

    Parameters
    ----------
    job : Job
        How to label them.
    keys : sequence of str
        The images of the file, in order.
    writer : SoftLabelWriter
        Its writer.
    progress : callable
        Called with the number of images done so far and in all.
    may_write : callable, optional
        Called before the labels of an image are added; raises an error if they must not be.
    """
    _check_labelled(job.source, writer.image_crc32s)
    with workers_watched():
        return _label_images(job, keys, writer, progress, may_write or (lambda: None))


def none_readable(job: Job, skipped: Mapping[str, str]) -> OSError:
    """Return the error that none of all images could be read."""
    first = f"; the first: {next(iter(skipped.values()))}" if skipped else ""
    return OSError(f"{name_of(job.source)}: none of {counted(len(job.keys), 'image')} could be read{first}")


def _label_images(
    job: Job, keys: Sequence[str], writer: SoftLabelWriter, progress: Progress, may_write: Callable[[], None]
) -> dict[str, str]:
    done, skipped = set(writer.keys), dict[str, str]()
    before = [(number, job.labelled[key]) for number, key in enumerate(keys) if key in job.labelled and key not in done]

    def tell() -> None:
        progress(len(writer) + len(skipped), len(keys))

    progress(len(done), len(keys))
    images = merge(before, labelled_images(job, keys, {*done, *job.labelled}, skipped, tell), key=itemgetter(0))
    at_once = job.run.images_at_once(job.crops_per_image)
    while together := {keys[image]: labelled for image, labelled in islice(images, at_once)}:
        may_write()
        job.run.store(together, writer)
    if before or at_once > 1:
        tell()
    return skipped


def labelled_images(
    job: Job, keys: Sequence[str], done: Collection[str], skipped: dict[str, str], after_batch: Callable[[], None]
) -> Iterator[tuple[int, LabelledImage]]:
    """Yield images as the teacher labels them: their places in `keys`, and their labels.

    Images that are `done` are left out, those that cannot be read are added to `skipped`, with the reason. `after_batch` is called after
    each batch.
    """
    config, run, plan = job.config, job.run, job.plan(keys)
    due = plan.due([key in done for key in keys])
    cutters = run.cutters(config.exif_orientation, config.padding)
    batches = CropBatches(job.source, keys, plan, config.sampler, cutters, job.are_files, stored=job.stored)
    waiting: dict[int, LabelledImage] = {}
    for cut_runs, labels in run.label(load_batches(batches, due, config.workers, run.on_cuda)):
        for cut, labels_of_run in zip(cut_runs, labels, strict=True):
            key, image = keys[cut.run.image], cut.run.image
            if cut.fatal is not None:
                raise cut.fatal
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
            if cut.run.stop == plan.crops_of(image):
                yield image, waiting.pop(image)
        after_batch()


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
