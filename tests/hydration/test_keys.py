"""Keys for which the store does not vouch, as after a recovery: the ledger is asked once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from holdfast import new_key
from holdfast_server.control.operations import Operations
from holdfast_server.domain import operation as op
from holdfast_server.engine.keys import (
    CLAIM_SHARDS,
    COLD_FLOOR_FIELD,
    FENCE_FIELD,
    FLUSHED_FIELD,
    NUMBERS_FIELD,
)
from holdfast_server.engine.scripts import load
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.sql import QUERIES
from tests.support.both import PARTITIONS, AnyCreditType, Both
from tests.support.pair import CALLER

LINES = (op.Line("ai", 1),)


class Asked:
    """The ledger, and how often it was asked for keys."""

    def __init__(self, both: Both, error: HoldfastError | None = None) -> None:
        self._ledger, self._error = both.ledger, error
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def find_operations(self, tenant: str, names: Sequence[tuple[str, str]]) -> Any:
        self.asked.append(len(names))
        if self._error is not None:
            raise self._error
        return await self._ledger.find_operations(tenant, names)


async def submit(both: Both, ledger: Any, asked: Sequence[op.Operation]) -> list[Any]:
    """The answers to a batch where this ledger is asked."""
    watermarks = both.operations.watermarks
    deciding = Operations(both.real.engine, ledger, watermarks, AnyCreditType())
    return [*await deciding.submit(CALLER, asked)]


async def burns(both: Both, count: int) -> list[op.Burn]:
    """Burns of an account with new keys, after something was forgotten."""
    await both.account("a")
    await both.grant("a", 100)
    await both.flushed()
    await doubt_keys(both)
    return [op.Burn("t", "a", LINES, new_key()) for _ in range(count)]


async def doubt_keys(both: Both) -> None:
    """As after a recovery: earlier claims may be missing."""
    now_ms = both.real.clock.now_ms
    for shard in range(CLAIM_SHARDS):
        names = both.real.keys.claim_keys(shard)
        await both.real.store.run(load("forget_claims"), names, [now_ms])


async def forget_keys(both: Both) -> None:
    """Takes all records of keys from the store, and what says where they were used."""
    client: Any = both.real.store.client
    keys = both.real.keys
    for shard in range(CLAIM_SHARDS):
        await client.delete(*keys.claim_keys(shard))
    kept = {NUMBERS_FIELD, FLUSHED_FIELD, FENCE_FIELD, COLD_FLOOR_FIELD}
    for partition in range(PARTITIONS):
        state, former, *_ = keys.partition_keys(partition, 1)
        fields: Any = await client.hkeys(state)
        records = [field for field in fields if field not in {each.encode() for each in kept}]
        await client.delete(former)
        if records:
            await client.hdel(state, *records)
    await doubt_keys(both)


async def test_a_batch_asks_once_and_is_decided_in_order(both: Both) -> None:
    asked = await burns(both, 20)
    ledger = Asked(both)
    first = await submit(both, ledger, asked)
    assert ledger.asked == [20]
    assert [each.applied.seq for each in first] == sorted({each.applied.seq for each in first})
    await both.flushed()
    again = await submit(both, ledger, [*asked, asked[0]])
    assert all(each.applied.replayed for each in again)
    assert (await both.buckets("a")).burned == 20


async def test_what_only_the_ledger_knows_is_answered_and_the_rest_decided(both: Both) -> None:
    """The records of some keys went with the store."""
    asked = await burns(both, 6)
    known = await submit(both, both.ledger, asked[:3])
    await both.flushed()
    await forget_keys(both)
    ledger = Asked(both)
    answers = await submit(both, ledger, asked)
    assert ledger.asked == [6]
    assert [each.applied.replayed for each in answers] == [True] * 3 + [False] * 3
    assert [each.applied.transaction_id for each in answers[:3]] == [
        each.applied.transaction_id for each in known
    ]
    assert (await both.buckets("a")).burned == 6


async def test_while_the_ledger_is_away_each_hears_of_it(both: Both) -> None:
    asked = await burns(both, 3)
    ledger = Asked(both, HoldfastError(Reason.LEDGER_UNAVAILABLE, "away"))
    answers = await submit(both, ledger, asked)
    assert {each.reason for each in answers if isinstance(each, HoldfastError)} == {
        Reason.LEDGER_UNAVAILABLE
    }
    assert ledger.asked == [3]
    assert (await both.buckets("a")).burned == 0


def test_no_key_makes_the_ledger_read_all_operations(migrated_postgres_url: str) -> None:
    """Behind the view that keeps tenants apart, a join would."""
    asked: dict[str, object] = {"tenant": "t", "methods": ["Burn"] * 9, "keys": ["key"] * 9}
    with psycopg.connect(migrated_postgres_url) as connection:
        # So that it is no matter that the table is small.
        connection.execute("SET enable_seqscan = off")
        explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + sql.SQL(QUERIES["find_operations"])
        plan = json.dumps(connection.execute(explain, asked).fetchone())
    assert "(idempotency_key = wanted.wanted_key)" in plan
