"""For PyTorch: a dataset of stored crops and labels, its sampler and collate function, and the loss.

>>> from softlabel_codec.torch import SoftLabelDataset, collate_crops, soft_cross_entropy
"""

from softlabel_codec.torch.check import TeacherCheck, WorstCrop, check_against_teacher
from softlabel_codec.torch.collate import collate_crops
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.loss import soft_cross_entropy
from softlabel_codec.torch.pixels import normalize
from softlabel_codec.torch.sampler import SoftLabelSampler
from softlabel_codec.torch.targets import DenseTargets, SparseTargets, to_targets
from softlabel_codec.torch.turns import ImageTurn

__all__ = [
    "DenseTargets",
    "ImageTurn",
    "SoftLabelDataset",
    "SoftLabelSampler",
    "SparseTargets",
    "TeacherCheck",
    "WorstCrop",
    "check_against_teacher",
    "collate_crops",
    "normalize",
    "soft_cross_entropy",
    "to_targets",
]
