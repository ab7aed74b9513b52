"""The commands of `slcodec`."""

from __future__ import annotations

import click

from softlabel_codec.cli.check import check_command
from softlabel_codec.cli.commands import Group, command, quiet_option
from softlabel_codec.cli.encode import encode_command
from softlabel_codec.cli.importing import import_group
from softlabel_codec.cli.look import inspect_command, recover_command, stats_command, verify_command
from softlabel_codec.cli.training import compare_command, evaluate_command, label_maps_command, train_command
from softlabel_codec.version import __version__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="slcodec")
def main() -> None:
    """Write, read and check softlabel containers: the soft labels that a teacher gives to crops of images.

    Exit codes: 0 fine, 1 the input is bad (damaged, mismatched), 2 wrong usage.
    """


@command("demo")
@click.argument("folder", type=click.Path(file_okay=False), default="demo-output")
@quiet_option
def demo_command(folder: str, quiet: bool) -> None:
    """Tell the whole story on photographs of scikit-image, in FOLDER: teacher, labels, students, one table, one picture."""
    from softlabel_codec.demo import run_demo  # noqa: PLC0415  imports torch

    run_demo(folder, quiet=quiet)


COMMANDS = (
    encode_command,
    import_group,
    inspect_command,
    stats_command,
    verify_command,
    recover_command,
    check_command,
    train_command,
    compare_command,
    evaluate_command,
    label_maps_command,
    demo_command,
)
for each in COMMANDS:
    main.add_command(each)
