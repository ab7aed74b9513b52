"""Every error that this package raises on purpose, in one tree.

Each can be built from a single string and pickled, so that it survives the way out of a DataLoader worker.
`OSError`, `IndexError` and `KeyError` (for an absent key) stay what they are.
"""

from __future__ import annotations


class SoftLabelError(Exception):
    """Base of all errors of this package."""


class FormatError(SoftLabelError):
    """The bytes are bad: see the subclasses for how."""


class NotAContainerError(FormatError):
    """The file does not begin like a softlabel container."""


class NewerVersionError(FormatError):
    """The file was written in a later major version of the format."""


class UnknownFeatureError(FormatError):
    """The file needs a feature, codec or option that this reader does not know."""


class TruncatedError(FormatError):
    """The file ends too early: cut off, or never finished by its writer."""


class CorruptError(FormatError):
    """A checksum differs or fields contradict each other."""


class LimitError(FormatError):
    """A value is beyond the limits of the format."""


class MismatchError(SoftLabelError):
    """Labels, images, classes or teacher do not belong together."""


class ArgumentError(SoftLabelError, ValueError):
    """The caller passed something that cannot be meant."""


class StateError(SoftLabelError, RuntimeError):
    """The object is closed, unfinished, or in use by somebody else."""
