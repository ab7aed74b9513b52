"""`encode`: run a teacher over every crop of images and store its soft labels."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from softlabel_codec.checks.limits import MAX_CROPS_PER_IMAGE
from softlabel_codec.checks.wording import counted
from softlabel_codec.codec import Codec
from softlabel_codec.container.summary import keys_sha256
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.image_source import ImageSource, name_of, where_is
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import COLOR_POLICY, is_about_the_image, read_size
from softlabel_codec.images.sources import FolderSource, open_images
from softlabel_codec.images.sources.keys import KeyList, unique_keys
from softlabel_codec.options.encode import DEFAULT_CROPS, EncodeConfig
from softlabel_codec.sampler import CropSampler
from softlabel_codec.students.weights import weights_sha256
from softlabel_codec.teacher.batches import CropBatches, Plan, load_batches
from softlabel_codec.teacher.finished import check_made_alike
from softlabel_codec.teacher.interrupted import saying_what_is_kept
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.run import LabelledImage, TeacherRun
from softlabel_codec.torch.workers import workers_watched
from softlabel_codec.version import PACKAGE, library_versions
from softlabel_codec.writer import SoftLabelWriter

Progress = Callable[[int, int], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeReport:
    """The result of a labelling run.

    Attributes
    ----------
    path : str
        The finished file.
    num_images : int
        Images in it.
    resumed_images : int
        Images among them that an earlier, interrupted run had labelled; all, if it had finished the file.
    crops_per_image : int
        Crops of each.
    skipped : dict
        Keys of unreadable images, and the reasons.
    other_files : list of str
        Files in a folder that were left out because they are not named like images.
    file_bytes : int
        Size of the file.
    seconds : float
        Time of this run.
    finished_before : bool
        Whether the file was finished already, by an earlier run with the same options.
    """

    path: str
    num_images: int
    resumed_images: int
    crops_per_image: int
    skipped: dict[str, str]
    other_files: list[str]
    file_bytes: int
    seconds: float
    finished_before: bool = False


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
    codec, out = Codec.parse(config.codec), Path(config.out)
    images = _open(config)
    teacher = load_teacher(config.teacher, weights=config.teacher_weights, num_classes=config.num_classes, output=config.teacher_output)
    run = TeacherRun(teacher, config, codec)
    plan = Plan(len(images.keys), _crops_per_image(config, images), run.batch_size)
    metadata = _provenance(teacher, run, config, images.keys, plan.crops_per_image)
    crops: dict[str, Any] = {"crops": "pixels"} if config.store_crops else {"crops": "derived", "sampler": config.sampler}
    layout = {**crops, "image_checksums": images.are_files, "padding": config.padding}
    if out.is_file() and not config.overwrite:
        found = check_made_alike(out, run.num_classes, codec, metadata, layout, config.on_error)
        ending = _ending(images, out, started)
        return EncodeReport(str(out), found.num_images, found.num_images, plan.crops_per_image, found.skipped, *ending, True)
    with SoftLabelWriter(out, run.num_classes, str(codec), metadata, **layout, resume=True, overwrite=config.overwrite) as writer:
        resumed = len(writer)
        earlier = f", {counted(resumed, 'image')} of them by an earlier run" if resumed else ""
        logger.info("%s: labelling %s%s, %s each", out, counted(len(images.keys), "image"), earlier, counted(plan.crops_per_image, "crop"))
        with workers_watched(), saying_what_is_kept(writer):
            _check_labelled(images.source, writer.image_crc32s)
            skipped = _label_images(run, config, plan, images, writer, progress or (lambda done, total: None))
            writer.finish(skipped_keys=list(skipped))
    logger.info("%s: finished with %s, %d skipped", out, counted(len(writer), "image"), len(skipped))
    return EncodeReport(str(out), len(writer), resumed, plan.crops_per_image, skipped, *_ending(images, out, started))


def _crops_per_image(config: EncodeConfig, images: _Images) -> int:
    """Return how many crops of each image are due: as many as are asked for, or as the first readable image has views."""
    if isinstance(config.sampler, CropSampler):
        return config.crops or DEFAULT_CROPS
    key, size = _first_size(config, images)
    views = config.sampler.num_crops(*config.padding.around(size))
    if not 1 <= views <= MAX_CROPS_PER_IMAGE:
        of_image = f"{views} of {config.sampler.height} x {config.sampler.width} pixels of image {key!r} ({size[0]} x {size[1]})"
        raise ArgumentError(
            f"all views: expected 1 to {MAX_CROPS_PER_IMAGE} of an image, got {of_image} with padding of {config.padding.pixels}"
        )
    return views


def _first_size(config: EncodeConfig, images: _Images) -> tuple[str, tuple[int, int]]:
    """Return key, height and width of the first image that can be read."""
    for key in images.keys:
        try:
            return key, read_size(images.source.read(key), where_is(images.source, key), config.exif_orientation)
        except OSError as error:
            if not is_about_the_image(error):
                raise
    raise OSError(f"{name_of(images.source)}: none of {counted(len(images.keys), 'image')} could be read")


class _Images(NamedTuple):
    """The images of a run: their source and keys, and whether they are the bytes of files, which have checksums."""

    source: ImageSource
    keys: KeyList
    are_files: bool


def _open(config: EncodeConfig) -> _Images:
    source = open_images(config.images)
    keys = unique_keys(source.keys(), name_of(source))
    for key in keys:
        try:
            return _Images(source, keys, isinstance(source.read(key), bytes))
        except OSError:  # of an image that cannot be read, which later is reported or skipped
            continue
    return _Images(source, keys, True)


def _ending(images: _Images, out: Path, started: float) -> tuple[list[str], int, float]:
    """Return the last fields of a report: files that are not images, the size of the file, and the time taken."""
    others = images.source.other_files() if isinstance(images.source, FolderSource) else []
    return others, out.stat().st_size, time.monotonic() - started


def _label_images(
    run: TeacherRun, config: EncodeConfig, plan: Plan, images: _Images, writer: SoftLabelWriter, progress: Progress
) -> dict[str, str]:
    keys = images.keys
    done = set(writer.keys)
    due = plan.due([key in done for key in keys])
    cutter = Cutter(run.size, run.interpolation, config.exif_orientation, padding=config.padding)
    batches = CropBatches(images.source, keys, plan, config.sampler, cutter, images.are_files)
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
    if not len(writer):
        raise OSError(
            f"{name_of(images.source)}: none of {counted(len(keys), 'image')} could be read; the first: {next(iter(skipped.values()))}"
        )
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


def _provenance(teacher: Teacher, run: TeacherRun, config: EncodeConfig, keys: Sequence[str], crops: int) -> dict[str, Any]:
    """Return the provenance of the labels for the metadata of the file (spec/container-v1.md, section 4.1)."""
    made_by = {name: value for name in ("weights", "code_sha256") if (value := getattr(teacher, name))}
    return {
        "teacher": {"name": teacher.name, "source": teacher.source, **made_by, "weights_sha256": weights_sha256(teacher.model)},
        "teacher_output": teacher.output,
        "temperature": config.temperature,
        "precision": run.precision,
        "preprocessing": {
            "size": run.size,
            "interpolation": run.interpolation,
            "mean": list(run.mean),
            "std": list(run.std),
            "exif_orientation": config.exif_orientation,
            "color": COLOR_POLICY,
        },
        "crop_sampler": config.sampler.describe(),
        "crops_per_image": crops,
        "images": {"count": len(keys), "keys_sha256": keys_sha256(key.encode() for key in keys)},
        "package": PACKAGE,
        "libraries": library_versions("numpy", "pillow", "torch"),
    }
