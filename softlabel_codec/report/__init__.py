"""What a container file is, what is in it, and whether it is sound: each report is a dataclass first."""

from softlabel_codec.report.file_report import FileReport, inspect
from softlabel_codec.report.stats_report import StatsReport, stats
from softlabel_codec.report.verify_report import Problem, VerifyReport, verify

__all__ = ["FileReport", "Problem", "StatsReport", "VerifyReport", "inspect", "stats", "verify"]
