"""The kill switch where a file lies on a disk that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.control.admin_socket import AdminSocket, ask, socket_path
from holdfast_server.control.kill import FILE, LOOK_SECONDS_MAX, SOCKET
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


async def test_an_order_counts_before_the_disk_has_answered(tmp_path: Path) -> None:
    """The disk is a pipe that nobody reads: whoever writes the order down does not come back."""
    note = tmp_path / f"KILL.socket.{os.getpid()}.tmp"
    os.mkfifo(note)
    path, kill = socket_path(tmp_path, "worker", os.getpid()), switch(tmp_path)
    socket = AdminSocket(path, kill, lambda: "page", dict)
    await socket.start()
    order = {"command": "kill", "action": "on", "by": "ann", "reason": "why"}
    ordering = asyncio.create_task(ask(path, order))
    await until(lambda: kill.on)
    status = await ask(path, {"command": "kill", "action": "status"})
    assert status["kill"] == {"on": True, "causes": ["socket"], "by": "ann", "reason": "why"}
    assert not ordering.done()
    with contextlib.closing(os.fdopen(os.open(note, os.O_RDONLY | os.O_NONBLOCK))):
        assert not (await ordering)["persisted"]
    await socket.close()


async def test_orders_that_hang_take_no_place_from_other_work_of_the_process(
    tmp_path: Path,
) -> None:
    note = tmp_path / f"KILL.socket.{os.getpid()}.tmp"
    os.mkfifo(note)
    path, kill = socket_path(tmp_path, "worker", os.getpid()), switch(tmp_path)
    socket = AdminSocket(path, kill, lambda: "page", dict)
    await socket.start()
    order = {"command": "kill", "action": "on", "by": "ann", "reason": "why"}
    ordering = [asyncio.create_task(ask(path, order)) for _ in range(MORE_THAN_THREADS)]
    await until(lambda: threading.active_count() > MORE_THAN_THREADS)
    async with asyncio.timeout(EFFECT_SECONDS_MAX):
        assert await asyncio.to_thread(lambda: kill.on)
    while not all(each.done() for each in ordering):
        with contextlib.closing(os.fdopen(os.open(note, os.O_RDONLY | os.O_NONBLOCK))):
            await asyncio.sleep(0.01)
    await socket.close()


async def test_the_command_does_not_wait_for_the_disk_of_the_kill_file(tmp_path: Path) -> None:
    path, kill = socket_path(tmp_path, "worker", os.getpid()), switch(tmp_path)
    socket = AdminSocket(path, kill, lambda: "page", dict)
    await socket.start()
    # What the command would write is a pipe that nobody reads; it is named by the process id.
    script = (
        'mkfifo "$0.$$.tmp" && exec "$@" kill on --kill-file "$0" --state-dir "${0%/*}" --reason x'
    )
    command = ("sh", "-c", script, str(tmp_path / "KILL"), sys.executable, "-m", "holdfast_server")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await until(lambda: kill.on, seconds=30)
        _, told = await asyncio.wait_for(process.communicate(), timeout=30)
        assert b"it will not survive a restart" in told
        assert process.returncode == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await socket.close()
