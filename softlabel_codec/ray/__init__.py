"""Label sets made and read on a Ray cluster (extra `ray`).

>>> from softlabel_codec.ray import label_images, read_labels  # doctest: +SKIP
"""

from softlabel_codec.ray.labelling import label_images
from softlabel_codec.ray.reading import read_labels

__all__ = ["label_images", "read_labels"]
