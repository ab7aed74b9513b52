"""Fits a label field to the labels that a teacher gave to crops of one image (spec/field-v1.md, section 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_LEVEL, MAX_SLOPE = 255, 127
MAX_CLASSES = 65535
NEWTON_STEPS = 4
ROUNDS, ROUNDS_OF_BITS = 60, 5
"""How often numbers are changed, and after how many times the bits that they take are estimated again."""
FEWEST_BITS = 5
"""A class takes at least so many."""
FEWEST_CHANGES = 8
RIDGE = 0.003
"""Weight of the squared slopes against the squared errors of logs in the least-squares start."""
PULL = 0.01
"""Weight of half the squared slopes, times the root of the class's mean probability, against the KL in Newton's method."""
PULL_OF_FEW = 0.2
"""The same while numbers are rounded, times the number of crops: fields of few crops would follow them too closely."""
LARGEST = 60.0
"""Logits are cut off here while they are fitted: larger ones do not change the softmax, but overflow."""
LEAST = 1e-6 - 1
"""A class that has all of the probability leaves at least a millionth."""


class FieldNumbers(NamedTuple):
    """The numbers of a field: n listed classes, ascending, their levels, (n,), and their slopes along F features, (F, n)."""

    classes: Ints
    levels: Ints
    slopes: Ints


class FieldTask(NamedTuple):
    """Labels that a field is to be made of.

    Attributes
    ----------
    probs : float32 (M, C)
        The teacher's probabilities of the crops of one image, in whatever kind of array the fitting function takes.
    features : float64 (M, F + 1)
        Features of the crops; the first one is 1.
    left_out : bool (M,), or None
        Crops that the field is measured on, and not made from; if None, it is both made from and measured on all.
    """

    probs: Any
    features: Floats
    left_out: NDArray[np.bool_] | None = None


FitFields = Callable[[Sequence[FieldTask], float, float], list[tuple[FieldNumbers, float]]]
"""Returns the field of each task and its mean KL, for a step of the logits and a cost of a byte, as in `fit_field`."""


class Bits(NamedTuple):
    """About how many bits the numbers of a field take in a file.

    Attributes
    ----------
    levels : float64 (MAX_LEVEL + 1,)
        Of each level.
    slopes : float64 (MAX_SLOPE + 1,)
        Of each size of a slope, 0 for none.
    """

    levels: Floats
    slopes: Floats

    @classmethod
    def of(cls, numbers: Ints) -> Bits:
        """Return those of a field with levels and slopes (F + 1, n) like these: an estimate of what an entropy coder makes of them."""
        levels, sizes = numbers[0], np.abs(numbers[1:])
        stored = sizes[sizes > 0]
        share = (len(stored) + 4) / (sizes.size + 10)
        slopes = np.empty(MAX_SLOPE + 1)
        slopes[0] = -np.log2(1 - share)
        slopes[1:] = 1 - np.log2(share) + _geometric_bits(float((stored - 1).sum() + 2) / (len(stored) + 4), MAX_SLOPE)
        middle = int(np.median(levels)) if len(levels) else 0
        to_middle = _geometric_bits(float(np.abs(levels - middle).sum() + 8) / (len(levels) + 4), MAX_LEVEL + 1)
        return cls(1 + to_middle[np.abs(np.arange(MAX_LEVEL + 1) - middle)], slopes)


def _geometric_bits(mean: float, count: int) -> Floats:
    """Return what the numbers 0, 1, ... of a geometric distribution with this mean take."""
    bits: Floats = np.log2(1 + mean) + np.arange(count) * np.log2((1 + mean) / mean)
    return bits


def fit_one_by_one(tasks: Sequence[FieldTask], step: float, cost: float) -> list[tuple[FieldNumbers, float]]:
    """Return for each task its field, and the mean KL of the labels from it in nats; probabilities are numpy arrays."""
    found = []
    for probs, features, left_out in tasks:
        fitted, measured = (slice(None), slice(None)) if left_out is None else (~left_out, left_out)
        numbers = fit_field(probs[fitted], features[fitted], step, cost)
        found.append((numbers, mean_kl(probs[measured], features[measured], numbers, step)))
    return found


def fit_field(probs: NDArray[np.float32], features: Floats, step: float, cost: float) -> FieldNumbers:
    """Return the field that approximates labels.

    Parameters
    ----------
    probs : float32 (M, C)
        The teacher's probabilities of M crops.
    features : float64 (M, F + 1)
        Features of the crops; the first one is 1.
    step : float
        Step of the logits, in nats.
    cost : float
        What a byte costs, in nats of mean KL.
    """
    price = cost / 8
    classes = _candidates(probs, price * FEWEST_BITS)
    likelihood = _Likelihood(probs, classes, features)
    real = likelihood.newton(likelihood.least_squares())
    numbers = _Rounding(likelihood, real, step, price).best()
    return listed_numbers(numbers, classes)


def listed_numbers(numbers: Ints, classes: Ints) -> FieldNumbers:
    """Return the field that lists those of some classes (K,) that have a level or a slope, (F + 1, K), but one at least: the first."""
    listed = np.flatnonzero(numbers.any(axis=0))
    if not len(listed):
        listed = np.zeros(1, np.int64)
    listed = listed[np.argsort(classes[listed])]
    return FieldNumbers(classes[listed], numbers[0, listed], numbers[1:, listed])


def mean_kl(probs: NDArray[np.float32], features: Floats, numbers: FieldNumbers, step: float) -> float:
    """Return the mean over crops of KL(probs || field), in nats, at least 0."""
    logits = features @ (np.concatenate([numbers.levels[None], numbers.slopes]) * step)
    top = np.maximum(logits.max(axis=1), 0)
    num_others = probs.shape[1] - len(numbers.classes)
    total = np.exp(logits - top[:, None]).sum(axis=1) + num_others * np.exp(-top)
    known = (probs[:, numbers.classes] * logits).sum(axis=1, dtype=np.float64)
    return max(0.0, float((top + np.log(total) - known).mean()) - _mean_entropy(probs))


def _mean_entropy(probs: NDArray[np.float32]) -> float:
    logs = np.log(np.maximum(probs, np.float32(1e-37)))
    return -float(np.einsum("mc,mc->", probs, logs, dtype=np.float64)) / len(probs)


def _candidates(probs: NDArray[np.float32], price: float) -> Ints:
    """Return the classes that may be worth a price, in nats, the most probable first: not all of them, one at least.

    What a class gains is at most the KL of its probabilities from that of a class without a logit.
    """
    means = probs.mean(axis=0, dtype=np.float64)
    order = np.argsort(-means, kind="stable")
    likely = order[: min(128, len(order) // 2)]
    floor = max(1e-12, float(1 - means[likely].sum()) / (len(order) - len(likely)))
    order = order[: min(MAX_CLASSES, len(order) - 1)]
    of_classes = probs[:, order[: int(np.searchsorted(-means[order], -floor / 8))]]
    gains = (of_classes * np.log(np.maximum(of_classes / floor, 1e-9)) - of_classes).mean(axis=0, dtype=np.float64) + floor
    worth = gains > price
    worth[:1] = True
    return order[: len(gains)][worth] if len(gains) else order[:1]


class _Likelihood:
    """The mean KL of labels from a field, as a function of levels and slopes, float32 (F + 1, K), of K candidate classes."""

    def __init__(self, probs: NDArray[np.float32], classes: Ints, features: Floats) -> None:
        self.features = features.astype(np.float32)
        self.probs = probs[:, classes]
        self.means = self.probs.mean(axis=0)
        self.known = self.features.T @ self.probs / len(probs)
        self.pull = np.zeros((features.shape[1], 1), np.float32) + np.sqrt(self.means)
        self.pull[0] = 0
        self.num_classes = probs.shape[1]
        self._num_others = self.num_classes - len(classes)

    def targets(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the softmax over all classes of the logits (M, K) of the candidates; the others have 0."""
        powers = np.exp(np.minimum(logits, LARGEST))
        return np.asarray(powers / (powers.sum(axis=1, keepdims=True) + self._num_others), np.float32)

    def least_squares(self) -> NDArray[np.float32]:
        """Return where to start: the fit of the logs of the probabilities, relative to that of the other classes."""
        others = np.maximum(1 - self.probs.sum(axis=1, keepdims=True), 1e-6) / self._num_others
        logs = np.log(np.maximum(self.probs, 1e-9)) - np.log(others)
        num_crops, size = self.features.shape
        ridge = np.diag([1e-6] + [RIDGE] * (size - 1))
        found = np.linalg.solve(self.features.T @ self.features / num_crops + ridge, self.features.T @ logs / num_crops)
        return np.asarray(found, np.float32)

    def newton(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return better levels and slopes; each step treats the classes as if they were independent."""
        num_crops, size = self.features.shape
        pull = PULL * self.pull
        products = (self.features[:, :, None] * self.features[:, None, :]).reshape(num_crops, -1)
        diagonal = np.eye(size, dtype=np.float32) * (pull.T[:, :, None] + np.float32(1e-5))
        for _ in range(NEWTON_STEPS):
            targets = self.targets(self.features @ weights)
            slope = self.features.T @ targets / num_crops - self.known + pull * weights
            curvature = (np.maximum(targets, self.probs).T @ products / num_crops).reshape(-1, size, size) + diagonal
            weights = weights - np.clip(np.linalg.solve(curvature, slope.T[:, :, None])[:, :, 0].T, -2, 2).astype(np.float32)
        return weights


class _Rounding:
    """Rounds levels and slopes, and changes one after another as long as KL + price * bits falls."""

    def __init__(self, likelihood: _Likelihood, real: NDArray[np.float32], step: float, price: float) -> None:
        self._likelihood, self._step, self._price = likelihood, np.float32(step), price
        self._squares = likelihood.features**2
        rounded = np.rint(real / step).astype(np.int64)
        self._largest = np.full((len(real), 1), MAX_SLOPE)
        self._largest[0] = MAX_LEVEL
        self._smallest = -self._largest
        self._smallest[0] = 0
        self._numbers: Ints = np.clip(rounded, self._smallest, self._largest)

    def best(self) -> Ints:
        """Return levels and slopes, int64 (F + 1, K); all are 0 of a class that is not to be listed."""
        numbers = self._numbers
        most = max(FEWEST_CHANGES, numbers.shape[1] // 5)
        for round_number in range(ROUNDS):
            if round_number % ROUNDS_OF_BITS == 0:
                self._bits = Bits.of(numbers[:, numbers.any(axis=0)])
            gains, row, change = self._changes()
            chosen = np.argsort(gains, kind="stable")[:most]
            chosen = chosen[gains[chosen] < -1e-7]
            if not len(chosen):
                break
            dropped = chosen[row[chosen] < 0]
            changed = chosen[row[chosen] >= 0]
            numbers[:, dropped] = 0
            numbers[row[changed], changed] += change[changed]
            most = max(FEWEST_CHANGES, most * 9 // 10)
        return numbers

    def _changes(self) -> tuple[Floats, Ints, Ints]:
        """Return for each class (K,) the best change, by its effect: what it adds to the sum, which number it changes and by how much.

        A number of -1 means that the class is dropped from the list.
        """
        likelihood, numbers, price, step = self._likelihood, self._numbers, self._price, self._step
        num_crops = len(likelihood.features)
        logits = likelihood.features @ (numbers * step).astype(np.float32)
        targets = likelihood.targets(logits)
        pull = PULL_OF_FEW / num_crops * likelihood.pull
        slope = likelihood.features.T @ targets / num_crops - likelihood.known + pull * numbers * step
        curvature = self._squares.T @ (targets * (1 - targets)) / num_crops + pull
        listed = np.asarray(numbers.any(axis=0))
        cells = self._bits_of(numbers)
        to_list = self._bits_to_list(listed)
        row_bits = cells.sum(axis=0) + to_list
        best = np.zeros(numbers.shape)
        change = np.zeros_like(numbers)
        for kind in (1, -1, 0):
            difference = np.full_like(numbers, kind) if kind else -numbers
            new = numbers + difference
            possible = (new >= self._smallest) & (new <= self._largest)
            new_cells = self._bits_of(np.clip(new, self._smallest, self._largest))
            more_bits = np.where(listed, new_cells - cells, row_bits + new_cells - cells)
            moved = difference * step
            effect = slope * moved + 0.5 * curvature * moved * moved + price * more_bits
            better = possible & (difference != 0) & (effect < best)
            best[better], change[better] = effect[better], difference[better]
        row = best.argmin(axis=0)
        column = np.arange(numbers.shape[1])
        gains, change_of_class = best[row, column], change[row, column]
        others = np.maximum(targets * (np.exp(np.minimum(-logits, LARGEST)) - 1), LEAST)
        without = np.log1p(others).mean(axis=0) + (likelihood.known * numbers * step).sum(axis=0)
        dropping = np.where(listed, without - price * row_bits, 0)
        drop = dropping < gains
        return np.where(drop, dropping, gains), np.where(drop, -1, row), change_of_class

    def _bits_of(self, numbers: Ints) -> Floats:
        bits = self._bits.slopes[np.abs(numbers).clip(0, MAX_SLOPE)]
        bits[0] = self._bits.levels[numbers[0]]
        return np.asarray(bits)

    def _bits_to_list(self, listed: NDArray[Any]) -> float:
        """Return about how many bits it takes to list a class: of an ascending sequence of so many out of C."""
        num_classes = self._likelihood.num_classes
        return float(np.log2(num_classes / max(1, int(listed.sum())))) + 1.44
