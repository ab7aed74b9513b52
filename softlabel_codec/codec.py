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
    "marginal_smoothing": Strategy("sparse", ("k", "t", "gain", "values", "step", "tail", "mean")),
    "marginal_renorm": Strategy("sparse", ("k", "t", "values", "step")),
    "dense": Strategy("dense", ("values", "step", "content")),
    "field": Strategy("field", ("step", "cost")),
}
AUTO = "auto"
"""In place of a codec string: the one that fits labels best."""
POLICIES = ("uniform", "renorm", "tail", "bucket")
"""Uses of the remainder; `bucket` is one of readers only, no codec's own."""
VALUES = {"sparse": ("log8", "f32", "f16"), "dense": ("f32", "f16", "log8"), "field": ("none",)}
"""Value encodings of each family, the default first."""
CONTENTS = ("probs", "logits", "features")
ALL = "all"
"""Tail of all classes."""
MEANS = ("arithmetic", "log")
DEFAULT_STEP, DEFAULT_STEP_WITH_TAIL, DEFAULT_STEP_OF_DENSE, DEFAULT_STEP_OF_FIELD = 0.2, 0.5, 1.0, 0.35
STEPS = {"sparse": (0.04, 1.0), "dense": (0.04, 2.0), "field": (0.1, 1.0)}
"""Smallest and largest step of each family."""
MIN_THRESHOLD = 2.0**-15
DEFAULT_COST, MIN_COST, MAX_COST = 0.0005, 1e-7, 0.1
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
        Encoding of the values: `none` (only `hard` and `field`), `log8`, `f32` or `f16`.
    step : float
        Step of the `log8` quantiser, or of the logits of a `field`, in natural-log units.
    tail : int or str
        Number of classes in the tail, which is stored once per image; 0: none; `all`: every class.
    mean : str
        What the tail is made of: `arithmetic` means of what the crops left out, or `log`, means of its logarithms (`tail=all` only), which
        hold at high temperatures.
    content : str
        Content of the vectors of `dense`: `probs`, `logits` or `features`.
    cost : float
        What the writer of a `field` lets a byte cost: it is spent if it lowers the mean KL of the image's crops by this much, in nats.

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
    tail: int | str
    mean: str
    content: str
    cost: float

    def __init__(
        self,
        name: str,
        *,
        k: int | None = None,
        t: float | None = None,
        gain: float | None = None,
        values: str | None = None,
        step: float | None = None,
        tail: int | str = 0,
        mean: str | None = None,
        content: str | None = None,
        cost: float = DEFAULT_COST,
    ) -> None:
        _check_choice("strategy", name, STRATEGIES)
        tail = _tail(tail)
        self.__dict__.update(  # it is frozen from here on
            name=name,
            k=None if k is None else _count("k", k),
            t=None if t is None else _number("t", t, MIN_THRESHOLD, 1.0),
            gain=None if gain is None else _number("gain", gain, MIN_GAIN, MAX_GAIN),
            values=_choose("values", values, _possible_values(name)),
            step=default_step(name, tail) if step is None else _number("step", step, *STEPS[STRATEGIES[name].family]),
            tail=tail,
            mean=_choose("mean", mean, MEANS),
            content=_choose("content", content, CONTENTS),
            cost=_number("cost", cost, MIN_COST, MAX_COST),
        )
        self._check_together()

    def _check_together(self) -> None:
        """Raise ArgumentError if the options do not go together."""
        options = STRATEGIES[self.name].options
        defaults = {"k": None, "t": None, "gain": None, "tail": 0, "mean": MEANS[0], "content": CONTENTS[0], "cost": DEFAULT_COST}
        for option, default in defaults.items():
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
        if self.gain is not None and self.full_tail:
            raise ArgumentError("gain says what the tail lists as well: expected tail=NUMBER beside it, got tail=all. Use t=PROBABILITY")
        if self.values != "log8" and self.family != "field" and self.step != default_step(self.name, self.tail):
            raise ArgumentError(f"step belongs to values=log8, not to values={self.values}")
        if self.family == "dense" and self.values == "log8" and self.content == "features":
            raise ArgumentError("values=log8 keeps differences of logarithms: expected content=probs or content=logits, got features")
        if self.mean == "log" and not self.full_tail:
            raise ArgumentError("mean=log belongs to tail=all: the means of logarithms say nothing of classes that are not listed")

    @property
    def family(self) -> str:
        """`sparse`, `dense` or `field`: which page of the specification applies."""
        return STRATEGIES[self.name].family

    @property
    def full_tail(self) -> bool:
        """Whether the tail of an image has all classes."""
        return self.tail == ALL

    @property
    def policy(self) -> str:
        """Default use of the remainder by a reader: `uniform`, `renorm` or `tail`."""
        return "renorm" if self.name == "marginal_renorm" else "tail" if self.tail else "uniform"

    @property
    def kept_classes(self) -> int | None:
        """Number of kept classes if it is the same for every crop, else None. Only of the sparse family."""
        return 1 if self.name in ("hard", "smoothing") else self.k

    def knows_all_classes(self, num_classes: int) -> bool:
        """Return whether labels say how probable every class is, so that labels at another temperature can be made of them.

        Those of a codec with a tail do if the remainder itself is kept, as with `log8`; with `f32` and `f16` it is what the values lack to
        1, which may be nothing but rounding. So do those that keep every class, and `dense` ones, unless `f16` rounds small ones to 0; and
        fields.
        """
        if self.family == "field":
            return True
        if self.family == "dense":
            return self.content == "logits" or (self.content == "probs" and self.values != "f16")
        return (bool(self.tail) and self.values == "log8") or (self.k == num_classes and self.values != "f16")

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
        if self.step != default_step(self.name, self.tail):
            options.append(f"step={self.step!r}")
        if self.tail:
            options.append(f"tail={self.tail}")
        if self.mean != MEANS[0]:
            options.append(f"mean={self.mean}")
        if self.content != CONTENTS[0]:
            options.append(f"content={self.content}")
        if self.cost != DEFAULT_COST:
            options.append(f"cost={self.cost!r}")
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
        if text.strip() == AUTO:
            raise ArgumentError(
                "codec 'auto': a codec is chosen by labels, which are needed first: pass those of some hundred images to "
                "softlabel_codec.choose_codec, and here the `codec` of what it returns. `slcodec encode` does that itself"
            )
        name, _, rest = text.replace(",", ":", 1).partition(":") if ":" not in text else text.partition(":")
        name = name.strip()
        try:
            _check_choice("strategy", name, STRATEGIES)
            return cls(name, **_parse_options(name, rest))  # type: ignore[arg-type]  # values that cannot be are what it refuses
        except ArgumentError as error:
            raise ArgumentError(f"codec {text!r}: {error}") from None

    def check_classes(self, num_classes: int) -> None:
        """Raise ArgumentError if this codec keeps more classes than there are, or cannot have a tail of so many."""
        if self.full_tail and num_classes > MAX_KEPT_CLASSES:
            raise ArgumentError(f"codec {str(self)!r}: tail=all is for at most {MAX_KEPT_CLASSES} classes, got {num_classes}: use tail=100")
        for option, number in (("k", self.k or 0), ("tail", self.tail)):
            if isinstance(number, int) and number > num_classes:
                raise ArgumentError(
                    f"codec {str(self)!r}: {option} must be at most the number of classes: expected {option} <= {num_classes}, got {number}"
                )


