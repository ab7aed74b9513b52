"""A labelling run that makes one file, here or in object storage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from softlabel_codec.checks.interrupted import saying_what_is_kept
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.files import partial_path
from softlabel_codec.errors import ArgumentError
from softlabel_codec.label_set.remote_folder import WorkFolder
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.storage.location import Location, Url, location
from softlabel_codec.storage.uploading import check_can_upload, upload
from softlabel_codec.teacher.finished import FinishedFile, check_made_alike
from softlabel_codec.teacher.job import Job
from softlabel_codec.teacher.labelling import Progress, label_images, none_readable
from softlabel_codec.teacher.reports import EncodeReport

logger = logging.getLogger(__name__)


class OneFile:
    """The file of a labelling run.

    Parameters
    ----------
    config : EncodeConfig
        Options of the run.

    Attributes
    ----------
    there : Path or Url
        Where it is when it is finished.
    here : Path
        Where it is written.

    Raises
    ------
    ArgumentError, OSError
        If it is known that no file can be uploaded there.
    """

    def __init__(self, config: EncodeConfig) -> None:
        self.there: Location = location(config.out)
        self._work: WorkFolder | None
        if not isinstance(self.there, Url):
            self.here, self._work = self.there, None
            return
        if self.there.full.endswith("/") or self.there.name in ("", ".", ".."):
            raise ArgumentError(f"{self.there}: expected the URL of a file, such as s3://BUCKET/labels.slc")
        self._work = WorkFolder(self.there, config.work)
        self.here = self._work.path / self.there.name
        check_can_upload(self.there)

    def files(self) -> Iterator[tuple[Location, bool]]:
        """Yield the files of the run that are there, or may be, and whether they are finished."""
        yield from ((path, finished) for path, finished in ((partial_path(self.here), False), (self.here, True)) if path.is_file())
        if self._work is not None:
            yield self.there, True

    def make(self, job: Job, progress: Progress, started: float) -> EncodeReport:
        """Make the file, unless it is there, and report. `started` is when the run began, by the monotonic clock."""
        config, images = job.config, counted(len(job.keys), "image")
        found = None if config.overwrite else self._finished_before(job)
        if found is not None:
            logger.info("%s: finished before, with the same options: %s", self.there, counted(found.num_images, "image"))
            return self._report(job, found, found.num_images, started, before=True)
        waiting = self._waiting(job)
        if waiting is not None:
            logger.info("%s: %s was finished before, and is uploaded now", self.there, self.here)
            self._upload(config.overwrite)
            return self._report(job, waiting, waiting.num_images, started)
        if self._work is not None:
            self._work.make()
        with job.writer(self.here) as writer:
            resumed = len(writer)
            earlier = f", {counted(resumed, 'image')} of them by an earlier run" if resumed else ""
            logger.info("%s: labelling %s%s, %s each", self.there, images, earlier, counted(round(job.mean_crops, 1), "crop"))
            with saying_what_is_kept(writer):
                skipped = label_images(job, job.keys, writer, progress)
                if not len(writer):
                    raise none_readable(job, skipped)
                writer.finish(skipped_keys=list(skipped))
        logger.info("%s: finished with %s, %d skipped", self.there, counted(len(writer), "image"), len(skipped))
        num_bytes = self.here.stat().st_size
        self._upload(config.overwrite)
        return self._report(job, FinishedFile(len(writer), skipped, num_bytes, ""), resumed, started)

    def _finished_before(self, job: Job) -> FinishedFile | None:
        if isinstance(self.there, Path) and not self.there.is_file():
            return None
        try:
            return check_made_alike(self.there, job.description, job.config.on_error)
        except FileNotFoundError:
            return None

    def _waiting(self, job: Job) -> FinishedFile | None:
        """Return what is in a file that only needs to be uploaded; None if there is none, or it was made otherwise and is replaced."""
        if self._work is None or not self.here.is_file():
            return None
        try:
            return check_made_alike(self.here, job.description, job.config.on_error)
        except FileExistsError:
            if not job.config.overwrite:
                raise
            self.here.unlink()
            return None

    def _upload(self, overwrite: bool) -> None:
        """Upload the file, if it is to be elsewhere, and remove it here."""
        if self._work is None:
            return
        try:
            upload(self.here, self.there, overwrite=overwrite)
        except OSError as error:
            what = f"{error.strerror or error}. The labels are kept in {self.here}: run the same command again to upload them"
            raise OSError(error.errno, what, str(self.there)) from error
        self.here.unlink(missing_ok=True)
        self._work.remove_if_empty()

    def _report(self, job: Job, found: FinishedFile, resumed: int, started: float, before: bool = False) -> EncodeReport:
        return EncodeReport(
            path=str(self.there),
            num_images=found.num_images,
            resumed_images=resumed,
            crops_per_image=job.mean_crops,
            skipped=found.skipped,
            other_files=job.other_files(),
            file_bytes=found.num_bytes,
            seconds=time.monotonic() - started,
            finished_before=before,
            codec_choice=None if before else job.choice,
        )
