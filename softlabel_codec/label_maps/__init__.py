"""ReLabel-style label maps, to compare with."""

from softlabel_codec.label_maps.maps import LabelMaps, make_label_maps

__all__ = ["LabelMaps", "make_label_maps"]
