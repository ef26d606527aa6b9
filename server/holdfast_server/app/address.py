"""One service per address.

The workers share one port by SO_REUSEPORT, so the kernel would let a second service join them
without a word, and callers would reach one or the other by chance. Two things prevent that: a lock
that only one service of this machine can have, and a test bind without SO_REUSEPORT that fails
while anybody else has the port.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from types import TracebackType

from holdfast_server.app.problem import Problem

#: The lock is a name in the abstract socket namespace: it belongs to the same network namespace as
#: the port itself, needs no folder, and is gone when its process is gone, however that ends.
_LOCK_NAME = "\0holdfast/{host}/{port}"


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """An address that this process holds for its workers until it is closed."""

    host: str
    port: int
    lock: socket.socket
    #: Bound with SO_REUSEPORT and never listening: it keeps the port while no worker does, and the
    #: kernel gives it no connections.
    keeper: socket.socket

    def __enter__(self) -> HeldAddress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.keeper.close()
        self.lock.close()

    def target(self) -> str:
        """The address as a client takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def hold_address(host: str, port: int) -> HeldAddress:
    """Takes an address for this service alone; port 0 chooses a free one.

    Raises `Problem` when another service has it or this machine has no such address.
    """
    family, place = _resolve(host, port)
    lock = _lock(host, port) if port else None
    try:
        port = _probe(family, place)
        return HeldAddress(host, port, lock or _lock(host, port), _keep(family, place, port))
    except OSError as error:
        if lock is not None:
            lock.close()
        raise _refusal(host, port, error) from error


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name that no resolver takes is a UnicodeError.
    except (socket.gaierror, UnicodeError) as error:
        raise _not_ours(host) from error
    family, _, _, _, place = found[0]
    return family, (str(place[0]), port)


def _lock(host: str, port: int) -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(_LOCK_NAME.format(host=host, port=port))
    except OSError as error:
        lock.close()
        raise _refusal(host, port, error) from error
    return lock


def _probe(family: socket.AddressFamily, place: tuple[str, int]) -> int:
    """The port, after a bind that fails while anybody listens on it or holds it."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without this, connections that ended a minute ago would still forbid the bind.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
        return int(probe.getsockname()[1])


def _keep(family: socket.AddressFamily, place: tuple[str, int], port: int) -> socket.socket:
    keeper = socket.socket(family, socket.SOCK_STREAM)
    try:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind((place[0], port))
    except OSError:
        keeper.close()
        raise
    return keeper


def _refusal(host: str, port: int, error: OSError) -> Problem:
    if error.errno == errno.EADDRNOTAVAIL:
        return _not_ours(host)
    if error.errno != errno.EADDRINUSE:
        return Problem(f"{host}:{port} cannot be had: {error.strerror or error}")
    return Problem(
        f"{host}:{port} is in use by another process: stop that one or choose another --port"
    )


def _not_ours(host: str) -> Problem:
    return Problem(f"{host} is no address of this machine: set HOLDFAST_HOST to one")
