"""The commands of `slcodec`."""

from __future__ import annotations

import click

from softlabel_codec.cli.check import check_command
from softlabel_codec.cli.commands import Group, command, quiet_option
from softlabel_codec.cli.copying import copy_command
from softlabel_codec.cli.encode import encode_command
from softlabel_codec.cli.importing import export_command, import_command
from softlabel_codec.cli.look import inspect_command, recover_command, stats_command, verify_command
from softlabel_codec.cli.show import show_command
from softlabel_codec.cli.training import compare_command, evaluate_command, train_command
from softlabel_codec.version import __version__


class _Sections(Group):
    """A group whose help lists commands by purpose."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - width - 6
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([((command.name or "").ljust(width), command.get_short_help_str(limit)) for command in commands])


@click.group(cls=_Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="slcodec")
def main() -> None:
    """Store the soft labels of a teacher in one checked file, inspect it, and train students from it.

    Exit codes: 0 success, 1 bad input (damaged, mismatched), 2 wrong usage.
    """


@command("demo")
@click.argument("folder", type=click.Path(file_okay=False), default="demo-output")
@quiet_option
def demo_command(folder: str, quiet: bool) -> None:
    """Run everything on sample photographs, in a minute or two.

    Trains a teacher, writes label files, trains students from each, and draws one table and one picture in FOLDER.
    The photographs come with scikit-image.
    """
    from softlabel_codec.demo import run_demo  # noqa: PLC0415  imports torch

    run_demo(folder, quiet=quiet)


SECTIONS: dict[str, list[click.Command]] = {
    "Label images": [encode_command, check_command],
    "Look at a label file": [inspect_command, stats_command, show_command, verify_command, recover_command],
    "Rearrange label files": [copy_command, import_command, export_command],
    "Train students": [train_command, compare_command, evaluate_command],
    "See it work": [demo_command],
}
for section in SECTIONS.values():
    for each in section:
        main.add_command(each)
