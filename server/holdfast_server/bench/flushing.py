"""A flusher in a process of its own, which says what it has recorded and how long that waited.

Run as `python -m holdfast_server.bench.flushing REDIS_URL POSTGRES_URL PARTITIONS`; ends with its
input. It prints zeros when it leads, and for each batch the number of entries and the age of the
oldest in milliseconds.
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis

from holdfast_server.app.process import collect_seldom
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.flusher.events import FlushedBatch, FlusherHooks
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender


async def serve(redis_url: str, postgres_url: str, partitions: int) -> None:
    """Flushes until standard input ends."""
    client = Redis.from_url(redis_url)
    leads = asyncio.Event()
    hooks = FlusherHooks(on_flushed=lambda *place: leads.set(), on_batch=_say)
    flusher = Flusher(Outbox(client, Keys(partitions)), Appender(postgres_url), hooks=hooks)
    collect_seldom()
    running = asyncio.create_task(flusher.run())
    # It says how far the ledger is in each partition as soon as it may work.
    await leads.wait()
    _say(FlushedBatch(0, 0, 0, 0.0))
    await asyncio.to_thread(sys.stdin.read)
    flusher.stop()
    await running
    await client.aclose()


def _say(batch: FlushedBatch) -> None:
    print(batch.entries, batch.lag_ms, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
