"""An address belongs to one service, by the lock as well as by the test bind."""

from __future__ import annotations

import socket

import pytest

from holdfast_server.app.address import hold_address
from holdfast_server.app.exposition import Source, serve_http
from holdfast_server.app.problem import Problem

HOST = "127.0.0.1"


def listener(port: int) -> socket.socket:
    """What gRPC does for a worker."""
    worker = socket.socket()
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    worker.bind((HOST, port))
    worker.listen()
    return worker


def test_workers_share_a_held_address_and_others_do_not() -> None:
    with hold_address(HOST, 0) as held:
        assert held.port > 0
        assert held.target() == f"{HOST}:{held.port}"
        with listener(held.port), listener(held.port):
            pass
        with pytest.raises(Problem, match="in use by another process"):
            hold_address(HOST, held.port)
    hold_address(HOST, held.port).__exit__(None, None, None)


def test_lock_alone_decides_between_two_that_start_at_once() -> None:
    """Both may pass the test bind before either has bound the port; then only the lock is left."""
    with hold_address(HOST, 0) as held:
        held.keeper.close()
        with pytest.raises(Problem, match="in use by another process"):
            hold_address(HOST, held.port)


def test_bind_alone_decides_against_a_stranger() -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind((HOST, 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(Problem, match=f"127.0.0.1:{port} is in use"):
            hold_address(HOST, port)
    # The failed attempt has not kept the lock.
    hold_address(HOST, port).__exit__(None, None, None)


def test_connections_that_ended_do_not_keep_the_port() -> None:
    with hold_address(HOST, 0) as held, listener(held.port) as worker:
        caller = socket.create_connection((HOST, held.port))
        accepted, _ = worker.accept()
        # The side that closes first keeps the port in TIME_WAIT.
        accepted.close()
        caller.close()
    hold_address(HOST, held.port).__exit__(None, None, None)


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "no..name"])
@pytest.mark.parametrize("port", [0, 7400])
def test_address_that_is_not_ours_is_named(host: str, port: int) -> None:
    with pytest.raises(Problem, match=f"{host} is no address of this machine"):
        hold_address(host, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no..name"])
async def test_page_on_an_address_that_is_not_ours_is_a_problem(host: str) -> None:
    async def page() -> bytes:
        return b""

    with pytest.raises(Problem, match="another --metrics-host"):
        await serve_http(host, 0, Source(page, lambda: True))
