"""`encode`: run a teacher over every crop of images and store its soft labels."""

from __future__ import annotations

import time
from contextlib import closing

from softlabel_codec.label_set.folder import SetFolder
from softlabel_codec.label_set.remote_folder import RemoteSetFolder
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.storage.location import Url, location
from softlabel_codec.teacher.choosing import with_chosen_codec
from softlabel_codec.teacher.job import Job, prepare
from softlabel_codec.teacher.labelling import Progress
from softlabel_codec.teacher.one_file import OneFile
from softlabel_codec.teacher.remote_set_worker import RemoteSetWorker
from softlabel_codec.teacher.reports import EncodeReport
from softlabel_codec.teacher.same_set import SameSet
from softlabel_codec.teacher.set_worker import SetWorker


def encode(config: EncodeConfig, progress: Progress | None = None) -> EncodeReport:
    """Label the crops of all images of a source and store the labels.

    To continue an interrupted run, call this again with the same configuration. The finished file has the same bytes as without the
    interruption (on the same device and versions). If the run had finished, nothing is done, and the report says so.

    Parameters
    ----------
    config : EncodeConfig
        What to do. With `shards`, this process is one of any number that make a label set together: each takes the next shard that is
        neither finished nor locked, and the last one writes the index. If `out` is a URL, what is finished is uploaded, and never
        replaces another object unless `overwrite` is set.
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
        many open files, a failing disk); if the disk is full; or if nothing can be uploaded. Labels so far are kept.
    """
    started, told = time.monotonic(), progress or (lambda done, total: None)
    place = _place(config)
    with closing(prepare(config)) as job:
        return _run(job, place, told, started)


def _place(config: EncodeConfig) -> OneFile | SetFolder:
    if config.shards is None:
        return OneFile(config)
    out = location(config.out)
    if isinstance(out, Url):
        return RemoteSetFolder(out, config.shards, config.work, config.overwrite)
    return SetFolder(out, config.shards)


def _run(job: Job, place: OneFile | SetFolder, progress: Progress, started: float) -> EncodeReport:
    if job.config.is_auto:
        job = with_chosen_codec(job, place.files)
    if isinstance(place, OneFile):
        return place.make(job, progress, started)
    if isinstance(place, RemoteSetFolder):
        return RemoteSetWorker(job, place, progress).run(started)
    return SetWorker(job, place, SameSet(job, place), progress).run(started)
