"""Clients and processes that are forked, as servers do that load an application once."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

import pytest

from holdfast import Client, FailedPrecondition
from tests.client.faulty import FaultyServer
from tests.client.session_server import session_server

#: The parent's thread waits for something to do when the child's is told that there is.
USED_ON_BOTH_SIDES = """
import os, signal, sys
from holdfast import Client

client = Client(sys.argv[1])
reading, writing = os.pipe()
child = os.fork()
signal.alarm(30)
if child:
    client.reserve("a", 1, key="parent")
    os.write(writing, b"go")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    client.close()
    sys.exit(status)
os.read(reading, 2)
for number in range(50):
    client.reserve("a", 1, key=f"child-{number}")
client.close()
"""


async def test_a_client_from_before_a_fork_is_of_use_to_whoever_had_not_used_it() -> None:
    """Parent and child each have a connection, and a thread, of their own."""
    async with session_server() as server, asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", USED_ON_BOTH_SIDES, server.address, stdout=PIPE
        )
        assert await process.wait() == 0
    assert server.streams == 2
    assert server.came == {"parent": 1} | {f"child-{number}": 1 for number in range(50)}


#: In the child the transport has none of the threads that end a call at its deadline.
CALLED_ON_BOTH_SIDES = """
import os, signal, sys
from holdfast import Client, FailedPrecondition

client = Client(sys.argv[1], transport="unary")
with client.hold("parent", 1):
    child = os.fork()
    signal.alarm(20)
    if not child:
        try:
            client.reserve("child", 1)
        except FailedPrecondition as error:
            os._exit(0 if "fork" in str(error) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
client.close()
sys.exit(status)
"""


async def test_a_call_of_its_own_says_so_too(faulty: FaultyServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLED_ON_BOTH_SIDES, faulty.address
    )
    assert await process.wait() == 0
    assert faulty.methods() == ["Reserve", "Commit"]


async def test_a_client_that_was_used_before_a_fork_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with session_server() as server:
        with Client(server.address) as client:
            await asyncio.to_thread(client.reserve, "a", 1)
            with monkeypatch.context() as forked:
                forked.setattr("holdfast._session_thread.os.getpid", lambda: -1)
                with pytest.raises(FailedPrecondition, match="fork"):
                    await asyncio.to_thread(client.reserve, "a", 1)
            await asyncio.to_thread(client.close)
