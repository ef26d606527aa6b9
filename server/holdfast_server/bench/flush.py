"""`flush`: how fast the flusher fills the ledger, beside a plain COPY of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from holdfast_server.app.process import collect_seldom
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.pace import keeps_pace
from holdfast_server.bench.plain import plain_table
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Done, Round, Work, middle, timed
from holdfast_server.bench.stage import Options, Stage, connect, traffic_of
from holdfast_server.bench.traffic import Traffic
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.flusher.events import FlusherHooks
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender


async def flush(stage: Stage, options: Options) -> Found:
    """Rows a second from the outbox to the ledger, with chain, constraints, indexes and cursors,
    beside a plain COPY of the same rows, in as large transactions, into a table without any. Then
    whether it keeps pace with callers, and how fast it catches up when it was stopped for a while.

    The service MUST have no flusher: this process is one, and starts one of its own later.
    """
    collect_seldom()
    meter = Meter(stage.processes)
    measured, floor, least = list[Round](), list[Round](), list[Round]()
    async with (
        traffic_of(stage, options, "unary") as traffic,
        _flusher(stage) as flushing,
        plain_table(stage.postgres_url) as plain,
    ):
        async with flushing.leading() as catch_up:
            await catch_up()
        for _ in range(options.rounds):
            await _fill(traffic, options)
            async with flushing.leading() as catch_up:
                measured.append(await timed(meter, catch_up))
            stage.on_round()
            await plain.take(measured[-1].done.operations)
            floor.append(await timed(meter, plain.copy_rows))
            least.append(await timed(meter, plain.copy_bytes))
            stage.on_round()
        async with connect(stage, "session") as client:
            pace = await keeps_pace(stage, options, Traffic(client, traffic.accounts))
    typical, below = middle(measured), middle(floor)
    facts = {
        "rows": typical.done.operations,
        "partitions": stage.partitions,
        "copy_of_bytes_rows_per_s": round(middle(least).rate),
        **pace,
    }
    return Found("flush", "rows/s", typical.rate, below.rate, typical.cpu_us, below.cpu_us, facts)


async def _fill(traffic: Traffic, options: Options) -> None:
    """Puts entries into the outbox: half of them holds, half commits."""
    await traffic.batches(options.batch, options.operations)


class _Flushing:
    """A flusher that runs for a while: how it begins and ends takes no part in what is measured."""

    def __init__(self, client: Redis, stage: Stage) -> None:
        self._client, self._stage = client, stage
        self._keys = Keys(stage.partitions)
        self._recorded: dict[int, int] = {}

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[Work]:
        """It has all that came before to flush; what is yielded waits until it has."""
        wanted = await self._written()
        leads, reached = asyncio.Event(), asyncio.Event()

        def on_flushed(partition: int, epoch: int, seq: int) -> None:
            self._recorded[partition] = seq
            leads.set()
            if self._entries == wanted:
                reached.set()

        flusher = Flusher(
            Outbox(self._client, self._keys),
            Appender(self._stage.postgres_url),
            hooks=FlusherHooks(on_flushed=on_flushed),
        )
        running = asyncio.create_task(flusher.run())
        # It says how far the ledger is in each partition as soon as it may work.
        await leads.wait()
        before = self._entries

        async def catch_up() -> Done:
            await reached.wait()
            return Done(wanted - before)

        yield catch_up
        flusher.stop()
        await running

    @property
    def _entries(self) -> int:
        """How many entries the ledger has."""
        return sum(self._recorded.values())

    async def _written(self) -> int:
        """How many entries there are, flushed ones too."""
        pipeline = self._client.pipeline(transaction=False)
        for partition in range(self._stage.partitions):
            pipeline.xrevrange(self._keys.outbox(partition, 1), count=1)
        found = await pipeline.execute()
        return sum(int(newest[0][0].split(b"-")[1]) for newest in found if newest)


@asynccontextmanager
async def _flusher(stage: Stage) -> AsyncIterator[_Flushing]:
    client = Redis.from_url(stage.redis_url)
    yield _Flushing(client, stage)
    await client.aclose()
