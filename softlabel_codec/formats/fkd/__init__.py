"""Import of the label files that FKD's generator writes.

>>> from softlabel_codec.formats.fkd import import_fkd
"""

from softlabel_codec.formats.fkd.files import FkdImage, label_codec, read_fkd_file
from softlabel_codec.formats.fkd.importing import ImportReport, import_fkd

__all__ = ["FkdImage", "ImportReport", "import_fkd", "label_codec", "read_fkd_file"]
