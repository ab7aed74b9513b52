"""Workloads on object storage that fails: answers that break off or are wrong, uploads that do not arrive, objects that are damaged.

They need the packages of `make test-many`. Each takes its size and an empty folder, checks everything that must hold, and returns what it
counted, as those of `crashes` do.
"""

from remote.damaging import DamagedObjects, damaged_objects
from remote.reading import FAULTS, PASSING, FaultyReads, read_through_faults
from remote.stores import Store, few_bytes, s3_store, web_store
from remote.uploading import FaultyUploads, upload_through_faults

__all__ = [
    "FAULTS",
    "PASSING",
    "DamagedObjects",
    "FaultyReads",
    "FaultyUploads",
    "Store",
    "damaged_objects",
    "few_bytes",
    "read_through_faults",
    "s3_store",
    "upload_through_faults",
    "web_store",
]
