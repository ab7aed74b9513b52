"""Comparison of students that are trained from several label sources."""

from softlabel_codec.compare.outcome import CompareReport
from softlabel_codec.compare.run import compare

__all__ = ["CompareReport", "compare"]
