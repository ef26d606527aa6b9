"""A key has one effect for ever, also where the partitions remember different lengths of time."""

from __future__ import annotations

import pytest

from holdfast_server.domain import reply as rp
from holdfast_server.engine.keys import COLD_FLOOR_FIELD
from holdfast_server.engine.request import NeedsLedger
from holdfast_server.errors import Reason
from tests.support.forgotten import (
    GENERATIONS,
    KEYS,
    account_in,
    accounts_apart,
    ask_unchecked,
    burn,
    pass_generation,
    time_ordered_key,
    turn,
    use_and_forget,
)
from tests.support.pair import Real

MINUTE_MS = 60_000


@pytest.mark.parametrize("rested", [0, 2])
async def test_a_forgotten_key_is_not_new_where_nothing_happened(real: Real, rested: int) -> None:
    """A partition that rests remembers its own keys for long, and not those of others. Nor is it
    when the call itself begins what is remembered anew.
    """
    _, resting, key = await use_and_forget(real)
    real.clock.now_ms += rested * real.window.generation_ms
    assert isinstance(await ask_unchecked(real, burn(resting, key)), NeedsLedger)


async def test_nor_where_it_was_used(real: Real) -> None:
    used, _, key = await use_and_forget(real)
    assert isinstance(await ask_unchecked(real, burn(used, key)), NeedsLedger)


async def test_nor_where_its_caller_was_ahead(real: Real) -> None:
    """It says that it was made after what the partition has forgotten, and was used before."""
    await account_in(real, "a")
    real.clock.now_ms += real.window.generation_ms - MINUTE_MS
    ahead = burn("a", time_ordered_key(real.clock.now_ms + 4 * MINUTE_MS))
    await real.decide([ahead])
    real.clock.now_ms += MINUTE_MS
    await real.decide([burn("a", "other")])
    await turn(real, "a", 1)
    assert isinstance(await ask_unchecked(real, ahead), NeedsLedger)


async def test_a_new_key_proves_itself_everywhere(real: Real) -> None:
    """Else every call in a partition that rested would wait for the ledger."""
    for account in (await use_and_forget(real))[:2]:
        key = time_ordered_key(real.clock.now_ms)
        assert isinstance(await ask_unchecked(real, burn(account, key)), rp.BurnReply)


async def test_a_key_is_used_elsewhere_for_longer_than_it_is_remembered(real: Real) -> None:
    """So the ledger has what it was used for long before another partition may use it."""
    one, other = await accounts_apart(real)
    await real.decide([burn(one, "once")])
    for _ in range(3):
        await turn(real, one, KEYS)
    answer = await ask_unchecked(real, burn(other, "once"))
    assert answer.reason is Reason.IDEMPOTENCY_KEY_REUSED


async def test_no_key_is_forgotten_that_the_ledger_lacks(real: Real) -> None:
    """However long it is away, and although claims of that time have been forgotten; nor at once
    when it has come back.
    """
    await account_in(real, "a")
    # The first generation has none before it, which would have to be dropped.
    await pass_generation(real, "a", 1)
    once = burn("a", "once")
    (burned,) = await real.decide([once])
    for _ in range(GENERATIONS):
        await pass_generation(real, "a", KEYS)
    (again,) = await real.decide([once])
    await turn(real, "a", 1)
    (later,) = await real.decide([once])
    assert [each.applied.replayed for each in (burned, again, later)] == [False, True, True]


@pytest.mark.parametrize("floor", [b"0", b"7"])
async def test_what_may_be_in_the_ledger_alone_is_not_forgotten_with_keys(
    real: Real, floor: bytes
) -> None:
    """Else what only the ledger knows would be made anew. At 0, too: where the root of an account
    is written down has no entry.
    """
    await account_in(real, "a")
    state = real.keys.state(real.keys.partition("t", "a"), 1)
    await real.store.client.hset(state, COLD_FLOOR_FIELD, floor)
    await turn(real, "a", 1)
    assert await real.store.client.hget(state, COLD_FLOOR_FIELD) == floor
