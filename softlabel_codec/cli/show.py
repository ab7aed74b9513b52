"""`slcodec show`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.commands import FileToRead, FileToWrite, command, json_option, quiet_option
from softlabel_codec.cli.output import print_json, print_pairs, print_table, progress_bar

if TYPE_CHECKING:  # imports Pillow
    from softlabel_codec.show import ImagesView
    from softlabel_codec.show.looking import CropView, ImageView

_CLASSES_OF_TAIL = 3
_ROOM_FOR_CLASSES = 52
_LONGEST_NAME = 24


@command("show")
@click.argument("labels", type=FileToRead(folders=True))
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--images", help="The labelled images, as for 'slcodec encode': for --out and --image.")
@click.option("--out", "page", type=FileToWrite(), metavar="PAGE.html", help="Write a page that shows images, crops and labels.")
@click.option("--image", "grid", type=FileToWrite(), metavar="CROPS.png", help="Write the crops as one picture, ten to a row.")
@click.option("--against", metavar="OTHER", type=FileToRead(folders=True), help="Compare with the labels in OTHER.")
@click.option(
    "--class-names",
    type=click.Path(exists=True, dir_okay=False),
    help="File of class names: one per line, or JSON.  [default: the class folders, if there are as many as classes]",
)
@click.option("--sample", type=click.IntRange(1), help="How many images a page shows, unless KEYs say which.  [default: 40]")
@click.option("--crops", "max_crops", type=click.IntRange(1), metavar="N", help="Show the first N crops of each image.")
@quiet_option
@json_option
def show_command(
    labels: str,
    keys: tuple[str, ...],
    images: str | None,
    page: str | None,
    grid: str | None,
    sample: int | None,
    as_json: bool,
    quiet: bool,
    against: str | None,
    class_names: str | None,
    max_crops: int | None,
) -> None:
    """Look at labels: a page of images, crops and classes.

    With --out, writes one HTML file that needs no network. It shows the images KEY, or some that are evenly spread, with their crops, and
    of each crop what the student gets. Otherwise prints the crops of the images KEY and their most probable classes.
    """
    _check_usage(keys, page, grid, {"--images": images, "--sample": sample, "--against": against, "--class-names": class_names})
    if page is not None:
        from softlabel_codec.show.page import SAMPLE, write_page  # noqa: PLC0415  imports Pillow

        with progress_bar("image", quiet) as progress:
            written = write_page(
                labels,
                images,
                page,
                keys,
                against=against,
                class_names=class_names,
                sample=sample or SAMPLE,
                max_crops=max_crops,
                progress=progress,
            )
        shown = f"{counted(written.shown_images, 'image')} of {written.num_images}, {counted(written.shown_crops, 'crop')}"
        _print(written, as_json, f"{page}: {shown}, {counted(written.page_bytes, 'byte')}")
    elif grid is not None:
        from softlabel_codec.show import save_crops  # noqa: PLC0415  imports Pillow

        saved = save_crops(labels, images, grid, keys, max_crops=max_crops)
        _print(saved, as_json, f"{grid}: {counted(saved.num_crops, 'crop')} of {counted(saved.num_images, 'image')}")
    else:
        from softlabel_codec.show import look_at  # noqa: PLC0415  imports Pillow

        found = look_at(labels, keys, against=against, class_names=class_names, max_crops=max_crops)
        if as_json:
            print_json(found)
        else:
            for number, image in enumerate(found.images):
                click.echo(nl=number > 0)
                _print_image(found, image)


def _check_usage(keys: Sequence[str], page: str | None, grid: str | None, options: Mapping[str, object]) -> None:
    """Raise a usage error if options do not belong together, or something is missing."""
    context = click.get_current_context()
    if page is not None and grid is not None:
        raise click.UsageError("--out and --image write different things: give one of them.", context)
    if page is None and not keys:
        raise click.UsageError("name images by KEY, or give --out PAGE.html for a page of some.", context)
    mode, refused = {
        (False, False): ("a list of crops. Give --out or --image, too", ("--images", "--sample")),
        (False, True): ("--image", ("--sample", "--against", "--class-names")),
        (True, False): ("--out with KEYs", ("--sample",) if keys else ()),
    }[page is not None, grid is not None]
    for name in refused:
        if options[name] is not None:
            raise click.UsageError(f"{name} does not apply to {mode}.", context)
    if (page or grid) and options["--images"] is None:
        raise click.UsageError("Missing option '--images': where the labelled images are.", context)


def _print(report: object, as_json: bool, line: str) -> None:
    if as_json:
        print_json(report)
    else:
        click.echo(line)


def _print_image(found: ImagesView, image: ImageView) -> None:
    """Print the crops of an image and their most probable classes."""
    height, width = image.image_size
    name = _Namer(found)
    size = [("size", f"{height} x {width} pixels, height x width")] if height else []
    true = [] if image.true_class is None else [("class", f"{name(image.true_class)}: {image.of_true_class:.3f} on average")]
    apart = [] if image.variation is None else [("distance", f"total variation {image.variation:.3f} from {found.against}, on average")]
    print_pairs([("image", image.key), *size, *true, ("entropy", f"{image.entropy:.3f} nats on average"), *apart, *_tail(image, name)])
    columns = ["crop", "place", "flip", "entropy", "rest", *(["KL"] if found.against else []), "classes"]
    rest = f"; the rest is {found.remainder}" if found.remainder else ""
    title = f"{counted(len(image.crops), 'crop')}: height x width at top, left{rest}"
    print_table(title, columns, [_row(number, crop, name, found.against is not None) for number, crop in enumerate(image.crops)])


def _row(number: int, crop: CropView, name: Callable[[int], str], compared: bool) -> list[str]:
    top, left, height, width = (f"{side:g}" if isinstance(side, int) else f"{side:.3f}" for side in crop.crop)
    rest = "" if crop.remainder is None else f"{crop.remainder:.3f}"
    kl = "" if crop.other is None else "infinite" if crop.other.kl is None else f"{crop.other.kl:.3f}"
    flip = "yes" if crop.flipped else ""
    return [
        str(number),
        f"{height} x {width} at {top}, {left}",
        flip,
        f"{crop.entropy:.3f}",
        rest,
        *([kl] if compared else []),
        _largest(crop, name),
    ]


def _largest(crop: CropView, name: Callable[[int], str]) -> str:
    """Return the most probable classes of a crop, as many as a line has room for, and their targets."""
    classes = [f"{name(of)} {target:.3f}" for of, target in zip(crop.classes, crop.targets, strict=True)]
    lengths = [len(", ".join(classes[: count + 1])) for count in range(len(classes))]
    return ", ".join(classes[: max(1, sum(length <= _ROOM_FOR_CLASSES for length in lengths))])


def _tail(image: ImageView, name: Callable[[int], str]) -> list[tuple[str, str]]:
    if image.tail is None:
        return []
    largest = ", ".join(
        f"{name(of)} {share:.3f}" for of, share in list(zip(image.tail.classes, image.tail.shares, strict=True))[:_CLASSES_OF_TAIL]
    )
    return [("tail", f"{counted(image.tail.num_listed, 'class', 'classes')}: {largest}, ...; {image.tail.floor:.2g} each other one")]


class _Namer:
    """Says what a class is called, in few letters."""

    def __init__(self, found: ImagesView) -> None:
        self._names = found.names

    def __call__(self, number: int) -> str:
        name = self._names.get(number)
        return f"class {number}" if name is None else textwrap.shorten(name, _LONGEST_NAME, placeholder="...")
