"""Label files of other projects, each format in a module or package: import, and for formats of exchange export.

>>> from softlabel_codec.formats import export_labels, import_labels
"""

from softlabel_codec.formats.converting import EXPORTED, FORMATS, export_labels, import_labels
from softlabel_codec.formats.exporting import ExportReport
from softlabel_codec.formats.importing import ImportReport

__all__ = ["EXPORTED", "FORMATS", "ExportReport", "ImportReport", "export_labels", "import_labels"]
