"""Students from several label sources, side by side."""

from softlabel_codec.compare.outcome import CompareReport
from softlabel_codec.compare.run import compare

__all__ = ["CompareReport", "compare"]
