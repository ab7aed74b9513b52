"""The average of what several teachers say of the same crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_logits(logits: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the average of the logits (n, C) of some teachers, on the device of the first."""
    if len(logits) == 1:
        return logits[0]
    return _weighted(logits, shares)


def mean_probs(logits: Sequence[Tensor], shares: Sequence[float], average: str, temperature: float) -> Tensor:
    """Return the probabilities (n, C) that some teachers together give crops.

    Parameters
    ----------
    logits : sequence of float32 (n, C)
        Those of each teacher.
    shares : sequence of float
        Share of each; they sum to 1.
    average : str
        What is averaged: `probs`, each teacher's softmax(logits / T), or `logits`, of whose average that is.
    temperature : float
        T.
    """
    if average == "logits" or len(logits) == 1:
        return torch.softmax(mean_logits(logits, shares) / temperature, dim=1)
    return _weighted([torch.softmax(one / temperature, dim=1) for one in logits], shares)


def _weighted(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the sum of shares times parts, in the order of the parts."""
    total = shares[0] * parts[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        total = total + share * part.to(total.device)
    return total
