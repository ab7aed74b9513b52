"""For PyTorch: a dataset of stored crops and labels, its sampler and collate function, and the loss.

>>> from softlabel_codec.torch import SoftLabelDataset, collate_crops, soft_cross_entropy
"""

from softlabel_codec.torch.check import TeacherCheck, WorstCrop, check_against_teacher
from softlabel_codec.torch.collate import Sample, collate_crops, collate_dense
from softlabel_codec.torch.dataset import SoftLabelDataset
from softlabel_codec.torch.fields import LabelFields
from softlabel_codec.torch.fitting import add_fields
from softlabel_codec.torch.joining import cat_targets
from softlabel_codec.torch.loss import SoftCrossEntropy, soft_cross_entropy
from softlabel_codec.torch.pixels import normalize
from softlabel_codec.torch.sampler import SoftLabelSampler
from softlabel_codec.torch.stream import LabelledCrops
from softlabel_codec.torch.targets import DenseTargets, FeatureTargets, SparseTargets, to_targets
from softlabel_codec.torch.turns import ImageTurn

__all__ = [
    "DenseTargets",
    "FeatureTargets",
    "ImageTurn",
    "LabelFields",
    "LabelledCrops",
    "Sample",
    "SoftCrossEntropy",
    "SoftLabelDataset",
    "SoftLabelSampler",
    "SparseTargets",
    "TeacherCheck",
    "WorstCrop",
    "add_fields",
    "cat_targets",
    "check_against_teacher",
    "collate_crops",
    "collate_dense",
    "normalize",
    "soft_cross_entropy",
    "to_targets",
]
