"""A standby of the ledger takes over that lacks the last commits, under a flusher that goes on.

What it knew of the old primary is no word of the new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from holdfast_server.engine.outbox import Positions
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender
from tests.fixtures.databases import database
from tests.flusher.stage import KILL_FLUSHERS, Heard, Stage
from tests.support.entries import Story, holds_and_commits
from tests.support.ledger import open_ledger, query, record
from tests.support.waiting import until

#: How many entries the standby has.
KEPT = 10
RETAIN_MS = 3_600_000
RETAINED = 1_000_000
NOWHERE = "postgresql://127.0.0.1:1/none"


class Patience(Retention):
    """Keeps what was flushed until the test says that its time is over."""

    def __init__(self) -> None:
        super().__init__(RETAIN_MS, RETAINED)
        self.passed_ms = 0

    @property
    def has_noted_all(self) -> bool:
        """Whether the time runs for everything that was flushed."""
        return not self._latest

    def due(self, now_ms: float) -> Positions:
        return super().due(now_ms + self.passed_ms)


@pytest.fixture
async def standby(
    postgres_server_url: str, migrated_template: str, client: Redis, valkey_url: str
) -> AsyncIterator[Stage]:
    """The same hot store with a second ledger, to take the place of the first."""
    with database(postgres_server_url, template=migrated_template) as url:
        async with open_ledger(url) as ledger:
            yield Stage(ledger, client, url, valkey_url)


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flusher soon notices that the ledger is away, also where it has nothing to record."""
    monkeypatch.setattr("holdfast_server.flusher.flusher.LEAD_SECONDS", 0.0)


def move(flusher: Flusher, url: str) -> None:
    """The next connection to the ledger leads there."""
    flusher._appender._url = Appender(url)._url


async def lose_ledger(flusher: Flusher, url: str) -> None:
    """The ledger goes away, and the flusher has noticed."""
    move(flusher, NOWHERE)
    query(url, KILL_FLUSHERS)
    await until(lambda: flusher._appender._connection is None)


async def test_what_only_the_outbox_has_is_not_trimmed(stage: Stage, standby: Stage) -> None:
    """F35, F65: the ledger was away for longer than flushed entries are kept."""
    entries, heard, patience = holds_and_commits(Story(), ["ada"], 200), Heard(), Patience()
    await record(standby.postgres_url, *entries[:KEPT])
    await stage.add(*entries)

    async with stage.flushing(heard, retention=patience) as flusher:
        await until(lambda: (0, 1, len(entries)) in heard.flushed and patience.has_noted_all)
        await lose_ledger(flusher, stage.postgres_url)
        patience.passed_ms = RETAIN_MS
        told = len(heard.flushed)
        move(flusher, standby.postgres_url)
        await until(lambda: heard.halts or (0, 1, len(entries)) in heard.flushed[told:])

    assert heard.halts == []
    await standby.check(entries)


async def test_what_only_the_old_primary_had_is_not_said_of_the_new_one(
    stage: Stage, standby: Stage
) -> None:
    """F27, F35: the hot store took no writes and was not told; now it is told what is there."""
    entries, heard = holds_and_commits(Story(), ["ada"], 20), Heard()
    await record(standby.postgres_url, *entries[:KEPT])
    await stage.add(*entries)
    await stage.client.config_set("min-replicas-to-write", 1)
    try:
        async with stage.flushing(heard, retention=Patience()) as flusher:
            await stage.until_recorded(p0=len(entries))
            await lose_ledger(flusher, stage.postgres_url)
            assert heard.flushed == []
            await stage.client.config_set("min-replicas-to-write", 0)
            move(flusher, standby.postgres_url)
            await standby.until_recorded(p0=len(entries))
            await until(lambda: (0, 1, len(entries)) in heard.flushed)
    finally:
        await stage.client.config_set("min-replicas-to-write", 0)

    said = [seq for partition, _, seq in heard.flushed if partition == 0]
    assert said == [KEPT, len(entries)]
