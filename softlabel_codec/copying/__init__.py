"""Rearranges label files and sets without the teacher: merges, splits, selects, transcodes. `copy_labels` does it."""

from softlabel_codec.copying.run import CopyReport, copy_labels

__all__ = ["CopyReport", "copy_labels"]
