"""What commands print: tables for people, JSON for programs, progress on a terminal, errors with an exit code."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from softlabel_codec.errors import ArgumentError, SoftLabelError, StateError
from softlabel_codec.store import partial_path

BAD_INPUT, WRONG_USAGE, INTERRUPTED = 1, 2, 130
WIDTH_IN_A_PIPE = 120
_EXTRAS = {"torch": "torch", "PIL": "torch", "matplotlib": "plot", "scipy": "compare", "skimage": "demo"}

Progress = Callable[[int, int], None]


def printable(text: object) -> str:
    """Return text of a file safe to print: control characters, which could command a terminal, are spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def print_json(report: Any) -> None:
    """Print a report, which is a dataclass, as one JSON object."""
    click.echo(json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=True))


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair to a line."""
    rows = [(printable(name), printable(value)) for name, value in pairs]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns after the first are right-aligned."""
    from rich.console import Console  # noqa: PLC0415  takes longer to import than some commands take to run
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_IN_A_PIPE)
    console.print(table)


@contextmanager
def progress_bar(unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Give a function that is called with what is done and the total; shows rate and time left on a terminal only."""
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(unit=unit, disable=True if quiet else None, dynamic_ncols=True, smoothing=0.05) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None and not bar.disable:
                bar.reset(total)
                bar.initial = bar.n = done  # what an earlier run did does not count for the rate
            bar.update(done - bar.n)

        yield show


@contextmanager
def continuable(out: str) -> Iterator[None]:
    """Say after an interruption how to go on, if there is something to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        if partial_path(Path(out)).exists():
            click.echo(f"\nWhat was written is kept in {printable(partial_path(Path(out)))}; the same command continues it.", err=True)
        raise


class Group(click.Group):
    """A command group whose commands fail with a message and an exit code, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArgumentError as error:
            _fail(error, WRONG_USAGE)
        except BrokenPipeError:
            raise  # click ends quietly
        except (SoftLabelError, OSError) as error:
            _fail(error, BAD_INPUT)
        except ModuleNotFoundError as error:
            if error.name not in _EXTRAS:
                raise
            _fail(StateError(f"{error.name} is not installed: pip install 'softlabel_codec[{_EXTRAS[error.name]}]'"), BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("slcodec: interrupted", err=True)
            sys.exit(INTERRUPTED)


def _fail(error: BaseException, code: int) -> None:
    if isinstance(error, OSError) and error.filename is not None:
        error = OSError(f"{error.filename}: {error.strerror}")
    click.echo(f"slcodec: {printable(error)}", err=True)
    sys.exit(code)
