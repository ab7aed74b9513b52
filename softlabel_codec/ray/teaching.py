"""A teacher in an actor of Ray's: from rows with images to parts of a label set."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.metadata import Description, difference
from softlabel_codec.errors import MismatchError
from softlabel_codec.image_source import ImageData
from softlabel_codec.images.sources import MappingSource
from softlabel_codec.images.sources.keys import unique_keys
from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.ray.parts import description_of_parts, new_writer
from softlabel_codec.teacher.job import prepare
from softlabel_codec.teacher.labelling import label_images

Columns = dict[str, NDArray[Any]]
ROWS = "the Ray Dataset"
"""What to call the source of images in errors."""


def describe(config: EncodeConfig, first: Mapping[str, ImageData]) -> tuple[Description, int]:
    """Load the teacher and return what parts say of themselves, and how many crops each image has, given the first image by its key."""
    job = prepare(replace(config, images=first))
    return description_of_parts(job.description), job.crops_per_image


class PartLabeller:
    """Labels batches of rows, each of which becomes a part. The class of an actor: the teacher is loaded once.

    Parameters
    ----------
    config : EncodeConfig
        Options of the run.
    first : mapping
        The first image of the dataset, by its key.
    column : str
        Column of the images: `bytes` of files, or `image`, uint8 arrays.
    expected : Description
        What parts must say of themselves.

    Raises
    ------
    MismatchError
        If the teacher, or what runs it, is another one here than where the run was started.
    """

    def __init__(self, config: EncodeConfig, first: Mapping[str, ImageData], column: str, expected: Description) -> None:
        job = prepare(replace(config, images=first))
        found = description_of_parts(job.description)
        if found != expected:
            raise MismatchError(f"teacher {config.teacher}: differs between the nodes of the cluster: {difference(found, expected)}")
        self._job, self._column = replace(job, description=expected), column

    def __call__(self, rows: Columns) -> Columns:
        """Return one row for a batch: `part`, the bytes of a finished label file, whose keys ascend."""
        images = sorted(zip(rows["key"].tolist(), rows[self._column], strict=True), key=lambda pair: str(pair[0]))
        if not images:
            return {"part": np.empty(0, object)}
        keys = unique_keys((key for key, _ in images), ROWS)
        job = replace(self._job, source=MappingSource(dict(images)), keys=keys)
        file = io.BytesIO()
        with new_writer(file, job.description) as writer:
            skipped = label_images(job, keys, writer, lambda done, total: None)
            writer.finish(skipped_keys=list(skipped))
        return {"part": np.array([file.getvalue()], object)}
