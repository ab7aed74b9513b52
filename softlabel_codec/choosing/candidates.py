"""The codecs among which one is chosen: for each way to store labels a ladder, from few bytes to many."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from softlabel_codec.codec import MAX_COST, MAX_GAIN, MIN_COST, MIN_GAIN, Codec
from softlabel_codec.errors import ArgumentError

_SHORT, _MIDDLE, _LONG = (0.3, 0.2, 0.1, 0.05), (0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01), (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002)
_TAILS = {"tail=30": _SHORT, "tail=100": _MIDDLE, "tail=300": _LONG, "tail=all": _LONG, "tail=all,mean=log": (*_LONG, 0.001)}
"""For each tail, thresholds of the classes that are kept."""
_THRESHOLDS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
_GAINS = (0.05, 0.03, 0.02, 0.01, 0.007, 0.005, 0.003, 0.002, 0.0014, 0.001, 5e-4, 2e-4)
"""What naming a class of a crop gains at least, as shares lost. It is for few crops: most of their bytes are tails."""
_COSTS = (1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6)
"""What a byte of a field costs, as shares lost."""
_STEPS = (2, 1.4, 1, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.04)
_VALUES = (*(f"log8,step={step}" for step in _STEPS), "f16", "f32")


def ladders(num_classes: int, kl_of_uniform: float, fields: bool) -> list[list[Codec]]:
    """Return the codecs that are tried.

    Parameters
    ----------
    num_classes : int
        C.
    kl_of_uniform : float
        Mean KL(p || uniform) of the labels, in nats.
    fields : bool
        Whether label fields are tried.

    None of the codecs says that a class is impossible which the teacher finds possible, as `hard` and `marginal_renorm` do: their KL is
    infinite.
    """
    written = [["smoothing", *(f"marginal_smoothing:t={threshold}" for threshold in _THRESHOLDS)]]
    written += [[f"marginal_smoothing:t={threshold},{_cut(tail, num_classes)}" for threshold in _TAILS[tail]] for tail in _TAILS]
    gains = [np.clip(share * kl_of_uniform, MIN_GAIN, MAX_GAIN) for share in _GAINS]
    written.append([f"marginal_smoothing:gain={gain:.2g},{_cut('tail=300', num_classes)}" for gain in gains])
    if fields:
        costs = [np.clip(share * kl_of_uniform, MIN_COST, MAX_COST) for share in _COSTS]
        written.append([f"field:cost={cost:.1g}" for cost in costs])
    written.append([f"dense:values={values}" for values in _VALUES])
    seen: set[Codec] = set()
    return [_new(filter(None, (_possible(text, num_classes) for text in ladder)), seen) for ladder in written]


def _cut(tail: str, num_classes: int) -> str:
    """Return a tail of at most as many classes as there are."""
    listed = tail.removeprefix("tail=")
    return f"tail={num_classes}" if listed.isdigit() and int(listed) > num_classes else tail


def _possible(text: str, num_classes: int) -> Codec | None:
    """Return a codec, None if it is not one for so many classes."""
    try:
        codec = Codec.parse(text)
        codec.check_classes(num_classes)
    except ArgumentError:
        return None
    return codec


def _new(codecs: Iterable[Codec], seen: set[Codec]) -> list[Codec]:
    """Return those codecs that were not seen before, and note them."""
    found = [codec for codec in codecs if codec not in seen]
    seen.update(found)
    return found
