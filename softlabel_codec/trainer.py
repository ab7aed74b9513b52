"""A minimal training loop for students: stored crops in, sparse soft cross-entropy, AdamW with a cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.torch import SoftLabelDataset, collate_crops, soft_cross_entropy


@dataclass(frozen=True)
class StudentConfig:
    """How a student is trained.

    Attributes
    ----------
    epochs : int
        Passes over the images; each takes `crops_per_image` crops of every image.
    images_per_step : int
        Images in a step; times the dataset's `crops_per_image` gives the batch of crops.
    learning_rate : float
        Peak, reached after the warm-up.
    warmup : float
        Share of all steps in which the learning rate rises; afterwards it falls along a half cosine.
    weight_decay : float
        Of AdamW; not on biases and norms.
    seed : int
        Order of the images.
    device : str
        Where to train.
    workers : int
        DataLoader workers.
    """

    epochs: int = 10
    images_per_step: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    seed: int = 0
    device: str = "cpu"
    workers: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.images_per_step) < 1 or min(self.learning_rate, self.warmup, self.weight_decay, self.workers) < 0:
            raise ArgumentError(f"a student needs at least one epoch, one image per step, and no negative numbers, got {self}")


def train_student(
    model: nn.Module, dataset: SoftLabelDataset, config: StudentConfig, on_step: Callable[[float], None] | None = None
) -> float:
    """Train a model from stored labels, in place, and return the mean loss of its last epoch.

    Parameters
    ----------
    model : nn.Module
        Images (B, 3, size, size) to logits (B, C).
    dataset : SoftLabelDataset
        Images and labels.
    config : StudentConfig
        How.
    on_step : callable, optional
        Called with the loss after each step.

    Raises
    ------
    StateError
        If the loss is not a number: the learning rate is too high.
    """
    model.to(config.device).train()
    order = torch.Generator().manual_seed(config.seed)
    loader = DataLoader(
        dataset,
        batch_size=config.images_per_step,
        shuffle=True,
        generator=order,
        collate_fn=collate_crops,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    steps = config.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_with_warmup(step / steps, config.warmup))
    losses = torch.zeros(len(loader))
    for epoch in range(config.epochs):
        dataset.set_epoch(epoch)
        for step, (images, labels) in enumerate(loader):
            loss = soft_cross_entropy(model(images.to(config.device)), labels.to(config.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses[step] = loss.detach()
            if not torch.isfinite(losses[step]):
                raise StateError(f"epoch {epoch}, step {step}: the loss is {float(losses[step])}: lower the learning rate")
            if on_step:
                on_step(float(losses[step]))
    return float(losses.mean())


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor, batch_size: int = 256) -> float:
    """Return the share of images (n, 3, H, W), normalised, that the model gives their class (n,)."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    right = 0
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        right += int((model(images[part].to(device)).argmax(dim=1).cpu() == classes[part]).sum())
    model.train(was_training)
    return right / len(images)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return the parameters with weight decay (matrices and filters) and without (biases and norms)."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def cosine_with_warmup(progress: float, warmup: float) -> float:
    """Return the factor of the peak learning rate at a share of all steps, 0 to 1."""
    if progress < warmup:
        return (progress + 1e-8) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1e-8, 1 - warmup)))
