"""Clients, and the stand-in that they talk to where a real server cannot misbehave at will."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from holdfast import AsyncClient, Client
from tests.client.faulty import FaultyServer, serve

#: Deadlines short enough for tests that wait for them.
ATTEMPT_MS = 300
TOTAL_MS = 3_000


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    """A stand-in that grants everything until told otherwise."""
    with serve(FaultyServer()) as server:
        yield server


@pytest.fixture
async def client(faulty: FaultyServer) -> AsyncIterator[AsyncClient]:
    """An asyncio client of the stand-in."""
    async with AsyncClient(
        faulty.address,
        token="secret",
        attempt_timeout_ms=ATTEMPT_MS,
        timeout_ms=TOTAL_MS,
        transport="unary",
    ) as one:
        yield one


@pytest.fixture
def threaded(faulty: FaultyServer) -> Iterator[Client]:
    """A threaded client of the stand-in."""
    with Client(
        faulty.address,
        token="secret",
        attempt_timeout_ms=ATTEMPT_MS,
        timeout_ms=TOTAL_MS,
        transport="unary",
    ) as one:
        yield one


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens, kept free for the test."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"
