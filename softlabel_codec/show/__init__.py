"""Labels to look at: as a page with images and their crops, as numbers, and crops as a picture.

>>> from softlabel_codec.show import look_at, save_crops, write_page
"""

from softlabel_codec.show.by_key import CropsReport, ImagesView, look_at, save_crops
from softlabel_codec.show.page import PageReport, write_page

__all__ = ["CropsReport", "ImagesView", "PageReport", "look_at", "save_crops", "write_page"]
