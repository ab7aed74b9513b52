"""Label sets made and read on a Ray cluster (extra `ray`).

>>> from softlabel_codec.ray import label_images, read_labels  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from softlabel_codec.ray.reading import read_labels

if TYPE_CHECKING:
    from softlabel_codec.ray.labelling import label_images

__all__ = ["label_images", "read_labels"]


def __getattr__(name: str) -> Any:
    """Import `label_images` when it is used: of all processes on a cluster, only teachers and the driver need torch."""
    if name != "label_images":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from softlabel_codec.ray.labelling import label_images  # noqa: PLC0415

    return label_images
