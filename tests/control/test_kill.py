"""The kill switch: three causes, no network, no stores, a whole host within five seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from holdfast_server.control import admin_socket
from holdfast_server.control.admin_socket import AdminSocket, ask, socket_path
from holdfast_server.control.kill import (
    ENVIRONMENT,
    FILE,
    LOOK_SECONDS_MAX,
    SOCKET,
    KillSwitch,
    read_note,
    remove_note,
    write_note,
)
from holdfast_server.telemetry.names import Alert
from tests.control.support import Reports, until

#: What is promised to the people on call.
EFFECT_SECONDS_MAX = 5.0


class Clock:
    """A clock that moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def switch(folder: Path, environment: bool = False, clock: Clock | None = None) -> KillSwitch:
    return KillSwitch(environment, folder / "KILL", folder, Reports(), clock or Clock())


def test_it_is_off_where_nothing_says_otherwise(tmp_path: Path) -> None:
    assert not switch(tmp_path).on
    assert not switch(tmp_path / "missing").on


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"[" * 100_000, b'{"by": 5}', b"[]", b'{"by":"a","reason":"b"}']
)
def test_any_file_turns_it_on(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "KILL").write_bytes(content)
    found = switch(tmp_path)
    assert found.on
    assert found.state().causes == (FILE,)


def test_a_directory_a_pipe_or_a_dangling_link_is_seen_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "KILL").mkdir()
    assert switch(tmp_path).on
    (tmp_path / "KILL").rmdir()
    os.mkfifo(tmp_path / "KILL")
    assert switch(tmp_path).on
    (tmp_path / "KILL").unlink()
    (tmp_path / "KILL").symlink_to(tmp_path / "nothing")
    assert not switch(tmp_path).on


def test_the_environment_turns_it_on_for_good(tmp_path: Path) -> None:
    found = switch(tmp_path, environment=True)
    assert found.turn_off().causes == (ENVIRONMENT,)
    assert found.on


def test_every_cause_is_told_and_each_must_be_taken_back(tmp_path: Path) -> None:
    found = switch(tmp_path, environment=False)
    assert found.turn_on("ann", "a bad release")
    (tmp_path / "KILL").touch()
    state = found.state()
    assert set(state.causes) == {FILE, SOCKET}
    assert found.turn_off().causes == (FILE,)
    (tmp_path / "KILL").unlink()
    assert not found.state().on


def test_an_order_over_the_socket_survives_a_restart_and_reaches_the_host(tmp_path: Path) -> None:
    first, neighbour = switch(tmp_path), switch(tmp_path)
    first.turn_on("ann", "a bad release")
    for other in (neighbour, switch(tmp_path)):
        state = other.state()
        assert (state.causes, state.by, state.reason) == ((SOCKET,), "ann", "a bad release")
    # It may be taken back in another process than the one that was ordered.
    assert not neighbour.turn_off().on
    assert not first.state().on


def test_an_order_that_cannot_be_written_down_still_counts_here(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the state directory should be")
    found = KillSwitch(False, tmp_path / "KILL", blocked, Reports(), Clock())
    assert not found.turn_on("ann", "why")
    assert found.on
    assert not found.turn_off().on


def test_a_request_looks_for_itself_when_nobody_did(tmp_path: Path) -> None:
    clock = Clock()
    found = switch(tmp_path, clock=clock)
    (tmp_path / "KILL").touch()
    assert not found.on
    clock.now += LOOK_SECONDS_MAX + 0.01
    assert found.on
    # Then nobody looks again for a while.
    (tmp_path / "KILL").unlink()
    assert found.on
    clock.now += LOOK_SECONDS_MAX + 0.01
    assert not found.on


def test_what_cannot_be_seen_stays_as_it_was(tmp_path: Path) -> None:
    """A path that turned unreadable must not turn enforcement on or off by itself."""
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    file = folder / "KILL"
    file.touch()
    clock = Clock()
    found = KillSwitch(False, file, tmp_path, Reports(), clock)
    assert found.on
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    found._files[FILE] = loop / "KILL"
    assert found.state().on


def test_it_is_told_to_the_metrics_and_as_an_alert_once(tmp_path: Path) -> None:
    reports = Reports()
    found = KillSwitch(False, tmp_path / "KILL", tmp_path, reports, Clock())
    (tmp_path / "KILL").touch()
    for _ in range(5):
        found.look()
    (tmp_path / "KILL").unlink()
    found.look()
    assert reports.kills == [True, False]
    assert reports.alerts == [Alert.KILL_SWITCH]


async def test_the_thread_sees_the_file_without_any_request(tmp_path: Path) -> None:
    reports = Reports()
    found = KillSwitch(False, tmp_path / "KILL", tmp_path, reports)
    found.watch()
    (tmp_path / "KILL").touch()
    await until(lambda: reports.kills == [True])
    found.close()


def test_a_note_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "KILL"
    assert write_note(path, "ann" * 500, 'because "\n')
    by, reason = read_note(path)
    assert by.startswith("ann")
    assert reason == 'because "\n'
    assert [each.name for each in path.parent.iterdir()] == ["KILL"]
    assert remove_note(path)
    assert remove_note(path)
    assert not path.exists()


# --- The admin socket ---------------------------------------------------------------------------


@pytest_asyncio.fixture(params=["state", "a folder with spaces " + "and a long name " * 9])
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Path]:
    """The path of a socket that answers for this process."""
    folder = tmp_path / request.param
    path = socket_path(folder, "worker", os.getpid())
    kill = KillSwitch(False, folder / "KILL", folder, Reports())
    socket = AdminSocket(path, kill, lambda: "page", lambda: {"config_version": 7})
    path.parent.mkdir(parents=True)
    path.touch()  # What a dead process may have left.
    await socket.start()
    yield path
    await socket.close()
    assert not path.exists()


