"""How sure targets are, and how far those of two label sets lie apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels import Labels

NUMBERS_AT_A_TIME = 2**22
"""Count of targets that are computed at a time, unless one crop has more."""
Floats = NDArray[np.float64]


class Distances(NamedTuple):
    """How far the targets q of some crops lie from those of the same crops in another set, p; each float64 (R,).

    Attributes
    ----------
    kl : KL(p || q) in nats; infinite where q gives no probability to a class to which p gives some.
    cross_entropy : -sum p ln q in nats, infinite likewise.
    variation : total variation, half the sum of |p - q|: from 0 to 1.
    """

    kl: Floats
    cross_entropy: Floats
    variation: Floats


def parts(num_crops: int, num_classes: int) -> Iterator[slice]:
    """Yield slices of crops whose targets take little memory together."""
    step = max(1, NUMBERS_AT_A_TIME // num_classes)
    return (slice(first, min(first + step, num_crops)) for first in range(0, num_crops, step))


def targets_of(labels: Labels) -> Floats:
    """Return the targets of crops, float64 (R, C), which sum to 1."""
    targets = labels.dense().astype(np.float64)
    normalised: Floats = targets / targets.sum(axis=1, keepdims=True)
    return normalised


def entropy(targets: Floats) -> Floats:
    """Return the entropy of targets (R, C) in nats, (R,)."""
    return np.asarray(-(targets * np.log(np.where(targets > 0, targets, 1))).sum(axis=1))


def sureness(labels: Labels) -> tuple[Floats, Floats]:
    """Return the largest target and the entropy in nats of each crop, both (R,)."""
    found: list[tuple[Any, Any]] = []
    for rows in parts(len(labels), labels.num_classes):
        targets = targets_of(labels[rows])
        found.append((targets.max(axis=1), entropy(targets)))
    maxima, entropies = (np.concatenate(values) for values in zip(*found, strict=True))
    return maxima, entropies


def distances(p: Floats, q: Floats) -> Distances:
    """Return how far targets q lie from p, both (R, C)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, -p * np.log(q), 0.0)
    cross_entropy = terms.sum(axis=1)
    return Distances(np.maximum(cross_entropy - entropy(p), 0.0), cross_entropy, np.abs(p - q).sum(axis=1) / 2)
