"""The reference trainer: students from stored labels, ground truth, a teacher in every step, or label maps.

>>> from softlabel_codec.trainer import TrainConfig, train
"""

from softlabel_codec.options.train import TrainConfig
from softlabel_codec.trainer.evaluation import Evaluation, Evaluator, TestImages
from softlabel_codec.trainer.finished import Student, evaluate, load_student
from softlabel_codec.trainer.loop import TrainReport, train
from softlabel_codec.trainer.memory import ImageMemory

__all__ = [
    "Evaluation",
    "Evaluator",
    "ImageMemory",
    "Student",
    "TestImages",
    "TrainConfig",
    "TrainReport",
    "evaluate",
    "load_student",
    "train",
]
