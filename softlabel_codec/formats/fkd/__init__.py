"""Import of the label files that FKD's generator writes.

>>> from softlabel_codec.formats.fkd import import_fkd
"""

from softlabel_codec.formats.fkd.files import FkdImage, label_codec, label_type_of, read_fkd_file
from softlabel_codec.formats.fkd.importing import FkdSource, import_fkd
from softlabel_codec.formats.importing import ImportReport

__all__ = ["FkdImage", "FkdSource", "ImportReport", "import_fkd", "label_codec", "label_type_of", "read_fkd_file"]
