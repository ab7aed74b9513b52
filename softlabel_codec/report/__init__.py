"""Reports on a container file: its contents, statistics of its labels, and whether it is damaged. Each report is a dataclass."""

from softlabel_codec.report.against import AgainstReport, stats_against
from softlabel_codec.report.file_report import FileReport, inspect
from softlabel_codec.report.stats_report import StatsReport, stats
from softlabel_codec.report.verify_report import Problem, VerifyReport, verify

__all__ = ["AgainstReport", "FileReport", "Problem", "StatsReport", "VerifyReport", "inspect", "stats", "stats_against", "verify"]
