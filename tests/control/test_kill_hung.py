"""The kill switch where a file lies on a disk that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from holdfast_server.control.admin_socket import AdminSocket, ask, socket_path
from holdfast_server.control.kill import FILE, LOOK_SECONDS_MAX, SOCKET, KillSwitch
from tests.control.support import until
from tests.control.test_kill import EFFECT_SECONDS_MAX, Clock, switch

#: More than the loop has threads for whatever else may wait.
MORE_THAN_THREADS = min(32, (os.cpu_count() or 1) + 4) + 1


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[threading.Event]:
    """Whoever asks for a path is not answered while the block lasts, as by a mount that is gone.

    Yields what is set once somebody asks.
    """
    real, asked, is_over = os.stat, threading.Event(), threading.Event()

    def stat(wanted: Any, **options: Any) -> os.stat_result:
        if wanted == path:
            asked.set()
            is_over.wait()
        return real(wanted, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "stat", stat)
        try:
            yield asked
        finally:
            is_over.set()


@pytest.mark.parametrize("cause", [FILE, SOCKET])
async def test_a_file_that_hangs_keeps_no_other_cause_from_turning_it_on(
    tmp_path: Path, cause: str
) -> None:
    found, neighbour = switch(tmp_path), switch(tmp_path)
    with contextlib.closing(found), contextlib.closing(neighbour):
        hung = {FILE: SOCKET, SOCKET: FILE}[cause]
        with hanging(found._files[hung]) as asked:
            found.watch()
            neighbour.watch()
            await until(asked.is_set)
            if cause == SOCKET:
                assert found.turn_on("ann", "a bad release")
                assert found.on
            else:
                (tmp_path / "KILL").touch()
            await until(lambda: found.on and neighbour.on, EFFECT_SECONDS_MAX)
            assert found.state().causes == neighbour.state().causes == (cause,)
        found._files[hung].touch()
        await until(lambda: set(found.state().causes) == {FILE, SOCKET})


async def test_a_file_that_hangs_stops_neither_a_start_nor_a_request(tmp_path: Path) -> None:
    clock = Clock()
    found = switch(tmp_path, clock=clock)
    with hanging(tmp_path / "KILL"):
        clock.now += LOOK_SECONDS_MAX + 0.01
        async with asyncio.timeout(EFFECT_SECONDS_MAX):
            assert not await asyncio.to_thread(lambda: found.on)
            started = await asyncio.to_thread(switch, tmp_path, environment=True)
        assert started.on


ORDER = {"command": "kill", "action": "on", "by": "ann", "reason": "why"}


@contextlib.asynccontextmanager
async def told(folder: Path) -> AsyncIterator[tuple[Path, KillSwitch]]:
    """The socket of a process, and its switch."""
    path, kill = socket_path(folder, "worker", os.getpid()), switch(folder)
    socket = AdminSocket(path, kill, lambda: "page", dict)
    await socket.start()
    try:
        yield path, kill
    finally:
        await socket.close()


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where orders are written down: a pipe that nobody reads, from which no writer comes back."""
    path = tmp_path / f"KILL.socket.{os.getpid()}.tmp"
    os.mkfifo(path)
    return path


def read_by_somebody(note: Path) -> contextlib.closing[IO[str]]:
    """Lets whoever writes an order down go on."""
    return contextlib.closing(os.fdopen(os.open(note, os.O_RDONLY | os.O_NONBLOCK)))


async def test_an_order_counts_before_the_disk_has_answered(tmp_path: Path, note: Path) -> None:
    async with told(tmp_path) as (path, kill):
        ordering = asyncio.create_task(ask(path, ORDER))
        await until(lambda: kill.on)
        status = await ask(path, {"command": "kill", "action": "status"})
        assert status["kill"] == {"on": True, "causes": ["socket"], "by": "ann", "reason": "why"}
        assert not ordering.done()
        with read_by_somebody(note):
            assert not (await ordering)["persisted"]


async def test_orders_that_hang_take_no_place_from_other_work_of_the_process(
    tmp_path: Path, note: Path
) -> None:
    async with told(tmp_path) as (path, kill):
        known = set(threading.enumerate())
        ordering = [asyncio.create_task(ask(path, ORDER)) for _ in range(MORE_THAN_THREADS)]
        await until(lambda: len({*threading.enumerate()} - known) >= MORE_THAN_THREADS)
        await until(lambda: kill.on)
        async with asyncio.timeout(EFFECT_SECONDS_MAX):
            assert await asyncio.to_thread(lambda: kill.on)

        def all_are_done() -> bool:
            with read_by_somebody(note):
                return all(each.done() for each in ordering)

        await until(all_are_done)


async def test_the_command_does_not_wait_for_the_disk_of_the_kill_file(tmp_path: Path) -> None:
    # What the command would write is a pipe that nobody reads; it is named by the process id.
    script = (
        'mkfifo "$0.$$.tmp" && exec "$@" kill on --kill-file "$0" --state-dir "${0%/*}" --reason x'
    )
    command = ("sh", "-c", script, str(tmp_path / "KILL"), sys.executable, "-m", "holdfast_server")
    async with told(tmp_path) as (_, kill):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        try:
            await until(lambda: kill.on, seconds=30)
            _, said = await asyncio.wait_for(process.communicate(), timeout=30)
            assert b"it will not survive a restart" in said
            assert process.returncode == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
