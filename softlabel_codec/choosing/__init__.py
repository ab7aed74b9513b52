"""Chooses a codec by the labels of some images.

>>> from softlabel_codec import choose_codec
"""

from softlabel_codec.choosing.asked import Asked
from softlabel_codec.choosing.choice import CodecChoice, choose_codec
from softlabel_codec.choosing.trials import Trial

__all__ = ["Asked", "CodecChoice", "Trial", "choose_codec"]
