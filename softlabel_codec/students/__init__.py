"""Networks to train: residual networks and a small one are built in; any others are given by name.

>>> from softlabel_codec.students import build_student
>>> sum(parameter.numel() for parameter in build_student("resnet18", num_classes=1000).parameters())
11689512
"""

from softlabel_codec.students.build import STUDENTS, build_student, check_student
from softlabel_codec.students.weights import load_weights, network_state, read_weights, take_weights

__all__ = ["STUDENTS", "build_student", "check_student", "load_weights", "network_state", "read_weights", "take_weights"]
