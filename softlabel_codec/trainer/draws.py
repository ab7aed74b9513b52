"""Which crops of which images are taken in which step: a function of the configuration, the epoch and the rank only."""

from __future__ import annotations

from typing import NamedTuple

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.torch import ImageTurn, SoftLabelSampler

Step = list[ImageTurn]


class Epoch(NamedTuple):
    """What an epoch takes.

    Attributes
    ----------
    crops_per_image : int
        How many crops of an image are taken at a time, N.
    number : int
        The epoch as a sampler that gives N crops at a time counts it.
    """

    crops_per_image: int
    number: int


def epoch_of(config: TrainConfig, epoch: int) -> Epoch:
    """Return what an epoch takes: as many crops as there are images.

    With N crops at a time it visits one Nth of the images, and N epochs one after another are a pass over all of them. The single crops
    of the last epochs, if there are such, go on where the passes stopped.
    """
    first_single = config.epochs - config.single_crop_epochs
    if epoch < first_single:
        return Epoch(config.crops_per_image, epoch)
    passes = -(-first_single // config.crops_per_image)
    return Epoch(1, passes * config.crops_per_image + epoch - first_single)


def make_sampler(config: TrainConfig, num_images: int, crops_per_image: int, rank: int = 0, world_size: int = 1) -> SoftLabelSampler:
    """Return what gives a process the images of epochs that take so many crops of each at a time."""
    how = {"rank": rank, "world_size": world_size, "parts": crops_per_image, "drop_last": True}
    return SoftLabelSampler(range(num_images), seed=config.seed, **how)  # type: ignore[arg-type]


def images_per_step(config: TrainConfig, crops_per_image: int, world_size: int = 1) -> int:
    """Return how many images a process takes in a step."""
    return config.batch_size // crops_per_image // world_size


def num_steps(config: TrainConfig, num_images: int, epoch: int) -> int:
    """Return how many steps an epoch has. What is left over at its end, and does not fill a step, is left out."""
    crops_per_image = epoch_of(config, epoch).crops_per_image
    return num_images // crops_per_image // images_per_step(config, crops_per_image)


def epoch_steps(config: TrainConfig, num_images: int, epoch: int, rank: int = 0, world_size: int = 1) -> list[Step]:
    """Return what a process takes in each step of an epoch: images and turns."""
    crops_per_image, number = epoch_of(config, epoch)
    sampler = make_sampler(config, num_images, crops_per_image, rank, world_size)
    sampler.set_epoch(number)
    taken, share = list(sampler), images_per_step(config, crops_per_image, world_size)
    return [taken[step * share : (step + 1) * share] for step in range(num_steps(config, num_images, epoch))]


def check_draws(config: TrainConfig, num_images: int, world_size: int = 1) -> None:
    """Check how steps fit into epochs; all epochs are like the first or like the last.

    Raises
    ------
    ArgumentError
        If a step takes more images than an epoch has, or cannot be shared evenly by the processes, or leaves a process a single image
        where crops are to be mixed with those of other images.
    """
    for epoch in (0, config.epochs - 1):
        crops_per_image = epoch_of(config, epoch).crops_per_image
        in_step, in_epoch = images_per_step(config, crops_per_image), num_images // crops_per_image
        images, crops = counted(in_step, "image"), counted(config.batch_size, "crop")
        if in_step % world_size:
            raise ArgumentError(f"batch_size: {crops} are {images}, which {world_size} processes cannot share evenly")
        if in_step > in_epoch:
            raise ArgumentError(f"batch_size: a step takes {images}, but an epoch has only {in_epoch}: make it smaller")
        if in_step == world_size and (config.mixup or config.cutmix):
            raise ArgumentError(
                f"batch_size: a step takes one image in each process, got mixup={config.mixup:g} and cutmix={config.cutmix:g}, which mix "
                "crops of different images: make it larger, or crops_per_image smaller"
            )
