"""The reference trainer: students from stored labels, ground truth, a teacher in every step, or label maps.

>>> from softlabel_codec.trainer import TrainConfig, compare, train
"""

from softlabel_codec.train_config import TrainConfig
from softlabel_codec.trainer.comparison import compare
from softlabel_codec.trainer.evaluation import Evaluation, Evaluator, TestImages
from softlabel_codec.trainer.finished import Student, evaluate, load_student
from softlabel_codec.trainer.label_maps import LabelMaps, make_label_maps
from softlabel_codec.trainer.loop import TrainReport, train
from softlabel_codec.trainer.memory import ImageMemory
from softlabel_codec.trainer.outcome import CompareReport

__all__ = [
    "CompareReport",
    "Evaluation",
    "Evaluator",
    "ImageMemory",
    "LabelMaps",
    "Student",
    "TestImages",
    "TrainConfig",
    "TrainReport",
    "compare",
    "evaluate",
    "load_student",
    "make_label_maps",
    "train",
]
