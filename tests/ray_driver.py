"""A driver of Ray's that labels the images in a folder, to be killed by a test: `ray_driver.py ADDRESS FOLDER OUT TEACHER CODEC`."""

import sys
from pathlib import Path

import ray

from softlabel_codec.ray import label_images, labelling

CROPS = 100
IMAGES_PER_PART = 4


def images_in(folder):
    """Return the images in a folder as a Ray Dataset."""
    rows = ray.data.read_binary_files(str(folder), include_paths=True)
    return rows.map(lambda row: {"key": Path(row["path"]).relative_to(folder).as_posix(), "bytes": row["bytes"]})


def label(folder, out, teacher, **options):
    """Label the images in a folder by two actors."""
    labelling.CROPS_PER_PART = CROPS * IMAGES_PER_PART
    return label_images(images_in(folder), out, teacher, concurrency=2, crops=CROPS, **options)


if __name__ == "__main__":
    address, folder, out, teacher, codec = sys.argv[1:]
    ray.init(address)
    label(folder, out, teacher, codec=codec)
