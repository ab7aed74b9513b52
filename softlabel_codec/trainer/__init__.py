"""The reference trainer: trains students on stored labels, the classes of the images, a teacher in every step, or label maps.

>>> from softlabel_codec.trainer import TrainConfig, train
"""

from softlabel_codec.options.train import TrainConfig
from softlabel_codec.torch.device import ImageMemory
from softlabel_codec.trainer.loop import TrainReport, train

__all__ = ["ImageMemory", "TrainConfig", "TrainReport", "train"]
