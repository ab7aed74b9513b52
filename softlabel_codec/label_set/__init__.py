"""Label sets: labels in several files, described by an index (spec/set-v1.md)."""
