"""`slcodec encode --label-maps`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.output import print_json, print_pairs, progress_bar
from softlabel_codec.storage.location import path_to_write

_OPTIONS = {"teacher", "size", "exif_orientation", "batch_size", "device"}
"""Options that apply to label maps."""
SUFFIX = ".npz"
_ALSO = {"images", "out", "label_maps", "overwrite", "quiet", "as_json"}


@dataclass(frozen=True)
class LabelMapsReport:
    """What was written."""

    path: str
    num_images: int
    num_classes: int


def write_label_maps(options: Mapping[str, Any], as_json: bool, quiet: bool) -> None:
    """Write label maps; options of `slcodec encode` that do not apply to them are refused."""
    _refuse_other_options(click.get_current_context())
    out = path_to_write(options["out"])
    if out.suffix != SUFFIX:
        raise click.UsageError(f"OUT: label maps are a file {SUFFIX}, got {str(out)!r}.", click.get_current_context())
    if out.exists() and not options["overwrite"]:
        raise FileExistsError(errno.EEXIST, "the file exists. Pass --overwrite to replace it", str(out))
    from softlabel_codec.label_maps import make_label_maps  # noqa: PLC0415  imports torch

    if len(options["teacher"]) > 1:
        raise click.UsageError("--label-maps are those of one --teacher.", click.get_current_context())
    given = {name: options[name] for name in _OPTIONS if options[name] is not None} | {"teacher": options["teacher"][0]}
    with progress_bar("image", quiet) as progress:
        maps = make_label_maps(options["images"], progress=progress, **given)
    maps.save(out)
    report = LabelMapsReport(str(out), len(maps.numbers), maps.num_classes)
    if as_json:
        print_json(report)
    else:
        print_pairs([("wrote", f"{out}: label maps of {counted(report.num_images, 'image')}")])


def _refuse_other_options(context: click.Context) -> None:
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") not in (None, ParameterSource.DEFAULT)
        if given and parameter.name not in _OPTIONS | _ALSO:
            raise click.UsageError(f"{parameter.opts[0]} does not apply to --label-maps.", context)
