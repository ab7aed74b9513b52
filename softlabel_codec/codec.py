"""Codec strings: how labels are selected, stored and read (spec/container-v1.md, section 11)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from softlabel_codec.checks.limits import MAX_KEPT_CLASSES
from softlabel_codec.errors import ArgumentError

STRATEGIES = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm", "dense")
POLICIES = ("uniform", "renorm", "tail")
VALUES = {"sparse": ("log8", "f32", "f16"), "dense": ("f32", "f16")}
CONTENTS = ("probs", "logits", "features")
DEFAULT_STEP, DEFAULT_STEP_WITH_TAIL = 0.2, 0.5
MIN_STEP, MAX_STEP = 0.04, 1.0
MIN_THRESHOLD = 2.0**-15

_MAX_CHARACTERS = 256
_COUNT = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{0,20}\.?[0-9]{0,30}(e[+-]?[0-9]{1,3})?|[0-9]{1,9}/[0-9]{1,9}", re.IGNORECASE)
"""What a number may look like: short enough that no file can make its reader compute for long."""

_OPTIONS = {
    "hard": (),
    "smoothing": ("values", "step"),
    "marginal_smoothing": ("k", "t", "values", "step", "tail"),
    "marginal_renorm": ("k", "t", "values", "step"),
    "dense": ("values", "content"),
}


@dataclass(frozen=True)
class Codec:
    """A parsed codec string. Build it with `Codec.parse`; `str(codec)` is the canonical string.

    Attributes
    ----------
    name : str
        Strategy: one of `STRATEGIES`.
    k : int or None
        Number of kept classes, the same for every crop.
    t : float or None
        Keep every class with at least this probability, and always the top one.
    values : str
        Encoding of the values: `none` (only `hard`), `log8`, `f32` or `f16`.
    step : float
        Step of the `log8` quantiser, in natural-log units.
    tail : int
        Number of classes in the tail, which is stored once per image; 0: none.
    content : str
        Content of the vectors of `dense`: `probs`, `logits` or `features`.

    Examples
    --------
    >>> codec = Codec.parse("marginal_smoothing:k=5,values=log8")
    >>> codec.k, codec.step, codec.policy, str(codec)
    (5, 0.2, 'uniform', 'marginal_smoothing:k=5')
    """

    name: str
    k: int | None = None
    t: float | None = None
    values: str = "none"
    step: float = DEFAULT_STEP
    tail: int = 0
    content: str = "probs"

    @property
    def family(self) -> str:
        """`sparse` or `dense`: which page of the specification holds."""
        return "dense" if self.name == "dense" else "sparse"

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
        if self.name.startswith("marginal"):
            options.append(f"k={self.k}" if self.k is not None else f"t={self.t!r}")
        if self.values not in ("none", VALUES[self.family][0]):
            options.append(f"values={self.values}")
        if self.step != default_step(self.tail):
            options.append(f"step={self.step!r}")
        if self.tail:
            options.append(f"tail={self.tail}")
        if self.content != "probs":
            options.append(f"content={self.content}")
        return self.name + (":" + ",".join(options) if options else "")

    @classmethod
    def parse(cls, text: str) -> Codec:
        """Return the codec that a codec string describes.

        Options follow the name after a colon, separated by commas; a value encoding may stand alone (`dense:f16`);
        `step` and `t` may be fractions (`step=1/4`).

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
        if name not in STRATEGIES:
            raise ArgumentError(f"codec {text!r}: unknown strategy {name!r}: {_nearest(name, STRATEGIES)}")
        options = _parse_options(text, name, rest)
        options.setdefault("step", default_step(options.get("tail", 0)))
        codec = cls(name, **options)
        _check_selection(text, codec)
        return codec

    def check_classes(self, num_classes: int) -> None:
        """Raise ArgumentError if this codec keeps more classes than there are."""
        for option, number in (("k", self.k or 0), ("tail", self.tail)):
            if number > num_classes:
                raise ArgumentError(
                    f"codec {str(self)!r}: {option} must be at most the number of classes: expected {option} <= {num_classes}, got {number}"
                )


def default_step(tail: int) -> float:
    """Return the step of `log8` of a codec with so many classes in the tail, if it does not say another.

    With a tail, bytes are better spent on more classes than on finer ratios: see `benchmarks/REPORT.md`.
    """
    return DEFAULT_STEP_WITH_TAIL if tail else DEFAULT_STEP


def _parse_options(text: str, name: str, rest: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        if _COUNT.fullmatch(item) and "k" in _OPTIONS[name]:
            raise ArgumentError(f"codec {text!r}: did you mean 'k={item}'?")
        option, _, value = item.partition("=") if "=" in item else ("values", "=", item)
        option, value = option.strip(), value.strip()
        if option not in _OPTIONS[name]:
            allowed = _OPTIONS[name]
            hint = _nearest(option, allowed) if allowed else f"{name!r} takes no options"
            raise ArgumentError(f"codec {text!r}: {name!r} has no option {item!r}: {hint}")
        if option in given:
            raise ArgumentError(f"codec {text!r}: option {option!r} is given twice")
        given[option] = _parse_value(text, name, option, value)
    if name != "hard":
        given.setdefault("values", VALUES["dense" if name == "dense" else "sparse"][0])
    return given


def _parse_value(text: str, name: str, option: str, value: str) -> object:
    if option in ("k", "tail"):
        return _parse_count(text, option, value)
    if option == "t":
        return _parse_float(text, option, value, MIN_THRESHOLD, 1.0)
    if option == "step":
        return _parse_float(text, option, value, MIN_STEP, MAX_STEP)
    choices = CONTENTS if option == "content" else VALUES["dense" if name == "dense" else "sparse"]
    if value not in choices:
        raise ArgumentError(f"codec {text!r}: unknown {option} {value!r}: {_nearest(value, choices)}")
    return value


def _parse_count(text: str, option: str, value: str) -> int:
    if not _COUNT.fullmatch(value) or not 1 <= int(value) <= MAX_KEPT_CLASSES:
        raise ArgumentError(f"codec {text!r}: {option} must be an integer from 1 to {MAX_KEPT_CLASSES}, got {value!r}")
    return int(value)


def _parse_float(text: str, option: str, value: str, low: float, high: float) -> float:
    try:
        number = float(Fraction(value)) if _NUMBER.fullmatch(value) else float("nan")
    except (ValueError, ZeroDivisionError, OverflowError):
        number = float("nan")
    if not low <= number <= high:
        raise ArgumentError(f"codec {text!r}: {option} must be a number from {low:g} to {high:g}, got {value!r}")
    return number


def _check_selection(text: str, codec: Codec) -> None:
    if codec.name.startswith("marginal") and (codec.k is None) == (codec.t is None):
        raise ArgumentError(
            f"codec {text!r}: {codec.name!r} needs exactly one of k=NUMBER (classes to keep) and t=PROBABILITY (threshold), "
            f"for example '{codec.name}:k=5'"
        )
    if codec.step != default_step(codec.tail) and codec.values != "log8":
        raise ArgumentError(f"codec {text!r}: step belongs to values=log8, not to values={codec.values}")


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return "expected one of " + ", ".join(repr(item) for item in known)