async def test_it_answers_what_it_is_asked(served: Path) -> None:
    order = {"command": "kill", "action": "on", "by": "ann", "reason": "why"}
    answer = await ask(served, order)
    assert answer == {
        "ok": True,
        "kill": {"on": True, "causes": ["socket"], "by": "ann", "reason": "why"},
        "persisted": True,
    }
    health = await ask(served, {"command": "health"})
    assert health["health"] == {"config_version": 7}
    assert health["kill"]["on"]
    assert (await ask(served, {"command": "metrics"}))["text"] == "page"
    assert not (await ask(served, {"command": "kill", "action": "off"}))["kill"]["on"]
    assert not (await ask(served, {"command": "kill", "action": "status"}))["kill"]["on"]


def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    async def modes() -> tuple[int, int]:
        kill = KillSwitch(False, tmp_path / "KILL", tmp_path, Reports())
        path = socket_path(tmp_path, "worker", 1)
        socket = AdminSocket(path, kill, str, dict)
        await socket.start()
        found = path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777
        await socket.close()
        return found

    assert asyncio.run(modes()) == (0o600, 0o700)


@contextlib.asynccontextmanager
async def connected(
    path: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with admin_socket._connected(path) as streams:
        yield streams


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nothing",
        b"[]",
        b"5",
        b"{}",
        b'{"command": "kill"}',
        b'{"command": "kill", "action": "maybe"}',
        b'{"command": "kill", "action": "on"}',
        b'{"command": []}',
        b"[" * 3_000,
        b"\xff\xfe",
    ],
)
async def test_what_is_not_understood_is_answered_and_the_connection_stays(
    served: Path, line: bytes
) -> None:
    async with connected(served) as (reader, writer):
        writer.write(line + b"\n")
        assert json.loads(await reader.readline())["ok"] is False
        writer.write(b'{"command": "metrics"}\n')
        assert json.loads(await reader.readline())["text"] == "page"


async def test_a_line_without_an_end_is_cut_off(served: Path) -> None:
    async with connected(served) as (reader, writer):
        writer.write(b"x" * (2 * admin_socket.REQUEST_BYTES_MAX))
        assert json.loads(await reader.readline())["ok"] is False
        assert await reader.read() == b""


async def test_more_connections_than_allowed_are_closed(served: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(connected(served))
            for _ in range(admin_socket.CONNECTIONS_MAX)
        ]
        for reader, writer in opened:
            writer.write(b'{"command": "metrics"}\n')
            assert json.loads(await reader.readline())["ok"]
        reader, _ = await stack.enter_async_context(connected(served))
        assert await reader.read() == b""
    assert (await ask(served, {"command": "metrics"}))["ok"]


async def test_whoever_asks_is_told_when_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await ask(tmp_path / "nobody.sock", {"command": "health"})


# --- Real processes -----------------------------------------------------------------------------

Process = asyncio.subprocess.Process
Start = Callable[..., Coroutine[Any, Any, Process]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts processes that share one state directory, and ends them."""
    processes: list[Process] = []

    async def started(*arguments: str, **environment: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.control.killed_process", str(tmp_path), *arguments),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def answered(process: Process) -> str:
    """What the process is answered next, once it changes."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), timeout=30)
    return line.decode().strip()


async def test_the_file_takes_effect_in_every_process_within_five_seconds(
    tmp_path: Path, start: Start
) -> None:
    processes = [await start(), await start(), await start("slow")]
    for process in processes:
        assert await answered(process) == "STORE_UNAVAILABLE"
    switched = time.monotonic()
    (tmp_path / "KILL").touch()
    for process in processes:
        assert await answered(process) == "BYPASSED"
    assert time.monotonic() - switched < EFFECT_SECONDS_MAX

    processes[0].kill()
    await processes[0].wait()
    restarted = await start()
    assert await answered(restarted) == "BYPASSED"

    (tmp_path / "KILL").unlink()
    for process in (restarted, *processes[1:]):
        assert await answered(process) == "STORE_UNAVAILABLE"


async def test_an_order_over_one_socket_takes_effect_in_every_process(
    tmp_path: Path, start: Start
) -> None:
    processes = [await start(), await start()]
    for process in processes:
        assert await answered(process) == "STORE_UNAVAILABLE"
    order = {"command": "kill", "action": "on", "by": "ann", "reason": "a bad release"}
    path = socket_path(tmp_path, "worker", processes[0].pid)
    assert (await ask(path, order))["persisted"]
    for process in processes:
        assert await answered(process) == "BYPASSED"
    for process in processes:
        process.kill()
        await process.wait()
    restarted = await start()
    assert await answered(restarted) == "BYPASSED"
    path = socket_path(tmp_path, "worker", restarted.pid)
    assert not (await ask(path, {"command": "kill", "action": "off"}))["kill"]["on"]
    assert await answered(restarted) == "STORE_UNAVAILABLE"


async def test_the_environment_takes_effect_from_the_first_request(start: Start) -> None:
    assert await answered(await start(HOLDFAST_KILL="yes please")) == "BYPASSED"
    assert await answered(await start(HOLDFAST_KILL="0")) == "STORE_UNAVAILABLE"
