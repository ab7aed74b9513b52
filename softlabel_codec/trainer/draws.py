"""Decides which crops of which images are taken in which step: this depends on the configuration, the epoch and the rank only."""

from __future__ import annotations

from softlabel_codec.checks.wording import counted
from softlabel_codec.errors import ArgumentError
from softlabel_codec.options.train import TrainConfig
from softlabel_codec.torch import SoftLabelSampler


def make_sampler(config: TrainConfig, num_images: int, rank: int = 0, world_size: int = 1) -> SoftLabelSampler:
    """Return the sampler that gives a process the images of each epoch.

    An epoch takes as many crops as there are images. With N crops of an image at a time it visits one Nth of the images, and N epochs
    one after another are a pass over all of them.
    """
    parts = config.crops_per_image
    return SoftLabelSampler(range(num_images), seed=config.seed, rank=rank, world_size=world_size, parts=parts, drop_last=True)


def images_per_step(config: TrainConfig, world_size: int = 1) -> int:
    """Return how many images a process takes in a step."""
    return config.batch_size // config.crops_per_image // world_size


def check_draws(config: TrainConfig, num_images: int, world_size: int = 1) -> None:
    """Check that the images of an epoch can be divided into steps, and those of a step among the processes.

    Raises
    ------
    ArgumentError
        If a step takes more images than an epoch has, or cannot be divided evenly among the processes, or leaves a process a single
        image where crops are to be mixed with those of other images.
    """
    in_step, in_epoch = images_per_step(config), num_images // config.crops_per_image
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
