"""A folder that all nodes of a cluster reach, on any file system that Arrow knows."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from softlabel_codec.container.whole_files import whole_file
from softlabel_codec.errors import ArgumentError


@dataclass(frozen=True)
class SharedFolder:
    """A folder and its file system.

    Attributes
    ----------
    filesystem : pyarrow.fs.FileSystem
        The file system.
    path : str
        Path of the folder there.
    """

    filesystem: Any
    path: str

    @classmethod
    def open(cls, out: str | os.PathLike[str], filesystem: Any = None) -> SharedFolder:
        """Return a folder by its path or URL, or, with a file system of Arrow's or fsspec's, by its path there."""
        text = os.fspath(out)
        if filesystem is None:
            filesystem, text = fs.FileSystem.from_uri(text if "://" in text else os.path.abspath(text))
        elif not isinstance(filesystem, fs.FileSystem):
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        path = text.rstrip("/")
        if not path.rpartition("/")[2]:
            raise ArgumentError(f"out: expected a folder that gives the label set its name, got {out!r}")
        return cls(filesystem, path)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.path.rpartition("/")[2]

    def within(self, name: str) -> SharedFolder:
        """Return a folder in this one."""
        return SharedFolder(self.filesystem, f"{self.path}/{name}")

    def files(self) -> list[str]:
        """Return the names of the files in the folder, ascending; none if it is not there."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give the path of a file in the folder on this machine: its own, or that of a copy for the time being."""
        if self._is_local:
            yield self._local(name)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, name)
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file)
            yield copy

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path on this machine at which a file is to be written, which is in the folder after the `with` block."""
        if self._is_local:
            yield self._local(name)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, name)
            with Path(folder, name).open("rb") as file, self.filesystem.open_output_stream(f"{self.path}/{name}") as target:
                shutil.copyfileobj(file, target)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, completely or not at all."""
        if self._is_local:
            with whole_file(self._local(name)) as file:
                file.write(data)
            return
        with self.filesystem.open_output_stream(f"{self.path}/{name}") as target:
            target.write(data)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; FileNotFoundError if there is none."""
        with self.filesystem.open_input_stream(f"{self.path}/{name}") as source:
            data: bytes = source.read()
            return data

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(f"{self.path}/{name}")

    def exists(self) -> bool:
        """Return whether the folder is there."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def make(self) -> None:
        """Make the folder if it is not there."""
        self.filesystem.create_dir(self.path, recursive=True)

    def remove_all(self) -> None:
        """Remove the folder and all that is in it."""
        self.filesystem.delete_dir(self.path)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def _local(self, name: str) -> Path:
        return Path(self.path, name)

    def __str__(self) -> str:
        return self.path
