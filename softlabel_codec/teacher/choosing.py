"""Chooses the codec of a labelling run by the labels of some of its images, or takes the one that its files have."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from softlabel_codec.checks.interrupted import Interrupted
from softlabel_codec.checks.wording import counted
from softlabel_codec.choosing import choose_codec
from softlabel_codec.choosing.pilot import spread
from softlabel_codec.codec import Codec
from softlabel_codec.container.metadata import Description
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.storage.location import Location
from softlabel_codec.teacher.batches import Plan
from softlabel_codec.teacher.finished import described, exists
from softlabel_codec.teacher.job import CODEC_CHOICE, Job
from softlabel_codec.teacher.labelling import labelled_images, none_readable
from softlabel_codec.teacher.run import LabelledImage
from softlabel_codec.torch.workers import workers_watched

PILOT_IMAGES, PILOT_NUMBERS, FEWEST_PILOT_IMAGES = 256, 2**26, 16
"""Images by which a codec is chosen: fewer if they have more probabilities than that, but not fewer than that."""
WORTH_KEEPING = 20
"""Labels of these images are kept for the file if the run labels at most so many times as many."""
SECONDS_BETWEEN_LINES = 30.0
logger = logging.getLogger(__name__)


def with_chosen_codec(job: Job, files: Callable[[], Iterable[tuple[Location, bool]]]) -> Job:
    """Return a job whose codec is that of its files, finished or not, if there are any, or else is chosen.

    Parameters
    ----------
    job : Job
        The job.
    files : callable
        Yields its files that are there, or may be, and whether they are finished.

    Raises
    ------
    MismatchError, FileExistsError
        If the codec of its files was not chosen for what is asked for, and they must not be replaced.
    ArgumentError
        If no codec takes as few bytes as are asked for.
    OSError, StateError
        As for `encode`.
    Interrupted
        On Ctrl-C. Nothing is kept.
    """
    known = _like_files(job, files())
    if known is not None:
        return known
    try:
        chosen = _choose(job)
    except KeyboardInterrupt as error:
        raise Interrupted("No image is stored yet; run the same command again") from error
    return _like_files(job, files()) or chosen  # another worker of a set may have begun, on a machine that rounds otherwise


def _like_files(job: Job, files: Iterable[tuple[Location, bool]]) -> Job | None:
    """Return the job with the codec of the first of its files that says it; None if none does."""
    for path, is_finished in files:
        try:
            found = described(path)
        except FileNotFoundError:  # it has just been renamed, or was not there
            continue
        if found is None:
            continue
        refusal = _refusal(job, found)
        if refusal is None:
            logger.info("%s: codec %s, which was chosen when that was begun", path, found.codec)
            crops = found.metadata["crops_per_image"] if job.is_even else job.crops_per_image
            return job.with_codec(found.codec, crops, found.metadata[CODEC_CHOICE])
        if not job.config.overwrite:
            if is_finished:
                raise exists(path, refusal)
            raise MismatchError(f"{path}: {refusal}. Pass overwrite=True (--overwrite) to begin again")
    return None


def _refusal(job: Job, found: Description) -> str | None:
    """Return why a file cannot be one of this job; None if its codec was chosen for what this job asks for."""
    choice, asked = found.metadata.get(CODEC_CHOICE), job.config.asked.described()
    if not isinstance(choice, dict):
        return f"was made with codec {str(found.codec)!r}, which was not chosen. Pass --codec {found.codec} for the same"
    if choice.get("asked") != asked:
        return f"was made with a codec that was chosen for something else: expected {asked}, found {choice.get('asked')}"
    crops, most = found.metadata.get("crops_per_image"), job.crops_per_image
    least = 1 if job.config.chooses_crops else most
    if job.is_even and not (isinstance(crops, int) and least <= crops <= most):
        return f"was made with other options: crops_per_image: expected {most}, found {crops!r}"
    return None


def _choose(job: Job) -> Job:
    """Return the job with the codec that is chosen by the labels of some images."""
    pilot = _label_pilot(job)
    config, said = job.config, job.description
    try:
        choice = choose_codec(
            {key: image.arguments(key, True) for key, image in pilot.items()},
            said.num_classes,
            fidelity=config.fidelity,
            bytes_per_image=config.bytes_per_image,
            draws=config.draws,
            fixed_crops=not config.chooses_crops,
            temperature=config.temperature,
            crops=said.crops,
            sampler=said.sampler,
            image_checksums=said.image_checksums,
            padding=said.padding,
        )
    except ArgumentError as error:
        if config.bytes_per_image is not None and str(error).startswith("bytes_per_image"):
            raise
        raise MismatchError(f"teacher {said.metadata['teacher']['name']}: its output cannot be stored as labels: {error}") from None
    for line in choice.lines():
        logger.log(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.DEBUG, "%s", line)
    crops = choice.crops_per_image if job.is_even else job.crops_per_image
    chosen = job.with_codec(Codec.parse(choice.codec), crops, choice.described())
    return replace(chosen, choice=choice, labelled=_of_same_batches(job, chosen, pilot))


def _label_pilot(job: Job) -> dict[str, LabelledImage]:
    """Return the labels of some images, evenly spread over all, by their keys."""
    count = min(PILOT_IMAGES, max(FEWEST_PILOT_IMAGES, PILOT_NUMBERS // (job.crops_per_image * job.description.num_classes)))
    keys = [job.keys[number] for number in spread(len(job.keys), count)]
    logger.info("labelling %d of %s to choose a codec", len(keys), counted(len(job.keys), "image"))
    pilot: dict[str, LabelledImage] = {}
    skipped: dict[str, str] = {}
    told = time.monotonic()

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            logger.info("labelled %d of %s to choose a codec", len(pilot), counted(len(keys), "image"))

    with workers_watched():
        for number, labelled in labelled_images(job, keys, (), skipped, tell):
            pilot[keys[number]] = labelled
    if not pilot:
        raise none_readable(job, skipped)
    return pilot


def _of_same_batches(job: Job, chosen: Job, pilot: dict[str, LabelledImage]) -> dict[str, LabelledImage]:
    """Return the images of a pilot, if they came from the same batches of the teacher as in the run: labels are the same to the bit."""
    images_per_batch = Plan(len(job.keys), job.crops_per_image, job.run.batch_size).images_per_batch
    same = images_per_batch == 1 or (job.config.shards is None and len(pilot) == len(job.keys))
    if not same or chosen.crops_per_image != job.crops_per_image or len(job.keys) > WORTH_KEEPING * len(pilot):
        return {}
    return {key: chosen.run.for_codec(image) for key, image in pilot.items()}
