"""ReLabel-style label maps, the published competitor."""

from softlabel_codec.label_maps.maps import LabelMaps, make_label_maps

__all__ = ["LabelMaps", "make_label_maps"]
