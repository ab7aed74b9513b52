"""Runs a teacher over an image folder and writes a container file.

>>> from softlabel_codec.teacher import EncodeConfig, encode
"""

from softlabel_codec.options.encode import EncodeConfig
from softlabel_codec.teacher.check import LabelsCheck, check_labels
from softlabel_codec.teacher.encoding import encode
from softlabel_codec.teacher.load import Teacher, load_teacher
from softlabel_codec.teacher.reports import EncodeReport, SetProgress

__all__ = ["EncodeConfig", "EncodeReport", "LabelsCheck", "SetProgress", "Teacher", "check_labels", "encode", "load_teacher"]
