"""Finds the codec that does best what is asked: all are tried on a part of a pilot, those that may be chosen on all of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from softlabel_codec.choosing.asked import Asked
from softlabel_codec.choosing.candidates import ladders
from softlabel_codec.choosing.pilot import HELD_OUT, Pilot
from softlabel_codec.choosing.trials import Trial, measure
from softlabel_codec.codec import Codec
from softlabel_codec.errors import ArgumentError

_CROPS, _NUMBERS, _FEWEST_IMAGES = 4800, 2**23, 8
"""The part: so many crops, but not more numbers than that, of that many images at least."""
_DOUBT = 1.15
"""By how much what is measured on a part may differ from what is measured on all."""
_STEADY = 0.95
"""A label field that loses more than this, times what the one before it lost, gains nothing from more bytes."""


class Search:
    """A search for the codec that does best what is asked.

    Parameters
    ----------
    pilot : Pilot
        Labels of some images.
    asked : Asked
        What is asked.
    """

    def __init__(self, pilot: Pilot, asked: Asked) -> None:
        self._asked = asked
        self._of_crops = {number: pilot.first_crops(number) for number in asked.numbers_of_crops(pilot.most_crops)}
        self._parts = {number: _part(crops) for number, crops in self._of_crops.items()}
        self._found: dict[tuple[str, int], Trial] = {}
        """What was measured, on a part of the pilot or on all of it."""
        self._on_all: set[tuple[str, int]] = set()

    def best(self) -> Trial:
        """Return the codec to choose; ArgumentError if none takes so few bytes."""
        chosen: Trial | None = None
        for trial in sorted(self._tried_on_parts(), key=self._rank):
            if chosen is not None and self._rank(trial)[0] > self._rank(chosen)[0] * _DOUBT:
                break
            if self._may_do(trial, _DOUBT):
                found = self._measure_on_all(trial)
                if self._may_do(found) and (chosen is None or self._rank(found) < self._rank(chosen)):
                    chosen = found
        if chosen is None:
            least = min(self._found.values(), key=lambda trial: trial.bytes_per_image)
            raise ArgumentError(
                f"bytes_per_image: expected at least {math.ceil(least.bytes_per_image * _DOUBT)}, about what the smallest labels take "
                f"({least.codec}, {least.crops_per_image} crops), got {self._asked.bytes_per_image:g}"
            )
        return chosen

    def best_of_each(self, chosen: Trial) -> list[Trial]:
        """Return what did best of each way to store labels, the fewest bytes first."""
        ways: dict[str, list[Trial]] = {}
        for trial in self._found.values():
            codec = Codec.parse(trial.codec)
            ways.setdefault(f"{codec.family} {bool(codec.tail)}", []).append(trial)
        best = [chosen if chosen in trials else min(trials, key=self._rank_of_failures) for trials in ways.values()]
        return sorted(best, key=lambda trial: trial.bytes_per_image)

    def _tried_on_parts(self) -> list[Trial]:
        """Return what was tried: of each way to store labels more and more bytes, until that is enough."""
        most = max(self._parts)
        for number, part in self._parts.items():
            fields = number == most and part.fewest_crops >= HELD_OUT  # those of fewer crops know less for the same bytes
            for ladder in ladders(part.num_classes, part.kl_of_uniform, fields):
                for trial in _until_steady(measure(part, codec) for codec in ladder):
                    self._found[trial.codec, number] = trial
                    if self._is_enough(trial):
                        break
        return list(self._found.values())

    def _measure_on_all(self, trial: Trial) -> Trial:
        number = trial.crops_per_image
        place = trial.codec, number
        if place not in self._on_all and self._parts[number] is not self._of_crops[number]:
            self._found[place] = measure(self._of_crops[number], Codec.parse(trial.codec))
        self._on_all.add(place)
        return self._found[place]

    def _is_enough(self, trial: Trial) -> bool:
        """Return whether a way to store labels need not be tried with more bytes: what may be chosen takes fewer, or there is enough."""
        if self._asked.bytes_per_image is not None:
            return not self._may_do(trial, _DOUBT)
        fewest = min((one.bytes_per_image for one in self._found.values() if self._may_do(one, 1 / _DOUBT)), default=math.inf)
        return self._may_do(trial, 1 / _DOUBT) or trial.bytes_per_image > fewest * _DOUBT

    def _may_do(self, trial: Trial, doubt: float = 1.0) -> bool:
        """Return whether a codec does what is asked, if what was measured is that much too high."""
        if self._asked.bytes_per_image is not None:
            return trial.bytes_per_image <= self._asked.bytes_per_image * doubt
        assert self._asked.fidelity is not None
        return trial.lost <= self._asked.fidelity * doubt

    def _rank(self, trial: Trial) -> tuple[float, float]:
        """Return what is to be as low as possible."""
        if self._asked.bytes_per_image is None:
            return trial.bytes_per_image, trial.lost
        charged = 0.0 if Codec.parse(trial.codec).family == "field" else self._asked.cost_of(trial.crops_per_image)
        return trial.lost + charged, trial.bytes_per_image

    def _rank_of_failures(self, trial: Trial) -> tuple[float, ...]:
        """Return what is to be as low as possible where none does what is asked."""
        if self._may_do(trial):
            return 0.0, *self._rank(trial)
        return 1.0, trial.bytes_per_image if self._asked.bytes_per_image is not None else trial.lost


def _part(pilot: Pilot) -> Pilot:
    """Return the part of a pilot on which all codecs are tried."""
    most = min(_CROPS, _NUMBERS // pilot.num_classes)
    return pilot.part(max(_FEWEST_IMAGES, -(-most // pilot.most_crops)))


def _until_steady(trials: Iterable[Trial]) -> Iterator[Trial]:
    """Yield trials of a ladder until label fields do not lose less any more."""
    before = math.inf
    for trial in trials:
        yield trial
        if trial.codec.startswith("field") and trial.lost > _STEADY * before:
            break
        before = trial.lost
