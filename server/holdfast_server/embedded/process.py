"""Child processes that serve: started as a given user, watched until ready, stopped by pid."""

import fcntl
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from holdfast_server.embedded import launch

LOOPBACK = "127.0.0.1"

#: How long a server may take from its start to its first answer; recovery of a large log is slow.
START_TIMEOUT_S = 60.0

#: How long a server may take to write what it holds and end before it is killed.
STOP_TIMEOUT_S = 20.0

#: How long to wait for an earlier server on the same data directory to end.
LOCK_TIMEOUT_S = 20.0

#: Pause between two looks at a server that is starting; short, because starts take a few of them.
_POLL_INTERVAL_S = 0.01

_PASSWORD_BYTES = 24
_PORT_MAX = 65_535

#: How much of the end of a server's log an error shows.
_LOG_TAIL_LINES = 10

#: Servers get no more of the environment than this, so that no setting of the user's leaks in.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedError(Exception):
    """A server could not be found, prepared or started; the text says which and why."""


@dataclass(frozen=True)
class User:
    """Who a server runs as, by the numbers of user and group."""

    uid: int
    gid: int

    @classmethod
    def current(cls) -> "User":
        """Return the user that this process runs as."""
        return cls(os.geteuid(), os.getegid())

    @classmethod
    def unprivileged(cls) -> "User":
        """Return the current user, or `nobody` when that is root."""
        if os.geteuid() != 0:
            return cls.current()
        entry = pwd.getpwnam("nobody")
        return cls(entry.pw_uid, entry.pw_gid)


class Server:
    """A running server that this process started; also a context manager that stops it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], url: str, port: int) -> None:
        self.name = name
        self.url = url
        self.port = port
        self._process = process

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process still exists."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server in an orderly way and wait; kill it after `STOP_TIMEOUT_S`. Idempotent."""
        self._signal(launch.STOP_SIGNAL)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Also where the wait is broken off, as by a second Ctrl-C.
            self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would, and wait until it is gone. Idempotent."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def command_as(user: User, command: Sequence[str | Path]) -> list[str]:
    """Wrap a command so that it runs as `user` and ends with this process."""
    numbers = [str(os.getpid()), str(user.uid), str(user.gid)]
    # -I and -S: nothing but the standard library, however the parent's Python is set up.
    return [sys.executable, "-I", "-S", launch.__file__, *numbers, *map(str, command)]


def spawn(
    command: Sequence[str | Path],
    *,
    user: User,
    log: Path,
    lock: int,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start a server whose output goes to the end of `log` and which keeps the lock `lock` held.

    `environment` is added to the little that servers get of it.

    It ends with the thread that called this, so call it from one that lasts. It has a session of
    its own, so that Ctrl-C reaches only the parent, which then stops it in order.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command_as(user, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_ENVIRONMENT, **environment},
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
        )


def run(command: Sequence[str | Path], *, user: User) -> None:
    """Run a command to its end as `user`; raise `EmbeddedError` with its output when it fails."""
    done = subprocess.run(
        command_as(user, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace").strip()
        raise EmbeddedError(f"{command[0]} failed:\n{output}")


def wait_until_ready(server: Server, is_ready: Callable[[], bool], log: Path) -> Server:
    """Return `server` once `is_ready` says so; otherwise kill it and raise with the log's end."""
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while server.running and time.monotonic() < deadline:
            if is_ready():
                return server
            time.sleep(_POLL_INTERVAL_S)
    except BaseException:
        # The wait was broken off, as by Ctrl-C; nobody else knows of the server yet.
        server.kill()
        raise
    server.kill()
    raise EmbeddedError(f"{server.name} did not start; the end of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


@contextmanager
def data_lock(folder: Path) -> Iterator[int]:
    """Hold the lock of a data directory; yield its descriptor, for `spawn` to hand on.

    The lock belongs to everybody who has the descriptor, so it is free again only when the server
    and all its children are gone, even if it outlives this process. Raises `EmbeddedError` when an
    earlier server still runs after `LOCK_TIMEOUT_S`.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_lock(descriptor, folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"another server runs on {folder}; stop it first") from None
        time.sleep(_POLL_INTERVAL_S)


def choose_port(folder: Path) -> int:
    """Return the loopback port of the last start when it is still free, else another free one.

    The same URL after a restart lets clients reconnect.
    """
    remembered = folder / "port"
    port = _port_in(remembered)
    port = port if port and _is_free(port) else free_port()
    remembered.write_text(f"{port}\n")
    return port


def _port_in(file: Path) -> int:
    """The port in a file, or 0 where it has none, as when a full disk cut it off."""
    try:
        port = int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return port if 0 < port <= _PORT_MAX else 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port that only closed connections still linger on counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody has now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def password_of(folder: Path) -> str:
    """Return the password of the server on `folder`, made at its first start."""
    path = folder / "password"
    # A full disk leaves an empty file.
    if not path.exists() or not path.read_text():
        write_private(path, secrets.token_urlsafe(_PASSWORD_BYTES))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, also while it is being written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
