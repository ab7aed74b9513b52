"""ReLabel-style label maps, to compare with."""

from softlabel_codec.label_maps.maps import LabelMaps, MappedCrops, file_sha256, make_label_maps

__all__ = ["LabelMaps", "MappedCrops", "file_sha256", "make_label_maps"]
