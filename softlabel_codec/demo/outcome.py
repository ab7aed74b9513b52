"""The result of the demo, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import click

from softlabel_codec.compare.outcome import CompareReport, Row


@dataclass(frozen=True)
class Outcome:
    """The result of the demo.

    Attributes
    ----------
    teacher_accuracy : float
        Share of the test images that the teacher classifies correctly.
    stored_bytes_per_crop : dict
        For each label file, its bytes per crop if it stored its crops (here they are derived from the crop sampler).
    fkd_bytes_per_crop : dict
        The same for FKD's files with these labels in float16, which store their crops; None if FKD has no such labels.
    comparison : CompareReport
        The students.
    """

    teacher_accuracy: float
    stored_bytes_per_crop: dict[str, float]
    fkd_bytes_per_crop: dict[str, float | None]
    comparison: CompareReport


def verdict(row: Row, margin: float) -> str:
    """Return what the interval of a row's difference from the reference means."""
    found = row.difference
    if found is None:
        return ""
    if found.high < 0 or found.low > 0:
        return "lower" if found.high < 0 else "higher"
    return f"within {margin:g} points" if row.within_margin else "not settled"


def show_students(outcome: Outcome) -> None:
    """Print a line for each kind of labels: their size and the accuracy of the students."""
    report = outcome.comparison
    students = f"{len(report.rows[0].seeds)} students from"
    click.echo(f"\n{students:16} {'codec':33} {'bytes/crop':>10} {'% right':>7}  against {report.reference}, 95 %")
    for row in report.rows:
        size = "" if row.bytes_per_crop is None else f"{row.bytes_per_crop:.2f}"
        found = row.difference
        difference = "" if found is None else f"{found.mean:+.1f} +- {found.high - found.mean:.1f}"
        line = f"{row.name:16} {row.codec or '':33} {size:>10} {row.mean:7.1f}  {difference:11}  {verdict(row, report.margin)}"
        click.echo(line.rstrip())
