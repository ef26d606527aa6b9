"""What time does by itself shows in the ledger at the instant when it was due."""

from __future__ import annotations

import pytest

from holdfast_server.domain.reply import Buckets
from tests.support.both import Both
from tests.support.pair import START_MS


async def at(both: Both, account: str, instant_ms: int) -> Buckets:
    """The balance at an instant, after a look at how Explain accounts for the same one."""
    found = await both.ledger.balance_at("t", account, instant_ms)
    buckets = found.credits["ai"][0] if "ai" in found.credits else Buckets()
    explained = await both.ledger.explain_balance("t", account, "ai", instant_ms, 100)
    assert explained.closing == buckets
    return buckets


async def test_a_hold_ends_at_its_expiry_whenever_that_is_noticed(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 100)
    await both.reserve("a", 30, ttl_ms=10_000)
    both.real.clock.now_ms = START_MS + 3_600_000
    await both.buckets("a")
    await both.flushed()
    assert await at(both, "a", START_MS + 9_999) == Buckets(granted=100, available=70, held=30)
    assert await at(both, "a", START_MS + 10_000) == Buckets(granted=100, available=100)


async def test_grants_start_and_expire_at_their_instants(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 100, expires_at_ms=START_MS + 20_000)
    await both.grant("a", 5, effective_at_ms=START_MS + 10_000, expires_at_ms=START_MS + 30_000)
    both.real.clock.now_ms = START_MS + 3_600_000
    await both.buckets("a")
    await both.flushed()
    expected = {
        0: Buckets(granted=100, available=100),
        9_999: Buckets(granted=100, available=100),
        10_000: Buckets(granted=105, available=105),
        19_999: Buckets(granted=105, available=105),
        20_000: Buckets(granted=105, available=5, expired=100),
        30_000: Buckets(granted=105, expired=105),
    }
    for after_ms, buckets in expected.items():
        assert await at(both, "a", START_MS + after_ms) == buckets


@pytest.mark.parametrize("drawn", [60, 100])
async def test_what_an_expired_hold_gives_back_expires_with_its_grant(
    both: Both, drawn: int
) -> None:
    """Both ends are noticed at once, in the order in which they were due.

    A grant that is drawn to its end is not due by itself: it becomes so when the hold expires.
    """
    await both.account("a")
    await both.grant("a", 100, expires_at_ms=START_MS + 50_000)
    await both.reserve("a", drawn, ttl_ms=20_000)
    both.real.clock.now_ms = START_MS + 100_000
    await both.buckets("a")
    await both.flushed()
    held = Buckets(granted=100, available=100 - drawn, held=drawn)
    assert await at(both, "a", START_MS + 19_999) == held
    assert await at(both, "a", START_MS + 20_000) == Buckets(granted=100, available=100)
    assert await at(both, "a", START_MS + 49_999) == Buckets(granted=100, available=100)
    assert await at(both, "a", START_MS + 50_000) == Buckets(granted=100, expired=100)
    assert not (await both.ledger.verify()).violations


async def test_an_instant_is_answered_otherwise_once_what_ended_by_then_is_booked(
    both: Both,
) -> None:
    """`as_of` is of the partition: others in it may be further than what nobody has looked at."""
    partition = both.real.keys.partition
    other = next(
        name for name in map(str, range(99)) if partition("t", name) == partition("t", "a")
    )
    await both.account("a")
    await both.grant("a", 100, expires_at_ms=START_MS + 5_000)
    await both.account(other)
    both.real.clock.now_ms = START_MS + 9_000
    await both.grant(other, 1)
    await both.flushed()
    assert (await both.ledger.balance_at("t", "a")).as_of_ms == START_MS + 9_000
    assert await at(both, "a", START_MS + 6_000) == Buckets(granted=100, available=100)
    await both.grant("a", 1)
    await both.flushed()
    assert await at(both, "a", START_MS + 6_000) == Buckets(granted=100, expired=100)
