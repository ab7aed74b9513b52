"""`slcodec encode` and `slcodec recover` as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crashes.aftermath import Aftermath, Outcome, check_aftermath
from crashes.unbroken import Unbroken, clear
from softlabel_codec.container.files import partial_path


@dataclass(frozen=True)
class EncodeKills:
    """What came of killing `slcodec encode` at random moments and starting it again.

    Attributes
    ----------
    outcome : Outcome
        What was found after each kill.
    finished_files : int
        Files that were finished after one kill or more; all have the bytes of one that was never interrupted.
    too_late : int
        Runs that were over before the signal, which are not counted as kills.
    """

    outcome: Outcome
    finished_files: int
    too_late: int


def encode_kills(folder: Path, kills: int, *, crops: int = 400, seed: int = 0) -> EncodeKills:
    """Kill `slcodec encode` at random moments while there is something written, and start the same command again until it finishes."""
    write_images_and_teacher(folder)
    rng, path = np.random.default_rng(seed), folder / "encoded.slc"
    writing_seconds = _encode_seconds(_encode_command(folder, folder / "unbroken.slc", crops), folder / "unbroken.slc")
    unbroken = Unbroken.of(folder / "unbroken.slc", {})
    command = _encode_command(folder, path, crops)
    aftermaths: list[Aftermath] = []
    finished = too_late = kills_of_this_file = 0
    while len(aftermaths) < kills or kills_of_this_file:
        delay = rng.uniform(0, writing_seconds) if len(aftermaths) < kills else None
        status = _run_command(command, path, delay)
        assert status in (0, -signal.SIGKILL), f"{command}: ended with status {status}"
        if status:
            aftermaths.append(check_aftermath(path, unbroken, resume=False))
            kills_of_this_file += 1
        else:
            too_late += delay is not None
        if path.exists():
            assert path.read_bytes() == unbroken.data, f"{path}: after {kills_of_this_file} kills not the bytes of an unbroken run"
            finished += kills_of_this_file > 0
            kills_of_this_file = 0
            clear(path)
    return EncodeKills(Outcome.of(aftermaths), finished, too_late)


TEACHER = """
import torch
from torch import nn

INPUT_SIZE = 16

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
"""


def write_images_and_teacher(folder: Path, num_images: int = 40) -> None:
    """Write a folder of small images, and the file of a teacher."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(num_images):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / "images" / f"{number}.png")
    (folder / "teacher.py").write_text(TEACHER)


def _encode_command(folder: Path, out: Path, crops: int) -> list[str]:
    what = ["--teacher", f"{folder / 'teacher.py'}:build", "--crops", str(crops), "--device", "cpu", "--batch-size", "64", "--json"]
    return [sys.executable, "-m", "softlabel_codec", "encode", str(folder / "images"), str(out), *what]


def _one_thread() -> dict[str, str]:
    """Return an environment that keeps torch's threads from waiting for each other on a busy machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _encode_seconds(command: list[str], path: Path) -> float:
    """Run the command and return how long it took from the first byte of its file to the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_one_thread())
    _wait_until_begun(process, path)
    start = time.monotonic()
    output, errors = process.communicate()
    assert process.returncode == 0, f"{command}: {errors.decode()}"
    assert json.loads(output)["num_images"], f"{command}: labelled nothing"
    return time.monotonic() - start


def _run_command(command: list[str], path: Path, delay: float | None) -> int:
    """Run the command, kill it so many seconds after it began to write, if that is asked for, and return its exit status."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_one_thread())
    if delay is not None:
        _wait_until_begun(process, path)
        time.sleep(delay)
        process.kill()
    return process.wait()


def _wait_until_begun(process: subprocess.Popen[bytes], path: Path) -> None:
    """Wait until a process has the lock on its unfinished file, whether that was there before or not."""
    partial = partial_path(path)
    locks = Path("/proc/locks")
    while process.poll() is None:
        if partial.exists() and f":{partial.stat().st_ino} " in locks.read_text():
            return
        time.sleep(0.01)


def recover_by_command(partial: Path, target: Path) -> str:
    """Run `slcodec recover` as a process and return what it prints."""
    command = [sys.executable, "-m", "softlabel_codec", "recover", str(partial), str(target)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
