"""What the tests of the flusher share: both stores, and flushers to be started and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast_server.domain.entry import Entry
from holdfast_server.engine.keys import FLUSHED_FIELD, Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.flusher.events import FlushedBatch, FlusherHooks, Halt
from holdfast_server.flusher.flusher import BATCH_ENTRIES_MAX, Flusher
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.store import Ledger
from tests.support.entries import add, add_raw
from tests.support.ledger import PARTITIONS, query
from tests.support.waiting import WAIT_SECONDS, until

KEYS = Keys(PARTITIONS)
KILL_FLUSHERS: LiteralString = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'holdfast flusher' AND datname = current_database()"
)


@asynccontextmanager
async def open_store(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that does not retry by itself."""
    client = Redis.from_url(valkey_url, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


@dataclass
class Heard:
    """What the hooks of a flusher were told."""

    flushed: list[tuple[int, int, int]] = field(default_factory=list)
    batches: list[FlushedBatch] = field(default_factory=list)
    halts: list[Halt] = field(default_factory=list)
    standbys: int = 0

    def stood_by(self) -> None:
        self.standbys += 1

    @property
    def hooks(self) -> FlusherHooks:
        return FlusherHooks(
            on_flushed=lambda *place: self.flushed.append(place),
            on_batch=self.batches.append,
            on_halted=self.halts.append,
            on_standby=self.stood_by,
        )


@dataclass
class Stage:
    """Both stores."""

    ledger: Ledger
    client: Redis
    postgres_url: str
    valkey_url: str

    @property
    def outbox(self) -> Outbox:
        # What one test learns of epochs is nothing to another.
        return Outbox(self.client, Keys(PARTITIONS))

    def flusher(
        self,
        heard: Heard | None = None,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
        retention: Retention | None = None,
    ) -> Flusher:
        """A flusher that is not running yet."""
        return Flusher(
            self.outbox,
            Appender(self.postgres_url),
            hooks=(heard or Heard()).hooks,
            batch_entries_max=batch_entries_max,
            retention=retention,
        )

    @asynccontextmanager
    async def flushing(
        self,
        heard: Heard | None = None,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
        retention: Retention | None = None,
    ) -> AsyncIterator[Flusher]:
        """A flusher that runs until the end of the block."""
        flusher = self.flusher(heard, batch_entries_max, retention)
        running = asyncio.create_task(flusher.run())
        try:
            yield flusher
        finally:
            flusher.stop()
            async with asyncio.timeout(WAIT_SECONDS):
                await running

    async def length(self, partition: int) -> int:
        """How many entries a partition's stream has, flushed ones that are not trimmed too."""
        return int(await self.client.xlen(KEYS.outbox(partition, 1)))

    async def add(self, *entries: Entry) -> None:
        """Puts entries into the outbox."""
        await add(self.client, KEYS, *entries)

    async def add_raw(self, place: Entry, raw: bytes) -> None:
        """Puts bytes where an entry would be."""
        await add_raw(self.client, KEYS, place, raw)

    async def recorded(self) -> dict[int, int]:
        """How far the ledger is, per partition that has entries."""
        return {p: seq for p, (_, seq) in (await self.ledger.flushed()).items() if seq}

    async def watermarks(self, epoch: int = 1) -> dict[int, int]:
        """How far the hot store says that the ledger is."""
        values = [
            await self.client.hget(KEYS.state(p, epoch), FLUSHED_FIELD) for p in range(PARTITIONS)
        ]
        return {partition: int(value) for partition, value in enumerate(values) if value}

    async def until_recorded(self, **places: int) -> None:
        """Waits until the ledger is there: `p0=7` means partition 0 up to 7."""
        wanted = {int(name[1:]): seq for name, seq in places.items()}

        async def there() -> bool:
            recorded = await self.recorded()
            return all(recorded.get(partition, 0) >= seq for partition, seq in wanted.items())

        await until(there)

    def quarantine(self) -> list[dict[str, Any]]:
        """What could not be recorded."""
        return query(
            self.postgres_url,
            "SELECT partition, seq, fault, raw FROM holdfast.quarantine ORDER BY partition, seq",
        )

    async def check(self, entries: list[Entry]) -> None:
        """The ledger holds exactly these entries, once each, and verifies."""
        report = await self.ledger.verify()
        assert report.violations == ()
        assert report.entries == len(entries)
        places = query(self.postgres_url, "SELECT partition, seq FROM holdfast.entry")
        assert {(row["partition"], row["seq"]) for row in places} == {
            (entry.partition, entry.seq) for entry in entries
        }
