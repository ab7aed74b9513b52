"""The options of a command, made from the fields of a dataclass (`options/`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from functools import reduce
from typing import Any

import click

from softlabel_codec.options.fields import types_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options_of(
    options: type, *, without: Collection[str] = (), over_a_file: bool = False, special: Mapping[str, Mapping[str, Any]] | None = None
) -> Decorator:
    """Return a decorator that gives a command an option for each field of a dataclass, in their order.

    Parameters
    ----------
    options : dataclass
        Made with `softlabel_codec.options.fields.option`. A field that is a group of options names their dataclass in its metadata.
    without : collection of str
        Fields that are left out.
    over_a_file : bool
        Whether options may also come from a file. Then what is not given on the command line is None, and truth values can be switched off.
    special : mapping, optional
        Further arguments for click, by the name of the option.
    """
    made = list(_options(options, without, over_a_file, special or {}))
    return lambda command: reduce(lambda wrapped, one: one(wrapped), reversed(made), command)


def _options(options: type, without: Collection[str], over_a_file: bool, special: Mapping[str, Mapping[str, Any]]) -> Iterator[Decorator]:
    types = types_of(options)
    for field in fields(options):
        if "group" in field.metadata:
            yield from _options(field.metadata["group"], without, over_a_file, special)
        elif field.name not in without:
            how = _over_a_file(field, *types[field.name]) if over_a_file else _by_itself(field, *types[field.name])
            yield click.option(*_names(field, types[field.name][0] is bool and over_a_file), **{**how, **special.get(field.name, {})})


def _names(field: Field[Any], two_ways: bool) -> tuple[str, str]:
    name = field.metadata.get("flag", f"--{field.name.replace('_', '-')}")
    return (f"{name}/--no-{name[2:]}" if two_ways else name), field.name


def _over_a_file(field: Field[Any], kind: type, count: int) -> dict[str, Any]:
    """Return how click is told of an option whose default must not replace what a file says."""
    text = field.metadata["help"]
    if field.default is MISSING:
        text += "  [required]"
    elif field.default is not None:
        text += f"  [default: {field.default}]"
    how = {"default": None, "help": text}
    return how if kind is bool else {**how, "type": kind, "nargs": count or 1, **_shape(field.metadata)}


def _by_itself(field: Field[Any], kind: type, count: int) -> dict[str, Any]:
    """Return how click is told of an option that only the command line has."""
    said = field.metadata
    if kind is bool:
        return {"is_flag": True, "help": said["help"]}
    how: dict[str, Any] = {"type": _checked(said, kind), "nargs": count or 1, "help": said["help"], **_shape(said)}
    if field.default is MISSING:
        return {**how, "required": True}
    return {**how, "default": field.default, "show_default": said.get("shown", True)}


def _shape(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what click calls the value of an option, and whether it may be given several times."""
    return {"metavar": said.get("metavar"), "multiple": said.get("several", False)}


def _checked(said: Mapping[str, Any], kind: type) -> Any:
    if "choices" in said:
        return click.Choice(said["choices"])
    return click.IntRange(said["least"]) if "least" in said else kind
