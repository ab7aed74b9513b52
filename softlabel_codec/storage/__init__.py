"""Files that are not on this machine: their addresses, reading them by ranges, a cache of whole files, and uploading."""

from softlabel_codec.storage.uploading import upload

__all__ = ["upload"]
