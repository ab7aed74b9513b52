"""Evaluates networks on a folder of images: top-1, top-5, ImageNet ReaL, calibration; k-NN and linear evaluation of frozen ones.

>>> from softlabel_codec.evaluate import evaluate, load_student
"""

from softlabel_codec.evaluate.evaluator import Evaluation, Evaluator, TestImages
from softlabel_codec.evaluate.frozen import FrozenEvaluation, evaluate_frozen, knn_classes, linear_classes
from softlabel_codec.evaluate.student import Student, evaluate, load_student

__all__ = [
    "Evaluation",
    "Evaluator",
    "FrozenEvaluation",
    "Student",
    "TestImages",
    "evaluate",
    "evaluate_frozen",
    "knn_classes",
    "linear_classes",
    "load_student",
]
