"""64 callers drain one balance over the real service: nothing overspent, one end per hold.

Every caller reserves, then commits, commits less, releases, lets the hold expire, or has a second
caller race it to the end. At the end the ledger alone is asked whether it all adds up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg

from holdfast import AsyncClient, GrantSource, HoldfastError, Outcome
from tests.support.server import PATIENCE_S, POLL_INTERVAL_S, RunningService
from tests.support.waiting import until

CALLERS = 64
GRANTED = 40_000
HELD = 50
SHORT_TTL_MS = 1_000


@dataclass
class Tally:
    """What callers were told."""

    burned: int = 0
    holds: int = 0
    ends: Counter[str] = field(default_factory=Counter)


async def spend(client: AsyncClient, account: str, tally: Tally, chance: random.Random) -> None:
    """Reserves and settles until the balance is drained."""
    while True:
        expiring = chance.random() < 0.1
        ttl_ms = SHORT_TTL_MS if expiring else 60_000
        hold = await client.reserve(account, HELD, ttl_ms=ttl_ms)
        if hold.decision.outcome is Outcome.DENIED:
            assert hold.decision.reason == "INSUFFICIENT_CREDITS"
            return
        tally.holds += 1
        if not expiring:
            await settle(client, hold.hold_id, tally, chance)


async def settle(client: AsyncClient, hold: str, tally: Tally, chance: random.Random) -> None:
    """Ends a hold in one of several ways, sometimes in two at once."""
    course = chance.choice(["commit", "less", "release", "race"])
    if course == "race":
        ends = await asyncio.gather(
            commit(client, hold, HELD, tally), release(client, hold, tally), return_exceptions=True
        )
        assert sum(isinstance(end, HoldfastError) for end in ends) == 1
    elif course == "release":
        await release(client, hold, tally)
    else:
        await commit(client, hold, HELD if course == "commit" else HELD // 2, tally)


async def commit(client: AsyncClient, hold: str, amount: int, tally: Tally) -> None:
    receipt = await client.commit(hold, amount)
    tally.ends[hold] += 1
    tally.burned += sum(line.burned for line in receipt.lines)


async def release(client: AsyncClient, hold: str, tally: Tally) -> None:
    await client.release(hold)
    tally.ends[hold] += 1


async def at_rest(client: AsyncClient, account: str) -> int:
    """Waits until every hold has ended; answers what is available."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        (line,) = (await client.balance(account)).credits
        if line.buckets.held == 0:
            return line.buckets.available
        await asyncio.sleep(POLL_INTERVAL_S)
    raise AssertionError("holds are left open")


async def test_64_callers_drain_one_balance(holdfast_server: RunningService) -> None:
    account, tally, chance = f"drain-{uuid4().hex}", Tally(), random.Random(7)
    async with AsyncClient(
        holdfast_server.target, credit_type="drain", timeout_ms=60_000
    ) as client:
        await client.create_credit_type("drain")
        await client.create_account(account)
        await client.grant(account, GRANTED, source=GrantSource.PURCHASE)
        await asyncio.gather(*(spend(client, account, tally, chance) for _ in range(CALLERS)))
        available = await at_rest(client, account)
    await until(lambda: ends_recorded(holdfast_server.postgres_url, account) >= tally.holds)
    ends, burned, lowest = ledger_rows(holdfast_server.postgres_url, account, GRANTED - available)

    assert tally.burned + available == GRANTED
    assert burned == tally.burned
    assert lowest >= 0
    assert set(tally.ends.values()) == {1}
    assert len(ends) == tally.holds
    assert set(ends.values()) == {1}


def ends_recorded(url: str, account: str) -> int:
    """How many ends of holds the ledger has."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM holdfast.entry WHERE account = %s AND ends_hold <> 0", (account,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def ledger_rows(url: str, account: str, burned: int) -> tuple[dict[str, int], int, int]:
    """Ends per hold, credits burned, and the lowest available, once all is recorded."""
    until = time.monotonic() + PATIENCE_S
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            total = connection.execute(
                "SELECT sum(delta_burned)::bigint FROM holdfast.entry WHERE account = %s",
                (account,),
            ).fetchone()
            if total is not None and total[0] == burned:
                break
            time.sleep(POLL_INTERVAL_S)
        ends = connection.execute(
            "SELECT hold::text, count(*) FROM holdfast.entry "
            "WHERE account = %s AND ends_hold <> 0 GROUP BY hold",
            (account,),
        ).fetchall()
        sums = connection.execute(
            "SELECT sum(delta_burned)::bigint, min(available) FROM holdfast.entry "
            "WHERE account = %s AND credit_type <> ''",
            (account,),
        ).fetchone()
    assert sums is not None
    return dict(ends), sums[0], sums[1]
