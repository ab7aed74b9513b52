"""A page in headless Chromium, driven over a pipe by the DevTools protocol, for which no package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "/": 191}
TO_BROWSER, FROM_BROWSER = 3, 4
"""Descriptors on which Chromium expects commands, and writes answers, each ended by a NUL."""

MOST_SECONDS = 60.0
"""An answer that takes longer never comes."""


class Page:
    """An open page.

    Attributes
    ----------
    complaints : list of str
        What it wrote to the console as warning or error, what Chromium calls an error, exceptions that nothing caught, and requests that
        failed or went anywhere.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._buffer = 0, b""
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], MOST_SECONDS)
            part = os.read(self._answers, 2**16) if ready else b""
            if not part:
                raise RuntimeError("Chromium has ended, or says nothing")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = json.dumps({"id": self._number, "method": method, "params": parameters, **self._session}).encode() + b"\0"
        while message:
            message = message[os.write(self._commands, message) :]
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _note(self, event: dict[str, Any]) -> None:
        method, said = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.complaints.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"asked for {said['request']['url']}")
        elif method == "Network.loadingFailed":
            self.complaints.append(said["errorText"])

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False, scale: float = 1, phone: bool = False) -> None:
        """Open a file in a new page of that size in pixels, and wait until it is complete."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        if phone:
            self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media="screen", features=theme)
        self.send("Page.navigate", url=path.absolute().as_uri())
        self.value("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")
        self.value("Promise.all([...document.images].map(image => image.decode()))")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn what changed."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page, of a promise what it gives."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of the first element that fits."""
        return self.value(f"document.querySelector({json.dumps(selector)}).textContent")

    def point(self, selector: str, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """Scroll to the first element that fits, and return where a point in it lies in the window."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.value(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
        return left + across * width, top + down * height

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a point in the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click on a point in the window."""
        self.hover(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, x: float, y: float) -> None:
        """Tap on a point in the window."""
        self.value("window.tapped = new Promise(done => addEventListener('click', () => done(), { once: true })), undefined")
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.value("window.tapped")  # Chromium makes a click of it when it is certain that nothing else follows

    def press(self, key: str) -> None:
        """Press a key of `KEYS`."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what is seen, or all of the page, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """Start Chromium, and end it with the `with` block."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        (their_in, commands), (answers, their_out) = os.pipe(), os.pipe()
        # The shell puts the pipes where Chromium expects them.
        line = f'exec "$0" "$@" {TO_BROWSER}<&{their_in} {FROM_BROWSER}>&{their_out}'
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        command = ["bash", "-c", line, PROGRAM, *flags, "--remote-debugging-pipe", f"--user-data-dir={home}/profile"]
        process = subprocess.Popen(
            command, pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": home}
        )
        os.close(their_in)
        os.close(their_out)
        try:
            yield Page(commands, answers)
        finally:
            os.close(commands)  # at which it ends
            os.close(answers)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
