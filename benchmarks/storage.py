"""Measure reading labels from S3 and HTTP servers of this machine, behind a proxy that delays: python -m benchmarks.storage.

It needs the environment of `make test-many` and the labels beside the repository, and writes `results/storage.json`. With obstore
installed, its client is compared with s3fs. Servers, proxy and reader share the processors: where there is no delay, most of the time is
theirs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.measure.common import RESULTS, circumstances, shared_labels, spread, write_container
from softlabel_codec import SoftLabelReader
from softlabel_codec.storage import clients, remote_source, upload
from softlabel_codec.storage.location import Url
from softlabel_codec.storage.ranges import Range
from softlabel_codec.storage.s3 import S3Object

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where the servers are

RESULT = RESULTS / "storage.json"
PACKAGES = ("softlabel_codec", "numpy", "fsspec", "s3fs", "aiobotocore", "aiohttp", "moto")
CODEC = "marginal_smoothing:k=5"
IMAGES_PER_BATCH, CROPS, ROUNDS, COPIES = 64, 4, 9, 64
DELAYS = (0.0, 0.02, 0.1)
GAPS = (0, 2**14, 2**16, 2**18, 2**20)
RANGES = (1, 4, 16, 64)
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def measure() -> dict[str, Any]:
    """Return requests, bytes and seconds of opening a file and of a batch, by server, delay, and way of reading."""
    labels = shared_labels()
    if labels is None:
        sys.exit("There are no labels beside the repository.")
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as stores:
        path = Path(folder) / "labels.slc"
        file_bytes = write_container(labels, path, CODEC, derived=True, copies=COPIES)
        for put, _, _ in stores.values():
            put(path)
        return {
            **circumstances(PACKAGES),
            "labels": f"{COPIES} times {labels.source}, {CODEC}, crops derived",
            "file_bytes": file_bytes,
            "images_per_batch": IMAGES_PER_BATCH,
            "crops_per_image": CROPS,
            "batches": ROUNDS,
            "gap_bytes": remote_source.GAP_BYTES,
            "local": {"seconds": _batches(SoftLabelReader(path), None)["seconds"]},
            "stores": {name: _reading(url, proxy, Path(folder)) for name, (_, url, proxy) in stores.items()},
            "gaps": {name: _gaps(url, proxy) for name, (_, url, proxy) in stores.items()},
            "clients": _clients(stores["S3"][2]),
        }


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, Any]]:
    """Start the servers; yield for each how a file gets there, its URL there, and the proxy."""
    from servers import NGINX, nginx_server, proxy, s3_server, web_server

    served, scratch = folder / "served", folder / "scratch"
    served.mkdir()
    scratch.mkdir()
    web = web_server(served) if NGINX is None else nginx_server(served, scratch)
    with s3_server() as s3, web as http, proxy(s3) as before_s3, proxy(http) as before_http:
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=before_s3.url)
        files, _ = clients.file_system("s3://labels/")
        files.mkdir("labels")
        yield {
            "S3": (lambda path: upload(path, "s3://labels/labels.slc"), "s3://labels/labels.slc", before_s3),
            "HTTP": (lambda path: (served / path.name).write_bytes(path.read_bytes()), f"{before_http.url}/labels.slc", before_http),
        }


def _reading(url: str, proxy: Any, folder: Path) -> dict[str, Any]:
    found = {}
    for delay in DELAYS:
        proxy.tell(delay=delay)
        name = f"{1000 * delay:.0f} ms"
        cache = folder / f"cache of {url.partition(':')[0]}, {name}"
        ways = {
            "ranges, near ones joined": (remote_source.GAP_BYTES, False),
            "ranges, one for each block": (0, False),
            "cache": (remote_source.GAP_BYTES, cache),
        }
        found[name] = {}
        for way, (gap, kept) in ways.items():
            with patch.object(remote_source, "GAP_BYTES", gap):
                opening = _one(lambda kept=kept: SoftLabelReader(url, cache=kept), proxy)
                again = _one(lambda kept=kept: SoftLabelReader(url, cache=kept), proxy)
                with SoftLabelReader(url, cache=kept) as reader:
                    first = _one(lambda reader=reader: _draw(reader, np.random.default_rng(1)), proxy)
                    found[name][way] = {"opening": opening, "opening again": again, "first batch": first, "batch": _batches(reader, proxy)}
    proxy.tell(delay=0)
    return found


def _draw(reader: SoftLabelReader, rng: np.random.Generator) -> None:
    reader.draw(rng.choice(len(reader), IMAGES_PER_BATCH, replace=False), CROPS)


def _one(work: Callable[[], Any], proxy: Any) -> dict[str, float]:
    proxy.requests(), proxy.sent_bytes()
    start = time.perf_counter()
    done = work()
    seconds = time.perf_counter() - start
    with done if isinstance(done, SoftLabelReader) else nullcontext():
        return {"requests": len(proxy.requests()), "bytes": proxy.sent_bytes(), "seconds": seconds}


def _batches(reader: SoftLabelReader, proxy: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    _draw(reader, rng)
    if proxy is not None:
        proxy.requests(), proxy.sent_bytes()
    seconds, processor = [], []
    for _ in range(ROUNDS):
        start, cpu = time.perf_counter(), time.process_time()
        _draw(reader, rng)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - cpu)
    asked = {} if proxy is None else {"requests": len(proxy.requests()) / ROUNDS, "bytes": proxy.sent_bytes() / ROUNDS}
    return {**asked, "seconds": spread(seconds), "processor_seconds": spread(processor)}


def _gaps(url: str, proxy: Any) -> dict[str, Any]:
    """Return the batches of a file that are read with ranges joined that are so many bytes apart, with a delay of 20 ms."""
    proxy.tell(delay=DELAYS[1])
    found = {}
    for gap in GAPS:
        with patch.object(remote_source, "GAP_BYTES", gap), SoftLabelReader(url) as reader:
            found[str(gap)] = _batches(reader, proxy)
    proxy.tell(delay=0)
    return found


def _clients(proxy: Any) -> dict[str, Any]:
    """Return seconds, and seconds of the processor, that s3fs and obstore take for some ranges of 8 KiB, taken in turns."""
    if importlib.util.find_spec("obstore") is None:
        return {}
    import obstore
    from obstore.store import S3Store

    there = S3Object(Url("s3://labels/labels.slc"))
    options = {"endpoint": proxy.url, "client_options": {"allow_http": True}, "virtual_hosted_style_request": False}
    store = S3Store("labels", region="us-east-1", **options)
    length = there.get([Range(0, 1)])[0].length
    rng, size = np.random.default_rng(0), 8192
    ways: dict[str, Callable[[list[int]], object]] = {
        "s3fs": lambda starts: there.get([Range(start, start + size) for start in starts]),
        "obstore": lambda starts: obstore.get_ranges(store, "labels.slc", starts=starts, lengths=[size] * len(starts), coalesce=0),
    }
    found: dict[str, Any] = {}
    for delay in DELAYS:
        proxy.tell(delay=delay)
        for count in RANGES:
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(ROUNDS + 1):
                starts = np.sort(rng.integers(0, length - size, count)).tolist()
                for name, way in ways.items():
                    start, cpu = time.perf_counter(), time.process_time()
                    way(starts)
                    taken[name].append((time.perf_counter() - start, time.process_time() - cpu))
            found[f"{1000 * delay:.0f} ms, {count} ranges"] = {
                name: {"seconds": spread([one for one, _ in times[1:]]), "processor_seconds": spread([one for _, one in times[1:]])}
                for name, times in taken.items()
            }
    proxy.tell(delay=0)
    return found


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
    print(RESULT, file=sys.stderr)
