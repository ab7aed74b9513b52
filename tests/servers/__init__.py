"""Servers that tests and benchmarks start on free ports of this machine: S3, HTTP with ranges, and a proxy with faults before them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
NGINX = shutil.which("nginx")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_MAX_ATTEMPTS": "3",
}
"""Variables of the environment with which programs use the S3 server, and no account of the machine."""
_CONFIG = """
daemon off; worker_processes 1; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; location / {{ root {files}; }} }}
}}
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """Start moto's S3 server, which takes parts of any size, and yield its URL."""
    port = free_port()
    server = ["env", "S3_UPLOAD_PART_MIN_SIZE=1", sys.executable, "-m", "moto.server"]
    with running([*server, "-H", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder with aiohttp, and yield the URL of the folder."""
    port = free_port()
    with running([sys.executable, str(HERE / "static.py"), str(folder), str(port)], f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def nginx_server(folder: Path, scratch: Path) -> Iterator[str]:
    """Serve the files of a folder with nginx, which is installed, and yield the URL of the folder."""
    port = free_port()
    config = scratch / "nginx.conf"
    user = "" if os.getuid() else "user root root;"  # else its workers would be another user, who may not read the files
    config.write_text(_CONFIG.format(folder=scratch, files=folder, port=port, user=user))
    with running([NGINX, "-p", str(scratch), "-c", str(config)], f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def running(command: list[str], url: str) -> Iterator[str]:
    """Run a server until it is no longer needed, and yield its URL when it answers."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError(f"{command}: the server ended with {server.returncode}")
            try:
                socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{command}: the server does not answer")
        yield url
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Proxy:
    """A proxy that delays answers, breaks them as it is told, and counts.

    Faults are names: see `proxy.py`. Each applies to one GET of an object, in their order; the last one goes on if it ends in `...`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def tell(self, delay: float | None = None, faults: list[str] | None = None) -> None:
        """Set the delay in seconds, and the faults to come."""
        said = [] if delay is None else [f"delay={delay}"]
        said += [] if faults is None else [f"faults={','.join(faults)}"]
        self._ask(f"tell?{'&'.join(said)}")

    def requests(self) -> list[str]:
        """Return what was asked since the last call: method, path and range."""
        return self._ask("requests").splitlines()

    def sent_bytes(self) -> int:
        """Return how many bytes of bodies were sent since the last call."""
        return int(self._ask("bytes"))

    def _ask(self, what: str) -> str:
        with urllib.request.urlopen(f"{self.url}/-/{what}") as answer:
            return answer.read().decode()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Start a proxy before a server."""
    port = free_port()
    with running([sys.executable, str(HERE / "proxy.py"), upstream, str(port)], f"http://127.0.0.1:{port}") as url:
        yield Proxy(url)
