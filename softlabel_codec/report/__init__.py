"""Reports on label files and label sets: their contents, statistics of their labels, and whether they are damaged. All are dataclasses."""

from softlabel_codec.report.against import AgainstReport, stats_against
from softlabel_codec.report.checking import Problem
from softlabel_codec.report.fidelity import Fidelity
from softlabel_codec.report.file_report import FileReport
from softlabel_codec.report.inspecting import inspect
from softlabel_codec.report.set_report import SetReport
from softlabel_codec.report.stats_report import StatsReport, stats
from softlabel_codec.report.verify_report import VerifyReport, verify

__all__ = [
    "AgainstReport",
    "Fidelity",
    "FileReport",
    "Problem",
    "SetReport",
    "StatsReport",
    "VerifyReport",
    "inspect",
    "stats",
    "stats_against",
    "verify",
]
