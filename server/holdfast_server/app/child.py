"""One supervised process: started, watched, restarted with growing pauses, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast_server.app.heartbeat import Listener, listening

log = logging.getLogger(__name__)

#: Pause before the first restart; each further one is twice as long.
RESTART_PAUSE_SECONDS_MIN = 0.1
#: Longest pause: an operator who has repaired a store does not want to wait longer for the service.
RESTART_PAUSE_SECONDS_MAX = 10.0
#: A process that lived this long was healthy: the next restart is prompt again.
HEALTHY_AFTER_SECONDS = 30.0
#: Time beyond its own grace that a process gets to end before it is killed.
STOP_MARGIN_SECONDS = 5.0

#: Stands for the exit status of a process that could not be started.
NOT_STARTED = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: arguments of `holdfast`, and the whole environment."""

    #: For people: the role, with a number where there are several.
    name: str
    #: "worker", "flusher" or "sweeper".
    role: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Child:
    """Keeps one process of a program running until it is stopped.

    The process is a fresh interpreter, never a fork: gRPC, OpenTelemetry and the drivers do not
    survive one.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        #: The process that runs now has said that it is ready.
        self.ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._pause_seconds = RESTART_PAUSE_SECONDS_MIN

    @property
    def pid(self) -> int | None:
        """The process id, or None while there is no process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> int:
        """Returns the exit status when the child was stopped or ended before it was ever ready."""
        was_ready = False
        while True:
            self.ready.clear()
            status = await self._run_once()
            was_ready = was_ready or self.ready.is_set()
            if self._stopping.is_set() or not was_ready:
                return status
            log.error(
                "a process ended and is started again",
                extra={"facts": {"child": self.program.name, "status": status}},
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_seconds)
                return status
            self._pause_seconds = min(self._pause_seconds * 2, RESTART_PAUSE_SECONDS_MAX)

    async def stop(self, grace_seconds: float) -> None:
        """Asks the process to end, and kills it when it has not done so in time."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_seconds + STOP_MARGIN_SECONDS)
        except TimeoutError:
            facts = {"child": self.program.name}
            log.error("a process did not end in time and is killed", extra={"facts": facts})
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _run_once(self) -> int:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            self._process, reading = await _spawn(self.program)
        except OSError:
            # The machine is out of processes, memory or files; it may not be for long.
            log.exception("a process cannot be started")
            return NOT_STARTED
        # stop() may have been called while the process was being started, and missed it.
        if self._stopping.is_set():
            self._process.terminate()
        status = await self._ended(self._process, reading)
        if loop.time() - started >= HEALTHY_AFTER_SECONDS:
            self._pause_seconds = RESTART_PAUSE_SECONDS_MIN
        return status

    async def _ended(self, process: asyncio.subprocess.Process, reading: int) -> int:
        """Waits for the end of the process, and makes it end where it hangs."""
        async with listening(reading, self.ready) as listener:
            watch = asyncio.create_task(self._end_when_silent(process, listener))
            status = await process.wait()
            watch.cancel()
            # What it said last is heard before it is judged.
            await listener.ended.wait()
        return status

    async def _end_when_silent(
        self, process: asyncio.subprocess.Process, listener: Listener
    ) -> None:
        await listener.silence()
        # One that was told to end has a time limit of its own.
        if not self._stopping.is_set():
            log.error(
                "a process hangs and is killed", extra={"facts": {"child": self.program.name}}
            )
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def _spawn(program: Program) -> tuple[asyncio.subprocess.Process, int]:
    """Starts it; answers also the end of the pipe at which it is listened to."""
    reading, writing = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast_server",
            *program.arguments,
            f"--parent={os.getpid()}",
            f"--ready-pipe={writing}",
            env=dict(program.environment),
            pass_fds=(writing,),
            # A group of its own: Ctrl-C in a terminal reaches the supervisor alone, which then
            # stops its children in order.
            process_group=0,
        )
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, reading
