"""Reports as tables for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from softlabel_codec.checks.wording import counted
from softlabel_codec.cli.output import print_pairs, print_table
from softlabel_codec.report import AgainstReport, Fidelity, FileReport, SetReport, StatsReport
from softlabel_codec.report.fidelity import CROPS_OF_A_MEAN

if TYPE_CHECKING:  # imports torch
    from softlabel_codec.compare.outcome import CompareReport, Row

MOST_SKIPPED = 10
MOST_SHARDS = 10
"""How many missing shards are named."""


def show_inspection(report: FileReport) -> None:
    """Print what `inspect` found: identity, provenance and where the bytes go."""
    print_pairs(_identity(report))
    if report.metadata:
        click.echo("\nProvenance")
        print_pairs((f"  {name}", value) for name, value in _flatten(report.metadata))
    click.echo()
    _show_budget(report)


def show_stats(report: StatsReport) -> None:
    """Print what `stats` found: how sure the teacher is, what is kept of its labels, and where the bytes go."""
    sample = f"{counted(report.sampled_crops, 'crop')} of {report.sampled_images} of {counted(report.num_images, 'image')}"
    read_at = "" if report.temperature is None else f", read at temperature {report.temperature:g}"
    click.echo(f"{report.codec}, {report.num_classes} classes: {sample}{read_at}")
    print_pairs(_geometry(report))
    click.echo()
    quantities = {
        "confidence (top class)": report.confidence,
        "entropy in nats": report.entropy,
        "classes kept": report.kept_classes,
        "remainder": report.remainder,
        "top classes per image": report.top1_classes_per_image,
        "agreement on the top class": report.top1_agreement,
        "crop area / image area": report.crop_area,
        **({} if report.fitted_kl is None else {"KL of fields, crops they are made from": report.fitted_kl}),
        **({} if report.unseen_kl is None else {"KL of fields, other crops": report.unseen_kl}),
    }
    levels = list(report.confidence.quantiles)
    rows = [(name, f"{values.mean:.3f}", *(f"{values.quantiles[level]:.3f}" for level in levels)) for name, values in quantities.items()]
    print_table("Per crop, or per image", ["quantity", "mean", *levels], rows)
    are = "is" if report.top1_classes_seen == 1 else "are"
    on_top = f"{report.top1_classes_seen} of {report.num_classes} classes {are} on top of some crop"
    click.echo(f"{on_top}; {report.flipped:.1%} of the crops are mirrored")
    sizes = f"{report.bytes_per_crop:.2f} bytes per crop, {report.bytes_per_image:.1f} per image"
    click.echo(f"{sizes} ('slcodec inspect' says where they go)")


def show_against(report: AgainstReport) -> None:
    """Print what differs between the labels of two files."""
    print_pairs([("A", report.path), ("B", report.against), *_common_images(report)])
    if report.differences:
        click.echo()
        print_table("What they say differently", ["", "A", "B"], [(name, *map(_short, both)) for name, both in report.differences.items()])
    if not report.compared_crops:
        return
    click.echo()
    quantities = {"KL(A || B) in nats": report.kl, "total variation": report.total_variation, "cosine similarity": report.cosine}
    found = [(name, values) for name, values in quantities.items() if values is not None]
    if found:
        levels = list(found[0][1].quantiles)
        rows = [(name, f"{values.mean:.4f}", *(f"{values.quantiles[level]:.4f}" for level in levels)) for name, values in found]
        print_table("Labels, per crop", ["quantity", "mean", *levels], rows)
    if report.fidelity:
        click.echo()
        print_table("At temperature T, means", _OF_FIDELITY, map(_fidelity_row, report.fidelity))
    if report.mean_probability_spread is not None:
        here, there = report.mean_probability_spread
        click.echo(f"spread of the mean probability over {CROPS_OF_A_MEAN} crops: {here:.6f} in A, {there:.6f} in B")
    shares = {"the same top class": report.top1_agreement, "the same labels": report.identical, "infinite KL": report.infinite_kl or None}
    click.echo("; ".join(f"{name}: {share:.2%} of the crops" for name, share in shares.items() if share is not None))


_OF_FIDELITY = ["T", "KL in nats", "share lost", "total variation"]


def _fidelity_row(found: Fidelity) -> tuple[str, str, str, str]:
    kl, lost = _number(found.kl, "{:.4f}", "infinite"), _number(found.lost, "{:.1%}")
    return f"{found.temperature:g}", kl, lost, f"{found.total_variation:.4f}"


def _common_images(report: AgainstReport) -> Iterator[tuple[str, str]]:
    same = ", the same bytes" if report.same_bytes else ""
    yield "images", f"{report.num_images} in A, {report.against_images} in B, {report.common_images} in both{same}"
    for name, only in (("only in A", report.only_here), ("only in B", report.only_there)):
        if only.count:
            yield name, f"{counted(only.count, 'image')}: {', '.join(only.first)}{', ...' if only.count > len(only.first) else ''}"
    if report.sampled_images:
        yield "compared", f"{counted(report.compared_crops, 'crop')} of {counted(report.sampled_images, 'image')}"
    if report.not_comparable:
        yield "note", f"labels are not comparable: {report.not_comparable}"
    notes = {
        "of another size, or from another file": report.other_pictures,
        "with another number of crops": report.other_num_crops,
    }
    for what, count in notes.items():
        if count:
            yield "note", f"{counted(count, 'image')} {what}"
    if report.other_crops:
        yield "note", f"{counted(report.other_crops, 'crop')} elsewhere, or mirrored otherwise: their labels are not compared"


def _short(value: object) -> str:
    return "" if value is None else textwrap.shorten(str(value), 48, placeholder=" ...")


def _identity(report: FileReport) -> list[tuple[str, Any]]:
    crops = str(report.fewest_crops) if report.fewest_crops == report.most_crops else f"{report.fewest_crops} to {report.most_crops}"
    sizes = f"{counted(report.file_bytes, 'byte')}, {report.bytes_per_crop:.2f} per crop, {report.bytes_per_image:.1f} per image"
    skipped = f" ({len(report.skipped_keys)} more could not be labelled)" if report.skipped_keys else ""
    return [
        ("set" if isinstance(report, SetReport) else "file", report.path),
        *([("shards", _shards(report))] if isinstance(report, SetReport) else []),
        ("format", f"softlabel container {report.format_version}, written by {report.written_by}"),
        ("codec", report.codec),
        ("classes", report.num_classes),
        ("images", f"{report.num_images}{skipped}" + ("" if report.finished else _so_far(report))),
        ("crops", f"{report.num_crops} ({crops} per image), as {report.crops}"),
        *_geometry(report),
        ("size", f"{sizes}, in {counted(report.num_blocks, 'block')}"),
        *(("skipped", key) for key in report.skipped_keys[:MOST_SKIPPED]),
        *([("fingerprint", report.fingerprint)] if report.finished else []),
        *(("problem", problem) for problem in report.problems),
        *([] if report.problems else [("health", f"{_sound(report)} ('slcodec verify' checks the rest)")]),
    ]


def _shards(report: SetReport) -> str:
    """Return how many shards there are, how long they are, and which are not there."""
    small, large = report.smallest_shard_bytes, report.largest_shard_bytes
    lengths = counted(small, "byte") if small == large else f"{small} to {counted(large, 'byte')}"
    missing, begun = _some(report.missing_shards), _some(report.begun_shards)
    lacking = (f"; missing: {missing}" if missing else "") + (f"; begun: {begun}" if begun else "")
    if not report.finished:
        finished = report.num_shards - len(report.missing_shards) - len(report.begun_shards)
        return f"{finished} of {report.num_shards} finished" + (f", of {lengths}" if finished else "") + lacking
    unread = f"; {report.read_shards} were read" if report.read_shards < report.num_shards - len(report.missing_shards) else ""
    return f"{report.num_shards} of {lengths}{lacking}{unread}"


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - MOST_SHARDS} more" if len(numbers) > MOST_SHARDS else ""
    return ", ".join(map(str, numbers[:MOST_SHARDS])) + more


def _so_far(report: FileReport) -> str:
    return " so far" if isinstance(report, SetReport) else " in the whole blocks at the beginning of the file"


def _sound(report: FileReport) -> str:
    parts = "header, metadata, index and trailer"
    return f"the index, and of each shard {parts}, are sound" if isinstance(report, SetReport) else f"{parts} are sound"


def _geometry(report: FileReport | StatsReport) -> list[tuple[str, str]]:
    """Return where derived crops come from, and how images are padded."""
    said = {"sampler": report.sampler, "padding": report.padding}
    return [(name, ", ".join(_parameters(values))) for name, values in said.items() if values is not None]


def _parameters(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name == "name":
            yield str(value)
        elif name != "log_ratio":  # which says the same as the ratio
            span = isinstance(value, list) and len(value) == 2
            yield f"{name.removesuffix('_probability')} {' to '.join(f'{part:.3g}' for part in value) if span else value}"


def _show_budget(report: FileReport) -> None:
    total = sum(part.file_bytes for part in report.budget) or 1
    rows = [
        (part.name, part.file_bytes, f"{part.bytes_per_crop:.3f}", f"{part.bytes_per_image:.2f}", f"{part.file_bytes / total:.1%}")
        for part in sorted(report.budget, key=lambda part: -part.file_bytes)
    ]
    per_crop, per_image = (sum(getattr(part, size) for part in report.budget) for size in ("bytes_per_crop", "bytes_per_image"))
    rows.append(("together", total, f"{per_crop:.3f}", f"{per_image:.2f}", "100.0%"))
    print_table("Where the bytes go", ["column", "bytes", "per crop", "per image", "share"], rows)


def _flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield nested maps as pairs with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def show_comparison(report: CompareReport) -> None:
    """Print what students make of each label source, and what the labels are like."""
    title = f"Students; differences from {report.reference} with 95 % intervals, margin {report.margin:g} points"
    columns = ["labels", "top-1 in %", "n", "difference", "within margin", "bytes/crop", "bytes/image", "s/epoch", "for data"]
    print_table(title, columns, [_student_row(row) for row in report.rows])
    seen = {row.name: row for row in report.rows if row.quality is not None}
    if seen:
        click.echo()
        columns = ["labels", "confidence", "entropy", "agreement with classes", "spread", f"KL from {report.reference}", "cross-entropy"]
        print_table("Their labels, entropies in nats", columns, [_label_row(row, report.reference) for row in seen.values()])
        rows = [(name, *_fidelity_row(found)) for name, row in seen.items() for found in _fidelities(row, report.reference)]
        if rows:
            click.echo()
            print_table(f"How near they are to {report.reference}, both at temperature T", ["labels", *_OF_FIDELITY], rows)


def _fidelities(row: Row, reference: str) -> Sequence[Fidelity]:
    return [] if row.quality is None or row.name == reference else row.quality.fidelity.get(reference, [])


def _student_row(row: Row) -> list[str]:
    spread = "" if row.standard_deviation is None else f" +- {row.standard_deviation:.2f}"
    found = row.difference
    return [
        row.title,
        f"{row.mean:.2f}{spread}",
        str(len(row.accuracies)),
        "" if found is None else f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})",
        {None: "", True: "yes", False: "not shown"}[row.within_margin],
        _number(row.bytes_per_crop, "{:.2f}"),
        _number(row.bytes_per_image, "{:.1f}"),
        f"{row.seconds_per_epoch:.2f}",
        f"{row.data_seconds_per_epoch:.2f}",
    ]


def _label_row(row: Row, reference: str) -> list[str]:
    quality = row.quality
    assert quality is not None
    known = reference in quality.cross_entropy
    return [
        row.name,
        f"{quality.confidence:.3f}",
        f"{quality.entropy:.3f}",
        _number(quality.agreement, "{:.3f}"),
        f"{quality.mean_probability_spread:.5f}",
        _number(row.kl, "{:.3f}", "infinite" if known else ""),
        _number(quality.cross_entropy.get(reference), "{:.3f}", "infinite" if known else ""),
    ]


def _number(value: float | None, form: str, otherwise: str = "") -> str:
    return otherwise if value is None else form.format(value)
