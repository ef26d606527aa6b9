"""What such systems are known to lose money by, done the naive way and done ours.

Each test runs both against the same fault: the check must say no to the naive way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import redis

from holdfast_server.chaos.proxy import Proxy
from holdfast_server.domain import operation as op
from holdfast_server.domain.reply import Outcome
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import Real, build

pytestmark = pytest.mark.faults

GRANTED = 100
#: The naive way: a balance that is decremented where it suffices.
NAIVE_BURN = "return redis.call('DECRBY', KEYS[1], ARGV[1])"


def burn(key: str, amount: int) -> op.Burn:
    return op.Burn("t", "a", (op.Line("ai", amount),), key)


def naive_burn(url: str, amount: int) -> int:
    """What is left, after one call with everything as the driver has it."""
    parts = urlsplit(url)
    with redis.Redis(port=parts.port or 0, password=parts.password) as naive:
        naive.set("naive", GRANTED)
        naive.eval(NAIVE_BURN, 1, "naive", str(amount))
        return int(naive.get("naive") or 0)


@pytest.fixture
async def real(valkey_url: str) -> AsyncIterator[Real]:
    built = build(valkey_url, partitions=1)
    terms = op.GrantTerms("ai", GRANTED, op.GrantSource.PURCHASE)
    await built.decide([op.CreateAccount("t", "a", op.AccountTerms(), "1")])
    await built.decide([op.Grant("t", "a", terms, "2")])
    yield built
    await built.store.close()


async def burned(real: Real) -> int:
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    return int(balance.credits[0].buckets.burned)


async def test_a_driver_that_retries_by_itself_burns_twice(valkey_url: str, real: Real) -> None:
    """Finding 4: the driver's default executes a script again after a lost reply; ours never."""
    async with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        proxy.drop_reply(1, after=b"EVAL")
        left = await asyncio.to_thread(naive_burn, proxy.url(valkey_url), 7)
        through = build(proxy.url(valkey_url), partitions=1, armed_at=valkey_url)
        proxy.drop_reply(1, after=b"FCALL")
        (unknown,) = await through.decide([burn("once", 7)])
        (found,) = await through.decide([burn("once", 7)])
        await through.store.close()
    assert GRANTED - left == 14
    assert unknown.reason is Reason.RESULT_UNKNOWN
    assert found.applied.replayed
    assert await burned(real) == 7


async def test_a_denial_is_an_answer_that_nobody_can_take_for_a_failure(real: Real) -> None:
    """Finding 7: whoever goes on after an error goes on only where nothing was decided."""

    async def naive(amount: int) -> None:
        (answer,) = await real.decide([burn(f"naive-{amount}", amount)])
        if answer.decision.outcome is Outcome.DENIED:
            raise HoldfastError(Reason.INTERNAL, "not enough")

    async def goes_on(amount: int) -> bool:
        """What every wrapper does sooner or later."""
        try:
            await naive(amount)
        except HoldfastError:
            return True
        return True

    (denied,) = await real.decide([burn("ours", GRANTED + 1)])
    assert await goes_on(GRANTED + 1)
    assert not isinstance(denied, HoldfastError)
    assert denied.decision.outcome is Outcome.DENIED
    assert await burned(real) == 0


async def test_a_commit_that_may_be_refused_gives_work_away(real: Real) -> None:
    """Finding 8: the work is done, whatever it took. REJECT is the naive way."""
    settled = []
    for overage in (op.Overage.REJECT, op.Overage.CHARGE):
        (hold,) = await real.decide(
            [op.Reserve("t", "a", (op.Line("ai", 10),), 60_000, f"hold-{overage}")]
        )
        lines = (op.CommitLine("ai", GRANTED * 2),)
        commit = op.Commit("t", hold.hold, f"commit-{overage}", lines, overage=overage)
        settled.extend(await real.decide([commit]))
    refused, charged = settled
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    buckets = balance.credits[0].buckets
    assert refused.decision.outcome is Outcome.DENIED
    assert charged.decision.outcome is Outcome.GRANTED
    assert buckets.burned == GRANTED * 2
    assert buckets.debt == GRANTED * 2 - GRANTED + 10
