"""Optimisers, their parameter groups and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from softlabel_codec.options.train import MOMENTUM, TrainConfig

NOT_DECAYED = ("class_token", "positions", "cls_token", "dist_token", "pos_embed", "pos_embedding")
"""What tokens and positions of transformers are called here, in timm and in torchvision."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser that a configuration asks for."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    momentum = MOMENTUM if config.momentum is None else config.momentum
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=momentum, nesterov=config.nesterov)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters with weight decay (matrices and filters) and without (biases, norms, tokens and positions)."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    fixed = {name for name, parameter in trained if parameter.ndim <= 1 or name.rpartition(".")[2] in NOT_DECAYED}
    decayed = [parameter for name, parameter in trained if name not in fixed]
    others = [parameter for name, parameter in trained if name in fixed]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate(config: TrainConfig, start: float, end: float) -> float:
    """Return the learning rate of a step from `start` to `end` in epochs: rising for the warm-up, then falling along a half cosine to 0."""
    if end < config.warmup_epochs:
        return config.learning_rate * end / config.warmup_epochs
    rest = max(1e-8, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, start - config.warmup_epochs) / rest)))
