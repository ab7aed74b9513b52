"""How near labels are to those of a reference, at the temperatures at which students learn them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = (1.0, 4.0, 20.0)
CROPS_OF_A_MEAN = 320
_NUMBERS_AT_A_TIME = 2**18
"""Values that fit into the caches of a processor."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """How near labels q are to those of a reference p, both softened to a temperature, as means over crops.

    Attributes
    ----------
    temperature : float
        T.
    kl : float or None
        KL(p_T || q_T) in nats; None if it is infinite, because a class with p > 0 has q = 0.
    lost : float or None
        `kl` as a share of KL(p_T || uniform): of all that the labels say, the part that is lost. None if that is unknown.
    total_variation : float
        Half the sum over classes of abs(p_T - q_T), from 0 to 1.
    """

    temperature: float
    kl: float | None
    lost: float | None
    total_variation: float


class FidelityMeter:
    """Measures how near labels are to those of a reference, batch by batch.

    Parameters
    ----------
    of_reference, of_labels : float
        Temperatures at which they were made.
    """

    def __init__(self, of_reference: float = 1.0, of_labels: float = 1.0) -> None:
        self._made_at = of_reference, of_labels
        self._sums = np.zeros((len(TEMPERATURES), 3))
        self._num_crops = 0

    def add(self, reference: NDArray[Any], labels: NDArray[Any]) -> None:
        """Add the targets of some crops, (R, C) each, in the reference and in the labels."""
        self._num_crops += len(labels)
        step = max(1, _NUMBERS_AT_A_TIME // labels.shape[1])
        for start in range(0, len(labels), step):
            self._add(reference[start : start + step], labels[start : start + step])

    def _add(self, reference: NDArray[Any], labels: NDArray[Any]) -> None:
        with np.errstate(divide="ignore"):
            logs = [np.log(rows.astype(np.float64)) for rows in (reference, labels)]
        for row, temperature in enumerate(TEMPERATURES):
            log_p, log_q = (_log_softened(rows, made_at / temperature) for rows, made_at in zip(logs, self._made_at, strict=True))
            p, q = np.exp(log_p), np.exp(log_q)
            with np.errstate(invalid="ignore"):
                kl = np.where(p > 0, p * (log_p - log_q), 0.0).sum(axis=1)
                negative_entropy = np.where(p > 0, p * log_p, 0.0).sum(axis=1)
            variation = np.abs(p - q).sum(axis=1) / 2
            self._sums[row] += np.maximum(kl, 0.0).sum(), (negative_entropy + np.log(p.shape[1])).sum(), variation.sum()

    def result(self) -> list[Fidelity]:
        """Return the fidelity at T = 1, 4 and 20; nothing if there were no crops."""
        if not self._num_crops:
            return []
        means = (self._sums / self._num_crops).tolist()
        return [_fidelity(temperature, *of_all) for temperature, of_all in zip(TEMPERATURES, means, strict=True)]


def _fidelity(temperature: float, kl: float, of_uniform: float, variation: float) -> Fidelity:
    known = bool(np.isfinite(kl))
    return Fidelity(temperature, kl if known else None, kl / of_uniform if known and of_uniform > 0 else None, variation)


def _log_softened(logs: FloatArray, power: float) -> FloatArray:
    """Return the logarithms of rows to a power, normalised, from the logarithms of the rows, (R, C)."""
    scaled = logs * power
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


class SpreadMeter:
    """Measures how much the mean probability of a class varies from one draw of crops to another, batch by batch.

    It is the "stddev of teacher's mean probability" of Wang et al. (NeurIPS 2022), who found that of several augmentations the one with the
    smallest has the best students: the standard deviation of the mean of 320 labels (five batches of 64, as there), as a mean over classes.
    They estimate it from draws; for crops that are drawn independently, as here, it is that of one label divided by the root of 320.
    """

    def __init__(self) -> None:
        self._num_crops, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, labels: NDArray[Any]) -> None:
        """Add the targets of some crops, (R, C)."""
        self._num_crops += len(labels)
        self._sum = self._sum + labels.sum(axis=0, dtype=np.float64)
        self._squares = self._squares + np.einsum("rc,rc->c", labels, labels, dtype=np.float64)

    def result(self) -> float | None:
        """Return the spread; None if there were no crops."""
        if not self._num_crops:
            return None
        variance = np.maximum(self._squares / self._num_crops - (self._sum / self._num_crops) ** 2, 0.0)
        return float(np.sqrt(variance / CROPS_OF_A_MEAN).mean())
