"""Options as fields of a dataclass, with the text that `--help` prints and the type of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, field
from typing import Any, get_args, get_type_hints


def option(
    help: str,
    default: Any = MISSING,
    *,
    choices: Sequence[str] | None = None,
    least: int | None = None,
    shown: str | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    several: bool = False,
    kw_only: bool = False,
) -> Any:
    """Return the field of an option.

    Parameters
    ----------
    help : str
        Its meaning, in one or two sentences for `--help`. If the default is None, also what that means, in brackets.
    default
        Its default; without one, the option is required.
    choices : sequence of str, optional
        The allowed values, as written on the command line.
    least : int, optional
        The smallest allowed value.
    shown : str, optional
        Text for the default in `--help`, if the value does not explain itself.
    flag : str, optional
        Its name on the command line, if it differs from the field's.
    metavar : str, optional
        Name of its value on the command line.
    several : bool
        Whether it may be given several times on the command line, and be a sequence elsewhere.
    kw_only : bool
        Whether the dataclass takes it by keyword only.
    """
    how = {"choices": choices, "least": least, "shown": shown, "flag": flag, "metavar": metavar, "several": several or None}
    metadata = {"help": help, **{name: value for name, value in how.items() if value is not None}}
    return field(default=default, metadata=metadata, kw_only=kw_only)


def types_of(options: type) -> dict[str, tuple[type, int]]:
    """Return, for each field, the type of its value (or of each of its values), and how many values it has; 0 if it is not a sequence."""
    return {name: _type_of(annotation) for name, annotation in get_type_hints(options).items()}


def _type_of(annotation: Any) -> tuple[type, int]:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if getattr(annotation, "__origin__", None) is tuple:
        return parts[0], len(parts)
    return _type_of(parts[0]) if parts else (annotation, 0)
