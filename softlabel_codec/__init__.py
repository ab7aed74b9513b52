"""Compact, checked storage of soft labels for crops of images.

>>> from softlabel_codec import SoftLabelReader, SoftLabelWriter

What needs torch (`SoftLabelDataset`, `soft_cross_entropy`) is in `softlabel_codec.torch`; this package never imports torch.
"""

import logging

from softlabel_codec.choosing import CodecChoice, choose_codec
from softlabel_codec.codec import Codec
from softlabel_codec.container.recovery import recover
from softlabel_codec.copying import copy_labels
from softlabel_codec.errors import (
    ArgumentError,
    CorruptError,
    FormatError,
    LimitError,
    MismatchError,
    NewerVersionError,
    NotAContainerError,
    SoftLabelError,
    StateError,
    TruncatedError,
    UnknownFeatureError,
)
from softlabel_codec.image_source import ImageSource
from softlabel_codec.labels import BatchLabels, DenseLabels, ImageLabels, SparseLabels
from softlabel_codec.padding import Padding
from softlabel_codec.reader import SoftLabelReader
from softlabel_codec.sampler import CropSampler
from softlabel_codec.version import __version__
from softlabel_codec.views import AllViews
from softlabel_codec.writer import SoftLabelWriter

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the application configures logging

__all__ = [
    "AllViews",
    "ArgumentError",
    "BatchLabels",
    "Codec",
    "CodecChoice",
    "CorruptError",
    "CropSampler",
    "DenseLabels",
    "FormatError",
    "ImageLabels",
    "ImageSource",
    "LimitError",
    "MismatchError",
    "NewerVersionError",
    "NotAContainerError",
    "Padding",
    "SoftLabelError",
    "SoftLabelReader",
    "SoftLabelWriter",
    "SparseLabels",
    "StateError",
    "TruncatedError",
    "UnknownFeatureError",
    "__version__",
    "choose_codec",
    "copy_labels",
    "recover",
]
