"""Which crops of which images are taken in which step: a function of the configuration, the epoch and the rank only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.train import TrainConfig


class Draw(NamedTuple):
    """Crops of one image that are taken together.

    Attributes
    ----------
    image : int
        Its number.
    place : int
        How many crops of it were taken before: where to go on in the order of its crops.
    num_crops : int
        How many are taken now.
    """

    image: int
    place: int
    num_crops: int


Step = list[Draw]


def epoch_draws(config: TrainConfig, num_images: int, epoch: int, rank: int = 0, world_size: int = 1) -> list[Step]:
    """Return what a process takes in each step of an epoch.

    An epoch takes as many crops as there are images. With N crops at a time it visits one Nth of the images, and N epochs one after
    another are a pass over all of them, in an order of its own. What is left over at the end of an epoch and does not fill a step, is
    left out; the next pass has another order.

    Raises
    ------
    ArgumentError
        If a step takes more images than an epoch has, or cannot be shared evenly by the processes, or leaves a process a single image
        where crops are to be mixed with those of other images.
    """
    at_a_time, order, place = _order(config, num_images, epoch)
    images_per_step = config.batch_size // at_a_time
    images = counted(images_per_step, "image")
    if images_per_step % world_size:
        crops = counted(config.batch_size, "crop")
        raise ArgumentError(f"batch_size: {crops} are {images}, which {world_size} processes cannot share evenly")
    if images_per_step > len(order):
        raise ArgumentError(f"batch_size: a step takes {images}, but an epoch has only {len(order)}: make it smaller")
    share = images_per_step // world_size
    if share == 1 and (config.mixup or config.cutmix):
        raise ArgumentError(
            f"batch_size: a step takes one image in each process, got mixup={config.mixup:g} and cutmix={config.cutmix:g}, which mix crops "
            "of different images: make it larger, or crops_per_image smaller"
        )
    steps = []
    for start in range(0, len(order) - images_per_step + 1, images_per_step):
        mine = order[start + rank * share : start + (rank + 1) * share]
        steps.append([Draw(image, place, at_a_time) for image in mine.tolist()])
    return steps


def check_draws(config: TrainConfig, num_images: int, rank: int = 0, world_size: int = 1) -> None:
    """Raise the ArgumentError that `epoch_draws` would raise for any epoch; all are like the first or like the last."""
    for epoch in (0, config.epochs - 1):
        epoch_draws(config, num_images, epoch, rank, world_size)


def _order(config: TrainConfig, num_images: int, epoch: int) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """Return how many crops of an image are taken at a time, the images of an epoch in order, and how many crops were taken before."""
    at_a_time, first_single = config.crops_per_image, config.epochs - config.single_crop_epochs
    passes = -(-first_single // at_a_time)
    if epoch < first_single:
        number, part = divmod(epoch, at_a_time)
        place, per_epoch = number * at_a_time, num_images // at_a_time
    else:
        number, part = passes + epoch - first_single, 0
        place, per_epoch, at_a_time = passes * at_a_time + epoch - first_single, num_images, 1
    order = np.random.default_rng([config.seed, number]).permutation(num_images)
    return at_a_time, order[part * per_epoch : (part + 1) * per_epoch], place
