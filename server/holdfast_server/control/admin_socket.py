"""The admin socket of a process: one JSON object per line in, one per line out.

It is a Unix socket in the state directory that only the owner may open, so whoever can use it could
stop the process as well. It answers while the stores and the network are away.

| request | answer besides `ok` |
| --- | --- |
| `{"command": "kill", "action": "on", "by": …, "reason": …}` | `kill`, `persisted` |
| `{"command": "kill", "action": "off"}`, `"status"` | `kill` |
| `{"command": "metrics"}` | `text`, the page |
| `{"command": "health"}` | `health`: what the process says of itself; `kill` |

What is not understood is answered with `ok` false and an `error`; the connection stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from holdfast_server.control.kill import KillState, KillSwitch

Done = TypeVar("Done")

_log = logging.getLogger(__name__)

#: Bytes of one request.
REQUEST_BYTES_MAX = 4_096
#: Bytes of one answer: a metrics page has some tens of kilobytes.
ANSWER_BYTES_MAX = 4_194_304
#: Connections at once; more are closed.
CONNECTIONS_MAX = 32
#: A connection that sends nothing for so long is closed.
IDLE_SECONDS_MAX = 60.0
#: Time for one question from the other side.
ASK_SECONDS_MAX = 2.0
#: Where the sockets are, in the state directory.
FOLDER = "admin"
#: Bytes of a socket's path that the kernel takes.
PATH_BYTES_MAX = 107

Answer = Mapping[str, object]


def kill_fields(state: KillState) -> dict[str, object]:
    """The state of the kill switch as it is answered."""
    return {"on": state.on, "causes": list(state.causes), "by": state.by, "reason": state.reason}


class AdminSocket:
    """Answers questions about this process. `health` and `metrics` are asked each time."""

    def __init__(
        self,
        path: Path,
        kill: KillSwitch,
        metrics: Callable[[], str],
        health: Callable[[], Answer],
    ) -> None:
        """`path` is made by `socket_path`; it gets mode 0600, and its folder 0700."""
        self._path = path
        self._kill = kill
        self._metrics = metrics
        self._health = health
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to listen, in place of whatever a dead process left at the path."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _reachable(self._path) as reachable:
            listener.bind(reachable)
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=REQUEST_BYTES_MAX
        )

    async def close(self) -> None:
        """Stops to listen and takes the socket away."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                await self._converse(reader, writer)
        except (OSError, TimeoutError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS_MAX):
                try:
                    line = await reader.readuntil()
                except asyncio.IncompleteReadError:
                    return
                except asyncio.LimitOverrunError:
                    writer.write(_line({"ok": False, "error": "the line is too long"}))
                    return
            writer.write(_line(await self._answer(line)))
            await writer.drain()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
            return {"ok": True, **await self._done(request)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {"ok": False, "error": "the request is not understood"}
        except Exception:
            _log.exception("an admin request failed")
            return {"ok": False, "error": "the request failed; the log says why"}

    async def _done(self, request: Mapping[str, Any]) -> Answer:
        match request["command"]:
            case "kill":
                return await self._killed(request)
            case "metrics":
                return {"text": self._metrics()}
            case "health":
                return {"health": self._health(), "kill": kill_fields(self._kill.state())}
            case _:
                raise ValueError

    async def _killed(self, request: Mapping[str, Any]) -> Answer:
        # The disk may not answer; the process must go on, and lets everything through meanwhile.
        match request["action"]:
            case "on":
                by, reason = str(request["by"]), str(request["reason"])
                persisted = await _apart(lambda: self._kill.turn_on(by, reason))
                return {"kill": kill_fields(self._kill.state()), "persisted": persisted}
            case "off":
                return {"kill": kill_fields(await _apart(self._kill.turn_off))}
            case "status":
                return {"kill": kill_fields(self._kill.state())}
            case _:
                raise ValueError


async def _apart(work: Callable[[], Done]) -> Done:
    """Works in a thread of its own: one that hangs takes no place from what else runs in threads,
    such as the spool and names of hosts, and the process can end without it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Done] = loop.create_future()

    def give(settle: Callable[[Any], None], outcome: Any) -> None:
        if not done.done():
            settle(outcome)

    def run() -> None:
        settle: Callable[[Any], None]
        outcome: Any
        try:
            settle, outcome = done.set_result, work()
        except Exception as error:
            settle, outcome = done.set_exception, error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(give, settle, outcome)

    threading.Thread(target=run, daemon=True).start()
    return await done


def socket_path(state_dir: Path, role: str, process: int) -> Path:
    """Where the admin socket of a process is: `<state_dir>/admin/<role>-<process id>.sock`."""
    return state_dir / FOLDER / f"{role}-{process}.sock"


async def ask(path: Path, request: Mapping[str, object]) -> dict[str, Any]:
    """Puts one request to the process behind a socket.

    Raises OSError when nobody listens, TimeoutError when no answer comes within `ASK_SECONDS_MAX`,
    and ValueError when the answer is none.
    """
    async with asyncio.timeout(ASK_SECONDS_MAX), _connected(path) as (reader, writer):
        writer.write(_line(request))
        await writer.drain()
        answer = json.loads(await reader.readline())
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    return answer


@asynccontextmanager
async def _connected(
    path: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with _reachable(path) as reachable:
        reader, writer = await asyncio.open_unix_connection(reachable, limit=ANSWER_BYTES_MAX)
    try:
        yield reader, writer
    finally:
        writer.close()


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A spelling of `path` that is short enough for a socket, whatever the folder is called."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"
