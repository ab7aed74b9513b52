"""A storage service in memory, behind `flaky://`, that counts requests and fails as it is told."""

from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Flaky(MemoryFileSystem):
    """A memory that counts requests, and fails as it is told: `faults` are taken from the front, one for each range that is asked for."""

    protocol = "flaky"
    store = {}  # noqa: RUF012  as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012
    asked = []  # noqa: RUF012
    faults = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("flaky://", "memory://"))

    def info(self, path, **options):
        self.asked.append("info")
        return super().info(path, **options)

    def cat_file(self, path, start=None, end=None, **options):
        self.asked.append((start, end))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        data = super().cat_file(path, start, end, **options)
        return data if fault is None else fault(data)

    @classmethod
    def requests(cls):
        """Return what was asked since the last call."""
        asked, cls.asked[:] = list(cls.asked), []
        return asked


fsspec.register_implementation("flaky", Flaky, clobber=True)


def put(files, path, name="bucket/labels.slc"):
    """Put a file into the service, and return its URL."""
    files.pipe_file(f"/{name}", Path(path).read_bytes())
    files.requests()
    return f"flaky://{name}"
