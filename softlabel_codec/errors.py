"""Every error that this package raises deliberately, in one tree.

::

    SoftLabelError
    |-- FormatError             the bytes of a file are bad:
    |   |-- NotAContainerError      it does not begin like a softlabel container
    |   |-- NewerVersionError       it has a later major version
    |   |-- UnknownFeatureError     it needs a feature, codec or option that this reader does not know
    |   |-- TruncatedError          it ends too early: cut off, or not finished by its writer
    |   |-- CorruptError            a checksum differs, or fields contradict each other
    |   `-- LimitError              a value is beyond the limits of the format
    |-- MismatchError           labels, images, classes or teacher do not belong together
    |-- ArgumentError           the caller passed a wrong argument (also a ValueError)
    `-- StateError              the object is closed, unfinished, or in use (also a RuntimeError)

Each can be built from a single string and pickled, so a DataLoader worker can pass it on to the main process.
`OSError`, `IndexError` and `KeyError` (for a missing key) are not wrapped.
"""

from __future__ import annotations


class SoftLabelError(Exception):
    """Base of all errors of this package."""


class FormatError(SoftLabelError):
    """The bytes of a file are bad; the subclasses say how."""


class NotAContainerError(FormatError):
    """The file does not begin like a softlabel container."""


class NewerVersionError(FormatError):
    """The file was written in a later major version of the format."""


class UnknownFeatureError(FormatError):
    """The file needs a feature, codec or option that this reader does not know."""


class TruncatedError(FormatError):
    """The file ends too early: cut off, or not finished by its writer."""


class CorruptError(FormatError):
    """A checksum differs, or fields contradict each other."""


class LimitError(FormatError):
    """A value is beyond the limits of the format."""


class MismatchError(SoftLabelError):
    """Labels, images, classes or teacher do not belong together."""


class ArgumentError(SoftLabelError, ValueError):
    """The caller passed a wrong argument."""


class StateError(SoftLabelError, RuntimeError):
    """The object is closed, unfinished, or in use by another process."""
