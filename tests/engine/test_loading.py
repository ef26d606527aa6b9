"""A server that is up and reads its data: it answers, and executes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from holdfast_server.embedded.valkey import start_valkey
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.stores import open_store
from holdfast_server.errors import HoldfastError, Reason
from tests.support.waiting import until

#: So many keys of so many bytes take the server two seconds, in which it looks at its connections
#: after every few of them.
KEYS, KEY_BYTES = 2_000, 200
SLOWLY = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")


def fill(client: redis.Redis) -> None:
    pipeline = client.pipeline()
    for number in range(KEYS):
        pipeline.set(f"key-{number}", b"x" * KEY_BYTES)
    pipeline.execute()
    client.bgrewriteaof()


@pytest.mark.parametrize("way", ["call", "run"])
async def test_while_a_server_loads_nothing_is_unknown(tmp_path: Path, way: str) -> None:
    with start_valkey(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        fill(client)
        await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    starting = asyncio.create_task(
        asyncio.to_thread(start_valkey, tmp_path, port=server.port, extra_args=SLOWLY)
    )

    def is_loading() -> bool:
        with redis.Redis.from_url(server.url) as client:
            try:
                client.ping()
            except redis.BusyLoadingError:
                return True
            except redis.ConnectionError:
                assert not starting.done()
        return False

    await until(is_loading)
    store = open_store(server.url)
    with pytest.raises(HoldfastError) as refused:
        await getattr(store, way)(load("read_fences"), [Keys(4).state(0, 1)], [])
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    await store.close()
    with await starting:
        pass
