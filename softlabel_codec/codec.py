"""Codec strings: how labels are selected, stored and read (spec/container-v1.md, section 11)."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

from softlabel_codec.checks.arguments import whole
from softlabel_codec.checks.limits import MAX_KEPT_CLASSES
from softlabel_codec.errors import ArgumentError


class Strategy(NamedTuple):
    """Family and options of the codecs of one name.

    Attributes
    ----------
    family : str
        Gives the page of the specification and the entry of `softlabel_codec.block.families.FAMILIES`.
    options : tuple of str
        Names of its options.
    """

    family: str
    options: tuple[str, ...]


STRATEGIES = {
    "hard": Strategy("sparse", ()),
    "smoothing": Strategy("sparse", ("values", "step")),
    "marginal_smoothing": Strategy("sparse", ("k", "t", "gain", "values", "step", "tail")),
    "marginal_renorm": Strategy("sparse", ("k", "t", "values", "step")),
    "dense": Strategy("dense", ("values", "content")),
}
POLICIES = ("uniform", "renorm", "tail")
VALUES = {"sparse": ("log8", "f32", "f16"), "dense": ("f32", "f16")}
"""Value encodings of each family, the default first."""
CONTENTS = ("probs", "logits", "features")
DEFAULT_STEP, DEFAULT_STEP_WITH_TAIL = 0.2, 0.5
MIN_STEP, MAX_STEP = 0.04, 1.0
MIN_THRESHOLD = 2.0**-15
MIN_GAIN, MAX_GAIN = 2.0**-15, 1.0

_MAX_CHARACTERS = 256
_COUNT = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{0,20}\.?[0-9]{0,30}(e[+-]?[0-9]{1,3})?|[0-9]{1,9}/[0-9]{1,9}", re.IGNORECASE)
"""Pattern of a number: short enough that no file can make its reader compute for long."""


@dataclass(frozen=True, init=False)
class Codec:
    """How labels are selected, stored and read. `Codec.parse` makes one from a codec string; `str(codec)` is the canonical string.

    Parameters and attributes are the same; omitted ones have the default of the strategy.

    Attributes
    ----------
    name : str
        Strategy: one of `STRATEGIES`.
    k : int or None
        Number of kept classes, the same for every crop.
    t : float or None
        Keep every class with at least this probability, and always the top one.
    gain : float or None
        Keep every class that lowers the divergence from the teacher by more than this, in nats, over what the tail makes of it, and
        always the top one.
    values : str
        Encoding of the values: `none` (only `hard`), `log8`, `f32` or `f16`.
    step : float
        Step of the `log8` quantiser, in natural-log units.
    tail : int
        Number of classes in the tail, which is stored once per image; 0: none.
    content : str
        Content of the vectors of `dense`: `probs`, `logits` or `features`.

    Raises
    ------
    ArgumentError
        If there is no such strategy, it has no such option, or a value is out of range.

    Examples
    --------
    >>> codec = Codec.parse("marginal_smoothing:k=5,values=log8")
    >>> codec.k, codec.step, codec.policy, str(codec)
    (5, 0.2, 'uniform', 'marginal_smoothing:k=5')
    >>> codec == Codec("marginal_smoothing", k=5)
    True
    """

    name: str
    k: int | None
    t: float | None
    gain: float | None
    values: str
    step: float
    tail: int
    content: str

    def __init__(
        self,
        name: str,
        *,
        k: int | None = None,
        t: float | None = None,
        gain: float | None = None,
        values: str | None = None,
        step: float | None = None,
        tail: int = 0,
        content: str | None = None,
    ) -> None:
        _check_choice("strategy", name, STRATEGIES)
        tail = 0 if whole(tail) == 0 else _count("tail", tail)
        self.__dict__.update(  # it is frozen from here on
            name=name,
            k=None if k is None else _count("k", k),
            t=None if t is None else _number("t", t, MIN_THRESHOLD, 1.0),
            gain=None if gain is None else _number("gain", gain, MIN_GAIN, MAX_GAIN),
            values=_choose("values", values, _possible_values(name)),
            step=default_step(tail) if step is None else _number("step", step, MIN_STEP, MAX_STEP),
            tail=tail,
            content=_choose("content", content, CONTENTS),
        )
        self._check_together()

    def _check_together(self) -> None:
        """Raise ArgumentError if the options do not go together."""
        options = STRATEGIES[self.name].options
        for option, default in (("k", None), ("t", None), ("gain", None), ("tail", 0), ("content", CONTENTS[0])):
            if getattr(self, option) != default and option not in options:
                raise _no_option(self.name, option, f"{option}={getattr(self, option)}")
        if "k" in options and (self.k, self.t, self.gain).count(None) != 2:
            by_gain = ", or gain=NATS with a tail" if "gain" in options else ""
            raise ArgumentError(
                f"{self.name!r} needs exactly one of k=NUMBER (classes to keep) and t=PROBABILITY (threshold){by_gain}, "
                f"for example '{self.name}:k=5'"
            )
        if self.gain is not None and not self.tail:
            raise ArgumentError("gain is what a class gains over its target in the tail: expected tail=NUMBER beside it")
        if self.values != "log8" and self.step != default_step(self.tail):
            raise ArgumentError(f"step belongs to values=log8, not to values={self.values}")

    @property
    def family(self) -> str:
        """`sparse` or `dense`: which page of the specification applies."""
        return STRATEGIES[self.name].family

    @property
    def policy(self) -> str:
        """Default use of the remainder by a reader: `uniform`, `renorm` or `tail`."""
        return "renorm" if self.name == "marginal_renorm" else "tail" if self.tail else "uniform"

    @property
    def kept_classes(self) -> int | None:
        """Number of kept classes if it is the same for every crop, else None. Not for `dense`."""
        return 1 if self.name in ("hard", "smoothing") else self.k

    def __str__(self) -> str:
        options = []
        if self.k is not None:
            options.append(f"k={self.k}")
        if self.t is not None:
            options.append(f"t={self.t!r}")
        if self.gain is not None:
            options.append(f"gain={self.gain!r}")
        if self.values not in ("none", VALUES[self.family][0]):
            options.append(f"values={self.values}")
        if self.step != default_step(self.tail):
            options.append(f"step={self.step!r}")
        if self.tail:
            options.append(f"tail={self.tail}")
        if self.content != CONTENTS[0]:
            options.append(f"content={self.content}")
        return self.name + (":" + ",".join(options) if options else "")

    @classmethod
    def parse(cls, text: str) -> Codec:
        """Return the codec that a codec string describes.

        Options follow the name after a colon, separated by commas; a value encoding may stand alone (`dense:f16`);
        `step`, `t` and `gain` may be fractions (`step=1/4`).

        Raises
        ------
        ArgumentError
            If the name or an option is unknown (naming the nearest known one) or a value is out of range.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"codec: expected a string such as 'marginal_smoothing:k=5', got {text!r}")
        if len(text) > _MAX_CHARACTERS:
            raise ArgumentError(f"codec: expected a string of at most {_MAX_CHARACTERS} characters, got {len(text)}")
        name, _, rest = text.replace(",", ":", 1).partition(":") if ":" not in text else text.partition(":")
        name = name.strip()
        try:
            _check_choice("strategy", name, STRATEGIES)
            return cls(name, **_parse_options(name, rest))  # type: ignore[arg-type]  # values that cannot be are what it refuses
        except ArgumentError as error:
            raise ArgumentError(f"codec {text!r}: {error}") from None

    def check_classes(self, num_classes: int) -> None:
        """Raise ArgumentError if this codec keeps more classes than there are."""
        for option, number in (("k", self.k or 0), ("tail", self.tail)):
            if number > num_classes:
                raise ArgumentError(
                    f"codec {str(self)!r}: {option} must be at most the number of classes: expected {option} <= {num_classes}, got {number}"
                )


