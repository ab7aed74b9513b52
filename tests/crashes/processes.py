"""Forked processes, which cost so little that hundreds of them can be killed."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from functools import partial as bind

INTERRUPTED = 130
"""Exit status of a child process that KeyboardInterrupt ended."""


def in_child(action: Callable[[], object]) -> int:
    """Run an action in a forked process and return its id. It ends with 0, or with 1 and a traceback if the action failed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # no interruption before the child is ready to catch it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads; the child needs no lock that they might hold
        child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child
    status = 1
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            action()
            status = 0
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BaseException:
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def end_of(child: int) -> int:
    """Wait for a process and return its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def told_by_child(action: Callable[[], str]) -> str:
    """Run an action in a forked process and return what it returns there."""
    incoming, outgoing = os.pipe()
    child = in_child(lambda: os.write(outgoing, action().encode()))
    os.close(outgoing)
    with open(incoming, "rb") as pipe:
        told = pipe.read().decode()
    assert end_of(child) == 0, "a child process failed; see its traceback"
    return told


def at_once(actions: list[Callable[[], str]]) -> list[str]:
    """Run actions in child processes that all begin at the same moment; return what they return."""
    waiting, start = os.pipe()
    incoming, outgoing = os.pipe()

    def act(action: Callable[[], str]) -> None:
        os.close(start)
        os.read(waiting, 1)  # returns when the parent closes the other end
        os.write(outgoing, action().encode() + b"\n")

    children = [in_child(bind(act, action)) for action in actions]
    for descriptor in (start, waiting, outgoing):
        os.close(descriptor)
    with open(incoming) as pipe:
        told = pipe.read().splitlines()
    assert [end_of(child) for child in children] == [0] * len(actions), "a child process failed; see its traceback"
    return told