def default_step(name: str, tail: int | str) -> float:
    """Return the default step of a strategy with this many classes in the tail, or `all`.

    With a tail, bytes are better spent on more classes than on finer ratios: see `benchmarks/REPORT.md`.
    """
    of_family = {"dense": DEFAULT_STEP_OF_DENSE, "field": DEFAULT_STEP_OF_FIELD}
    if STRATEGIES[name].family in of_family:
        return of_family[STRATEGIES[name].family]
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
    if option == "tail" and value == ALL:
        return value
    if option in ("k", "tail"):
        return _count(option, int(value) if _COUNT.fullmatch(value) else value)
    if option in ("t", "gain", "step", "cost") and _NUMBER.fullmatch(value):
        with contextlib.suppress(ValueError, ZeroDivisionError, OverflowError):
            return float(Fraction(value))
    return value


def _count(option: str, value: object) -> int:
    count = whole(value)
    if count is None or not 1 <= count <= MAX_KEPT_CLASSES:
        also = " (or all)" if option == "tail" else ""
        raise ArgumentError(f"{option} must be an integer from 1 to {MAX_KEPT_CLASSES}, got {value!r}{also}")
    return count


def _tail(value: object) -> int | str:
    if isinstance(value, str) and value == ALL:
        return ALL
    return 0 if whole(value) == 0 else _count("tail", value)


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
