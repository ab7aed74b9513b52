"""Reports on a container file: what it is, what its labels say, and whether it is damaged. Each report is a dataclass."""

from softlabel_codec.report.inspect import FileReport, inspect
from softlabel_codec.report.stats import StatsReport, stats
from softlabel_codec.report.verify import Problem, VerifyReport, verify

__all__ = ["FileReport", "Problem", "StatsReport", "VerifyReport", "inspect", "stats", "verify"]
