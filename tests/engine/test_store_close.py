"""A store that is closed while somebody waits for an answer, or that hangs when it is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from holdfast_server import embedded
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import ANSWER_TIMEOUT_S, Store
from holdfast_server.engine.stores import open_store
from holdfast_server.errors import HoldfastError, Reason
from tests.support.waiting import until

#: More turns of the event loop than a first call takes, with connection and script.
TURNS = 40
KEYS = [Keys(4).state(0, 1)]


async def run(store: Store) -> Any:
    return await store.run(load("read_fences"), KEYS, [])


async def call(store: Store) -> Any:
    return await store.call(load("read_fences"), [KEYS], [])


async def read(store: Store) -> Any:
    return await store.read("PING")


@pytest.mark.parametrize("ask", [run, call, read])
async def test_what_is_under_way_is_answered_and_leaves_no_connection(
    valkey_url: str, ask: Callable[[Store], Awaitable[Any]]
) -> None:
    async with redis.Redis.from_url(valkey_url) as observer:
        others = {each["id"] for each in await observer.client_list()}

        async def nobody_else() -> bool:
            return {each["id"] for each in await observer.client_list()} <= others

        for turns in range(TURNS):
            store = open_store(valkey_url)
            asked = asyncio.ensure_future(ask(store))
            for _ in range(turns):
                await asyncio.sleep(0)
            await store.close()
            assert await asked
            await until(nobody_else)


@pytest.mark.parametrize("ask", [run, call, read])
async def test_a_store_that_hangs_is_away_before_the_time_of_a_call_is_over(
    tmp_path: Path, ask: Callable[[Store], Awaitable[Any]]
) -> None:
    """The system takes connections for a process that stands still."""
    with embedded.start_valkey(tmp_path) as server:
        store = open_store(server.url)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(HoldfastError) as refusal:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await ask(store)
            assert refusal.value.reason is Reason.STORE_UNAVAILABLE
        finally:
            os.kill(server.pid, signal.SIGCONT)
        # Nothing is taken for an answer that was meant for somebody who went away.
        assert await ask(store)
        await store.close()
