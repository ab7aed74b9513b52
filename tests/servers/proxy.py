"""A proxy with delays and faults: python proxy.py UPSTREAM PORT. `servers.Proxy` talks to it by the paths under `/-/`.

Faults, each for one GET; for one PUT if `put:` stands before it, for any request with `any:`:

- `slow_down`: 503 as S3 says it; `throttled`: 429, to be tried again at once; `broken`: 500
- `drop`: the connection is closed without an answer; `lost`: after what was asked was done; `cut`: in the middle of the body
- `short`: a byte is missing at the end of the body, and the headers agree with that
- `long`: there is more behind it
- `flipped`: a bit of the body is wrong, anywhere
- `elsewhere`: other bytes than those that were asked for, and the headers say so
- `whole`: the range is ignored
- `old`: what was answered when this range was first asked for
- `forbidden`: 403
- `none`: no fault
"""

import asyncio
import random
import sys

from aiohttp import ClientSession, TCPConnector, web

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DROPPED = {"transfer-encoding", "connection", "date", "server", "content-length", "keep-alive"}


class Proxy:
    def __init__(self, upstream: str) -> None:
        self.upstream, self.delay, self.faults = upstream, 0.0, []
        self.requests, self.sent = [], 0
        self.answers = {}

    async def start(self, port: int) -> None:
        connector = TCPConnector(limit=0)
        skipped = ["User-Agent", "Accept", "Accept-Encoding", "Content-Type"]
        self.session = ClientSession(auto_decompress=False, connector=connector, skip_auto_headers=skipped)
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/-/tell", self.tell)
        app.router.add_get("/-/requests", self.tell_requests)
        app.router.add_get("/-/bytes", self.tell_bytes)
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()

    async def tell(self, request: web.Request) -> web.Response:
        if "delay" in request.query:
            self.delay = float(request.query["delay"])
        if "faults" in request.query:
            self.faults = [name for name in request.query["faults"].split(",") if name]
        return web.Response()

    async def tell_requests(self, request: web.Request) -> web.Response:
        told, self.requests = self.requests, []
        return web.Response(text="\n".join(told))

    async def tell_bytes(self, request: web.Request) -> web.Response:
        told, self.sent = self.sent, 0
        return web.Response(text=str(told))

    def fault(self, request: web.Request) -> str:
        method, _, fault = self.faults[0].rpartition(":") if self.faults else ("", "", "none")
        if (method or "get") not in (request.method.lower(), "any"):
            return "none"
        if not fault.endswith("...") and self.faults:
            self.faults.pop(0)
        return fault.removesuffix("...")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.requests.append(f"{request.method} {request.path} {asked}".rstrip())
        fault = self.fault(request)
        await asyncio.sleep(self.delay)
        if fault == "slow_down":
            return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
        if fault in ("throttled", "broken", "forbidden"):
            status = {"throttled": 429, "broken": 500, "forbidden": 403}[fault]
            return web.Response(status=status, headers={"Retry-After": "0"})
        if fault == "drop":
            request.transport.abort()
            return web.Response()
        headers = [(name, value) for name, value in request.headers.items() if fault != "whole" or name.lower() != "range"]
        if fault == "elsewhere":
            headers = [(name, "bytes=1-100" if name.lower() == "range" else value) for name, value in headers]
        body = await request.read()
        url = self.upstream + request.raw_path
        async with self.session.request(request.method, url, headers=headers, data=body or None, allow_redirects=False) as found:
            data = await found.read()
            status, headers = found.status, [(name, value) for name, value in found.headers.items() if name.lower() not in DROPPED]
            length = found.headers.get("Content-Length")
        if fault == "lost":
            request.transport.abort()
            return web.Response()
        if status < 300 and request.method == "GET":
            first = self.answers.setdefault((request.path, asked), (status, headers, data))
            status, headers, data = first if fault == "old" else (status, headers, data)
        if fault in ("short", "long"):
            data = data[:-1] if fault == "short" else data + bytes(10**6)
        if fault == "flipped" and data:
            place = random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]
        self.sent += len(data)
        if fault == "cut":
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = len(data)
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            await asyncio.sleep(0.01)
            request.transport.abort()
            return response
        if request.method == "HEAD":
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = int(length or 0)
            return response
        return web.Response(status=status, headers=headers, body=data)


async def main(upstream: str, port: str) -> None:
    await Proxy(upstream).start(int(port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