def default_step(tail: int) -> float:
    """Return the default step of `log8` for a codec with this many classes in the tail.

    With a tail, bytes are better spent on more classes than on finer ratios: see `benchmarks/REPORT.md`.
    """
    return DEFAULT_STEP_WITH_TAIL if tail else DEFAULT_STEP


def _parse_options(name: str, rest: str) -> dict[str, int | float | str]:
    """Return the options in a codec string by name; a value that cannot be parsed as its type stays a string."""
    given: dict[str, int | float | str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        if _COUNT.fullmatch(item) and "k" in STRATEGIES[name].options:
            raise ArgumentError(f"did you mean 'k={item}'?")
        option, _, value = item.partition("=") if "=" in item else ("values", "=", item)
        option, value = option.strip(), value.strip()
        if option not in STRATEGIES[name].options:
            raise _no_option(name, option, item)
        if option in given:
            raise ArgumentError(f"option {option!r} is given twice")
        given[option] = _parse_value(option, value)
    return given


def _parse_value(option: str, value: str) -> int | float | str:
    if option in ("k", "tail"):
        return _count(option, int(value) if _COUNT.fullmatch(value) else value)
    if option in ("t", "gain", "step") and _NUMBER.fullmatch(value):
        with contextlib.suppress(ValueError, ZeroDivisionError, OverflowError):
            return float(Fraction(value))
    return value


def _count(option: str, value: object) -> int:
    count = whole(value)
    if count is None or not 1 <= count <= MAX_KEPT_CLASSES:
        raise ArgumentError(f"{option} must be an integer from 1 to {MAX_KEPT_CLASSES}, got {value!r}")
    return count


def _number(option: str, value: Any, low: float, high: float) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ArgumentError(f"{option} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _possible_values(name: str) -> tuple[str, ...]:
    return VALUES[STRATEGIES[name].family] if "values" in STRATEGIES[name].options else ("none",)


def _choose(option: str, value: str | None, choices: tuple[str, ...]) -> str:
    return choices[0] if value is None else _check_choice(option, value, choices)


def _check_choice(what: str, value: str, choices: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"unknown {what} {value!r}: {_nearest(str(value), choices)}")
    return value


def _no_option(name: str, option: str, written: str) -> ArgumentError:
    known = STRATEGIES[name].options
    return ArgumentError(f"{name!r} has no option {written!r}: {_nearest(option, known) if known else f'{name!r} takes no options'}")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return "expected one of " + ", ".join(repr(item) for item in known)
