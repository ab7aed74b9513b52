"""What commands print: tables for people, JSON for programs, progress."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from softlabel_codec.checks.wording import counted, duration, rate

BAD_INPUT, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes of commands, beside 0."""
WIDTH_IN_A_PIPE = 120
SECONDS_BETWEEN_LINES = 30.0

Progress = Callable[[int, int], None]


def printable(text: object) -> str:
    """Return text with control characters escaped, so that a file cannot send control sequences to the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def print_json(report: Any) -> None:
    """Print a report, which is a dataclass, as one JSON object."""
    click.echo(json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=True))


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair per line."""
    rows = [(printable(name), printable(value)) for name, value in pairs]
    width = max((len(name) for name, _ in rows), default=0)
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
    """Yield a function (done, total) that shows progress: a bar on a terminal, otherwise a line about every half minute."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _bar(unit)
    else:
        yield _Lines(unit)


@contextmanager
def shared_work(unit: str, loggers: Sequence[str], quiet: bool = False) -> Iterator[Progress]:
    """Yield such a function for work that several processes share, and print what these loggers tell of it; a bar only on a terminal."""
    with told_by(loggers, quiet):
        if sys.stderr.isatty() and not quiet:
            yield from _bar(unit)
        else:
            yield lambda done, total: None


@contextmanager
def told_by(loggers: Sequence[str], quiet: bool = False) -> Iterator[None]:
    """Print what these loggers tell, at the level INFO and above."""
    handler, named = _Echo(), [logging.getLogger(name) for name in loggers if not quiet]
    levels = [logger.level for logger in named]
    for logger in named:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class _Echo(logging.Handler):
    """Prints what is logged, with the rank of the process if torchrun started it beside others."""

    def __init__(self) -> None:
        super().__init__()
        self._who = f"rank {os.environ.get('RANK', '0')}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"slcodec: {self._who}{printable(record.getMessage())}"
        with suppress(OSError):  # a closed log must not stop the work
            if sys.stderr.isatty():
                from tqdm import tqdm  # noqa: PLC0415

                tqdm.write(line, file=sys.stderr)
            else:
                click.echo(line, err=True)


def _bar(unit: str) -> Iterator[Progress]:
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(unit=unit, dynamic_ncols=True, smoothing=0.05) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.reset(total)
                bar.initial = bar.n = done  # what an earlier run did does not count for the rate
            bar.update(done - bar.n)

        yield show


class _Lines:
    """Prints progress about every half minute, for logs."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._told = self._started = time.monotonic()
        self._done_before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._done_before is None:
            self._done_before, self._started = done, now  # what an earlier run did does not count for the rate
        if now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            with suppress(OSError):  # a closed log must not stop the work
                click.echo(f"slcodec: {self._line(done, total, now - self._started)}", err=True)

    def _line(self, done: int, total: int, seconds: float) -> str:
        line = f"{done} of {counted(total, self._unit)} ({done / max(total, 1):.0%})"
        done_now = done - (self._done_before or 0)
        if not done_now or seconds <= 0:
            return line
        left = duration((total - done) * seconds / done_now)
        return f"{line}, {rate(done_now, seconds)} {self._unit}s/s, {left} left"
