"""Sources of images: one file for each kind, and `open_images`, which finds out the kind."""

from softlabel_codec.images.sources.arrays import ArraySource, NpzSource
from softlabel_codec.images.sources.columns import ColumnSource
from softlabel_codec.images.sources.folder import FolderSource, MappingSource
from softlabel_codec.images.sources.map_style import HuggingFaceSource, MapStyleSource
from softlabel_codec.images.sources.opening import open_images
from softlabel_codec.images.sources.shards import ShardSource

__all__ = [
    "ArraySource",
    "ColumnSource",
    "FolderSource",
    "HuggingFaceSource",
    "MapStyleSource",
    "MappingSource",
    "NpzSource",
    "ShardSource",
    "open_images",
]
