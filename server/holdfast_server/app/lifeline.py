"""How a process ends: by signal, or with the process that started it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

#: `prctl` option: the signal this process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Has the kernel send SIGTERM to this process when `parent`, a process id, ends.

    SIGTERM and not SIGKILL, so that calls in flight are finished even if the supervisor is killed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have ended before the kernel was told; then nobody would ever send the signal.
    if os.getppid() != parent:
        raise SystemExit(1)


def stop_event() -> asyncio.Event:
    """An event of the running loop that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does while the block lasts: what was begun is cleared away."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_interruptible(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`, in a block of `sigterm_as_interrupt`. A loop that heeded SIGTERM leaves it
    to the system when it closes, which would end the process before it has cleared away.
    """
    try:
        return asyncio.run(main)
    finally:
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # An event loop has Ctrl-C end its main task. In the background of a script it may be ignored.
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)
