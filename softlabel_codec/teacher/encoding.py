"""`encode`: run a teacher over every crop of images and store its soft labels."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path

from softlabel_codec.checks.interrupted import saying_what_is_kept
from softlabel_codec.checks.wording import counted
from softlabel_codec.label_set.folder import SetFolder
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.teacher.choosing import with_chosen_codec
from softlabel_codec.teacher.finished import check_made_alike
from softlabel_codec.teacher.job import Job, prepare
from softlabel_codec.teacher.labelling import Progress, label_images, none_readable
from softlabel_codec.teacher.reports import EncodeReport
from softlabel_codec.teacher.set_worker import SetWorker

logger = logging.getLogger(__name__)


def encode(config: EncodeConfig, progress: Progress | None = None) -> EncodeReport:
    """Label the crops of all images of a source and store the labels.

    To continue an interrupted run, call this again with the same configuration. The finished file has the same bytes as without the
    interruption (on the same device and versions). If the run had finished, nothing is done, and the report says so.

    Parameters
    ----------
    config : EncodeConfig
        What to do. With `shards`, this process is one of any number that make a label set together: each takes the next shard that is
        neither finished nor locked, and the last one writes the index.
    progress : callable, optional
        Called with the number of images done so far and in all; of a set by all workers together, as far as it is known.

    Raises
    ------
    ArgumentError
        If there are no images, as `open_images` finds, the teacher cannot be loaded, or OUT is no place for a label set.
    MismatchError
        If a teacher does not return (B, C) logits (or the probabilities that were announced), C is not as expected, or not the same for
        all teachers, an unfinished file or set was started with other options or images, or an image has changed since it was labelled.
        With `crops_of` also if images of these labels are missing or are other images, or the labels cannot be averaged.
    FileExistsError
        If the file or set exists, was made with other options or images, and `overwrite` is not set.
    StateError
        If a process that cuts images was killed, labels so far are kept; or if others are making all shards that this process may make.
    OSError
        If an image is unreadable and `on_error` is `fail`; if the system fails to read it for another reason (too
        many open files, a failing disk); or if the disk is full. Labels so far are kept.
    """
    started, told = time.monotonic(), progress or (lambda done, total: None)
    place = None if config.shards is None else SetFolder(config.out, config.shards)
    with closing(prepare(config)) as job:
        return _run(job, place, told, started)


def _run(job: Job, place: SetFolder | None, progress: Progress, started: float) -> EncodeReport:
    if job.config.is_auto:
        job = with_chosen_codec(job)
    if place is not None:
        return SetWorker(job, place, progress).run(started)
    return _encode_file(job, progress, started)


def _encode_file(job: Job, progress: Progress, started: float) -> EncodeReport:
    config, out = job.config, Path(job.config.out)
    images, crops_per_image = counted(len(job.keys), "image"), job.mean_crops
    if out.is_file() and not config.overwrite:
        found = check_made_alike(out, job.description, config.on_error)
        logger.info("%s: finished before, with the same options: %s", out, counted(found.num_images, "image"))
        return EncodeReport(str(out), found.num_images, found.num_images, crops_per_image, found.skipped, *_ending(job, out, started), True)
    with job.writer(out) as writer:
        resumed = len(writer)
        earlier = f", {counted(resumed, 'image')} of them by an earlier run" if resumed else ""
        logger.info("%s: labelling %s%s, %s each", out, images, earlier, counted(round(crops_per_image, 1), "crop"))
        with saying_what_is_kept(writer):
            skipped = label_images(job, job.keys, writer, progress)
            if not len(writer):
                raise none_readable(job, skipped)
            writer.finish(skipped_keys=list(skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(skipped))
    ending = _ending(job, out, started)
    return EncodeReport(str(out), len(writer), resumed, crops_per_image, skipped, *ending, codec_choice=job.choice)


def _ending(job: Job, out: Path, started: float) -> tuple[list[str], int, float]:
    """Return the last fields of a report: files that are not images, the size of the file, and the time taken."""
    return job.other_files(), out.stat().st_size, time.monotonic() - started
