"""How a process ends: by signal, or with the process that started it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal

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
