"""Storage services of this machine behind a proxy, and label sets in them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec
import numpy as np
from label_sets import write_set
from servers import CREDENTIALS, Proxy, proxy, s3_server, web_server

from softlabel_codec import SoftLabelReader, writer
from softlabel_codec.storage import ranges, remote_source

KEYS = [f"n{number // 10:02d}/{number}.jpg" for number in range(60)]
IMAGES_PER_SHARD = 15
SHARDS = [KEYS[start : start + IMAGES_PER_SHARD] for start in range(0, len(KEYS), IMAGES_PER_SHARD)]
_SMALL = {"BEGINNING_BYTES": 256, "END_BYTES": 2000, "GAP_BYTES": 100, "FIRST_AHEAD_BYTES": 1000}


class Store:
    """A storage service behind a proxy, and how files get there past the proxy."""

    def __init__(self, base: str, through: Proxy, put: Callable[[str, bytes], Any], files: Any = None) -> None:
        self.base, self.proxy, self.put, self.files = base, through, put, files

    def url(self, name: str) -> str:
        """Return the URL of an object, through the proxy."""
        return f"{self.base}/{name}"

    def asked(self) -> list[str]:
        """Return methods and ranges of requests since the last call."""
        return [" ".join(line.split()[0::2]) for line in self.proxy.requests()]


@contextmanager
def s3_store() -> Iterator[Store]:
    """Start an S3 server with a bucket. Its variables stay in the environment of this process."""
    with s3_server() as server, proxy(server) as through:
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=through.url)
        files = fsspec.filesystem("s3", endpoint_url=server, skip_instance_cache=True)
        files.mkdir("bucket")
        yield Store("s3://bucket", through, lambda name, data: files.pipe_file(f"bucket/{name}", data), files)


@contextmanager
def web_store(folder: Path) -> Iterator[Store]:
    """Serve a folder."""

    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    with web_server(folder) as server, proxy(server) as through:
        yield Store(through.url, through, put)


@contextmanager
def few_bytes() -> Iterator[None]:
    """Make small files behave like large ones, of which little is read at once; and wait little."""
    with ExitStack() as stack:
        for name, value in _SMALL.items():
            stack.enter_context(patch.object(remote_source, name, value))
        stack.enter_context(patch.object(ranges, "FIRST_WAIT_SECONDS", 0.01))
        stack.enter_context(patch.object(writer, "TARGET_BYTES_PER_BLOCK", 300))
        yield


@contextmanager
def hurried_clients() -> Iterator[None]:
    """Let clients of this process wait a twentieth of the time between tries: those of S3 wait for seconds."""
    sleep = asyncio.sleep
    with patch.object(asyncio, "sleep", lambda seconds, *rest: sleep(seconds / 20, *rest)):
        yield


def check_names(error: Exception, name: str) -> None:
    """Check that an error names a file, or where it is."""
    assert name in str(error), f"expected an error that names {name}, got {error!r}"


class Labels:
    """A label set of this machine whose files are to be put into a store, and what a reader must find there."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = write_set(folder, SHARDS, num_crops=12, seed=seed)
        with SoftLabelReader(folder) as reader:
            self.images = [(image.crops, image.labels.dense()) for image in reader]

    @property
    def files(self) -> Mapping[str, bytes]:
        """Its files by their names, the index last."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir(), key=lambda path: path.suffix == ".json")}

    def put(self, store: Store, name: str) -> str:
        """Put all files under a name, and return the URL of the set."""
        for file, data in self.files.items():
            store.put(f"{name}/{file}", data)
        return store.url(f"{name}/x.slc.index.json")

    def are_those_of(self, batch: Any, images: list[int]) -> bool:
        """Return whether a batch holds the crops and labels of these images."""
        crops, labels = (np.concatenate(parts) for parts in zip(*(self.images[image] for image in images), strict=True))
        found = batch.labels.dense().reshape(labels.shape)
        return np.array_equal(batch.crops.reshape(crops.shape), crops) and np.array_equal(found, labels)
