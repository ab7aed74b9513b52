"""What all commands of `slcodec` share: repeated options are refused, and errors become a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from softlabel_codec.cli.output import BAD_INPUT, INTERRUPTED, WRONG_USAGE, printable
from softlabel_codec.cli.streams import open_standard_streams
from softlabel_codec.errors import ArgumentError, SoftLabelError, StateError
from softlabel_codec.storage.location import is_remote

_EXTRAS = {"torch": "torch", "PIL": "show", "jinja2": "show", "matplotlib": "plot", "scipy": "compare", "skimage": "demo"}


class _RefusesRepeats(click.Command):
    """A command that refuses an option given twice; click alone would silently keep the last value."""

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_all(args: list[str]) -> Any:
            values, rest, order = parse(args)
            if not ctx.resilient_parsing:
                _refuse_repeated(order, ctx)
            return values, rest, order

        parser.parse_args = parse_all  # type: ignore[method-assign]
        return parser


def _refuse_repeated(order: list[click.Parameter], ctx: click.Context) -> None:
    """Raise a usage error if an option that takes one value is given more than once."""
    given = [option for option in order if isinstance(option, click.Option) and _has_one_value(option)]
    for option in given:
        if given.count(option) > 1:
            raise click.UsageError(f"Option {'/'.join(f'{name!r}' for name in option.opts)} is given more than once.", ctx)


def _has_one_value(option: click.Option) -> bool:
    """Return whether two uses of an option could contradict each other: it does not collect values and is not a one-way flag."""
    return not option.multiple and not (option.is_flag and not option.secondary_opts)


class Command(_RefusesRepeats):
    """A command of `slcodec`."""


class Group(_RefusesRepeats, click.Group):
    """A command group whose commands report errors with a message and an exit code, without a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        open_standard_streams()
        return super().main(*args, **extra)

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
        except KeyboardInterrupt as error:
            click.echo(f"slcodec: interrupted{'. ' if str(error) else ''}{printable(error)}", err=True)
            sys.exit(INTERRUPTED)


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that turns a function into a command of `slcodec`."""
    return click.command(name, cls=Command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")


class FileToRead(click.Path):
    """The path of a file to read, or of a folder of a label set, which must exist; or a URL."""

    def __init__(self, folders: bool = False) -> None:
        super().__init__(exists=True, dir_okay=folders)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and is_remote(value) else super().convert(value, param, ctx)


class FileToWrite(click.Path):
    """The path of a file to write, or of a folder to write into. Its own folder must exist, which is checked before the work begins.

    Parameters
    ----------
    or_folder, or_url : bool
        Whether it may be a folder, or a URL.
    """

    def __init__(self, or_folder: bool = False, or_url: bool = False) -> None:
        super().__init__(dir_okay=or_folder)
        self._or_url = or_url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._or_url and isinstance(value, str) and is_remote(value):
            return value
        path = super().convert(value, param, ctx)
        folder = Path(os.fsdecode(path)).parent
        if not folder.is_dir():
            self.fail(f"{printable(path)!r}: the folder {printable(folder)!r} does not exist.", param, ctx)
        return path


def _fail(error: BaseException, code: int) -> None:
    if isinstance(error, OSError) and error.filename is not None:
        error = OSError(f"{error.filename}: {error.strerror}")
    click.echo(f"slcodec: {printable(error)}", err=True)
    sys.exit(code)
