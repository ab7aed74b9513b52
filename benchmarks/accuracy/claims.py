"""What is objected to stored labels, what is claimed against it, and whether that holds, as far as the runs at hand tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.accuracy.evidence import TITLES, Results, interval, number, table
from benchmarks.accuracy.plan import (
    ALL,
    CROPS_PER_IMAGE,
    DEFAULT,
    FEW,
    FEW_DRAWS,
    FIELD,
    FULL,
    HIGH_TEMPERATURE,
    LOG_TAIL,
    LOGARITHMS,
    MANY_DRAWS,
    MIXUP,
    ONLINE,
    PADDED,
    STORED_CROPS,
    TAIL,
    TRUTH,
    USUAL_CROPS_PER_IMAGE,
    VIEWS,
    Row,
)
from softlabel_codec.compare.outcome import Interval
from softlabel_codec.quantise.neighbours import NEIGHBOURS

FEWEST_SEEDS = 5
"""Pairs of students that a verdict needs."""
KEPT, LOST = 0.3, 0.5
"""What a codec may cost in points, and how far its interval may reach."""
HOLDS, FAILS, UNKNOWN = "holds", "**does not hold**", "not yet known"
FRESH = "Stored labels overfit; distillation needs fresh crops"
FIDELITY = "Compression costs accuracy, most of all where the teacher is unsure"
SOFTER = "It works at T = 1 only"
BASELINE = "The classes alone would do as well"
TOGETHER = "Several crops of an image in a batch are too much alike"
OBJECTIONS = (FRESH, FIDELITY, SOFTER, BASELINE, TOGETHER)


@dataclass(frozen=True)
class Claim:
    """That students of one row do about as well as, or better than, those of another.

    Attributes
    ----------
    objection : str
        What it answers, one of `OBJECTIONS`.
    said : str
        The claim.
    row, other : Row
        What is compared.
    judge : callable
        Returns of the interval of the difference whether the claim holds; None: it cannot be told.
    """

    objection: str
    said: str
    row: Row
    other: Row
    judge: Callable[[Interval], bool | None]

    def verdict(self, one: Results) -> str:
        """Return whether the claim holds by the results of a scale: `HOLDS`, `FAILS` or `UNKNOWN`."""
        found = one.difference(self.row, self.other)
        if found is None or one.pairs(self.row, self.other) < FEWEST_SEEDS:
            return UNKNOWN
        return {True: HOLDS, False: FAILS, None: UNKNOWN}[self.judge(found)]


def render(results: Sequence[Results]) -> str:
    """Return each objection with the claims against it: what was compared, in how many pairs, with what outcome."""
    parts = []
    for objection in OBJECTIONS:
        lines, not_run = [], 0
        for one in results:
            claims = [claim for claim in claims_of(one) if claim.objection == objection]
            judged = [claim for claim in claims if one.pairs(claim.row, claim.other)]
            not_run += len(claims) - len(judged)
            where = TITLES[one.scale].removeprefix("On a ")
            for claim in judged:
                compared = claim.row, claim.other
                seen = interval(one.difference(*compared)), number(one.seen_from(*compared), 1)
                lines.append((claim.said, where, one.pairs(*compared), *seen, claim.verdict(one)))
        said = (
            table(["claim", "on a", "pairs", "difference", "seen from", "verdict"], lines) if lines else "Nothing has been run on this yet."
        )
        left = f"\n\nClaims of which no pair has been run yet: {not_run}." if not_run and lines else ""
        parts.append(f"**“{objection}.”**\n\n{said}{left}")
    return "\n\n".join(parts)


def claims_of(one: Results) -> list[Claim]:
    """Return the claims that runs of a scale can tell about: those whose rows have been run or are planned."""
    known = one.runs.keys() | one.planned
    return [claim for teacher in one.teachers for claim in _claims(one, teacher) if {claim.row, claim.other} <= known]


def _claims(one: Results, teacher: str) -> Iterator[Claim]:
    most = one.most_stored(teacher=teacher, images=ALL)
    full, k5, tail = (Row(source, teacher, stored=most) for source in (FULL, DEFAULT, TAIL))
    about = f"`{teacher}`:"
    yield Claim(FRESH, f"{about} {most} stored crops are as good as the teacher in every step", full, Row(ONLINE, teacher), no_loss)
    views, fresh = (Row(source, teacher, PADDED, stored=0, crops_per_image=1) for source in (VIEWS, ONLINE))
    yield Claim(FRESH, f"{about} all 50 views of a padded image, stored, are as good as the teacher in every step", views, fresh, no_loss)
    for images, name in ((ALL, "22,000 images"), (FEW, "few images, many draws")):
        best = one.most_stored(teacher=teacher, images=images)
        many = Row(FULL, teacher, images, best)
        for stored in sorted({row.stored for row in one.planned if (row.teacher, row.images) == (teacher, images) and row.stored} - {best}):
            yield Claim(FRESH, f"{about} {stored} crops are as good as {best} ({name})", Row(FULL, teacher, images, stored), many, no_loss)
    yield Claim(FIDELITY, f"{about} `{DEFAULT}` is within {KEPT} of full labels", k5, full, _small_loss)
    yield Claim(FIDELITY, f"{about} `{TAIL}` is within {KEPT} of full labels", tail, full, _small_loss)
    yield Claim(FIDELITY, f"{about} `{TAIL}` is at least as good as `{DEFAULT}`", tail, k5, _not_below)
    yield Claim(BASELINE, f"{about} full labels are above ground truth", full, Row(TRUTH), _above)
    mixed, mixed_truth = (Row(source, teacher, stored=stored, mixup=MIXUP) for source, stored in ((FULL, most), (TRUTH, 0)))
    yield Claim(BASELINE, f"{about} so they are with mixup", mixed, mixed_truth, _above)
    yield from _at_a_time(about, Row(TAIL, teacher, stored=most))
    yield from _of_few_images(one, teacher)
    yield from _of_other_settings(one, teacher)


def _of_few_images(one: Results, teacher: str) -> Iterator[Claim]:
    most = one.most_stored(teacher=teacher, images=FEW)
    for objection, temperature in ((FIDELITY, 1.0), (SOFTER, HIGH_TEMPERATURE)):
        about = f"`{teacher}`, few images, T = {temperature:g}:"
        rows = {
            source: Row(source, teacher, FEW, most, temperature=temperature)
            for source in (FULL, ONLINE, DEFAULT, TAIL, FIELD, LOG_TAIL, LOGARITHMS)
        }
        full = rows[FULL]
        yield Claim(FRESH, f"{about} {most} stored crops are as good as the teacher in every step", full, rows[ONLINE], no_loss)
        for source in (DEFAULT, TAIL, FIELD, LOG_TAIL, LOGARITHMS):
            yield Claim(objection, f"{about} `{source}` is within {KEPT} of full labels", rows[source], full, _small_loss)
        if temperature == 1:
            guessed = Row(DEFAULT, teacher, FEW, most, policy=NEIGHBOURS)
            yield Claim(FIDELITY, f"{about} `{DEFAULT}` read with `{NEIGHBOURS}` is better than without", guessed, rows[DEFAULT], _above)
            fitted = Row(FIELD, teacher, FEW, most, fitted_only=True)
            yield Claim(FRESH, f"{about} new crops of a field are as good as those it was fitted to", rows[FIELD], fitted, no_loss)
            yield Claim(BASELINE, f"{about} full labels are above ground truth", full, Row(TRUTH, images=FEW), _above)


def _of_other_settings(one: Results, teacher: str) -> Iterator[Claim]:
    few = partial(Row, teacher=teacher, images=FEW)
    about = f"`{teacher}`, few images,"
    for draws in (FEW_DRAWS, MANY_DRAWS):
        for stored in STORED_CROPS:
            most = few(FULL, draws=draws)
            said = f"{about} {draws} draws: {stored} crops are as good as {most.stored}"
            yield Claim(FRESH, said, few(FULL, stored=stored, draws=draws), most, no_loss)
    for how, setting in (("with mixup", {"mixup": MIXUP}), ("the larger student", {"student": "large"})):
        for source in (DEFAULT, TAIL):
            said = f"{about} {how}: `{source}` is within {KEPT} of full labels"
            yield Claim(FIDELITY, said, few(source, **setting), few(FULL, **setting), _small_loss)
    yield from _at_a_time(about, few(TAIL))


def _at_a_time(about: str, row: Row) -> Iterator[Claim]:
    one = replace(row, crops_per_image=1)
    for several in (CROPS_PER_IMAGE[1], USUAL_CROPS_PER_IMAGE, *CROPS_PER_IMAGE[2:]):
        said = f"{about} {several} crops at a time are as good as one (`{TAIL}`)"
        yield Claim(TOGETHER, said, replace(row, crops_per_image=several), one, no_loss)


def no_loss(found: Interval) -> bool | None:
    """Return whether a row is as good as another: at most `LOST` below it, as far as the interval tells."""
    return True if found.low >= -LOST else False if found.high < 0 else None


def _small_loss(found: Interval) -> bool | None:
    return True if found.mean >= -KEPT and found.low >= -LOST else False if found.high < -KEPT else None


def _not_below(found: Interval) -> bool | None:
    return True if found.low >= -KEPT else False if found.high < 0 else None


def _above(found: Interval) -> bool | None:
    return True if found.low > 0 else False if found.high < 0 else None
