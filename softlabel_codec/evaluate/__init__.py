"""Evaluates networks on a folder of images: top-1, top-5, ImageNet ReaL, calibration.

>>> from softlabel_codec.evaluate import evaluate, load_student
"""

from softlabel_codec.evaluate.evaluator import Evaluation, Evaluator, TestImages
from softlabel_codec.evaluate.student import Student, evaluate, load_student

__all__ = ["Evaluation", "Evaluator", "Student", "TestImages", "evaluate", "load_student"]
