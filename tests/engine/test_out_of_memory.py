"""F20: a store that is out of memory takes nothing new, and lets go of what it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from holdfast_server.chaos.proxy import Proxy
from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Operation
from holdfast_server.engine import scripts
from holdfast_server.errors import HoldfastError, Reason
from tests.engine.test_faults import dump, reserve
from tests.support.pair import Real, build

pytestmark = pytest.mark.faults

GRANTED = 100
TTL_MS = 60_000


@asynccontextmanager
async def full(real: Real) -> AsyncIterator[None]:
    """In this block the store has used more memory than it may."""
    await real.store.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await real.store.client.config_set("maxmemory", 0)


@pytest.fixture
async def holds(real: Real) -> list[str]:
    """Three holds of ten each, of an account that has a hundred."""
    terms = op.GrantTerms("ai", GRANTED, op.GrantSource.PURCHASE)
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "account")])
    await real.decide([op.Grant("t", "a", terms, "grant")])
    lines = (op.Line("ai", 10),)
    placed = [op.Reserve("t", "a", lines, TTL_MS, f"hold-{number}") for number in range(3)]
    return [str(answer.hold) for answer in await real.decide(placed)]


async def figures(real: Real) -> tuple[int, int, int]:
    """What is available, held and burned."""
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    buckets = balance.credits[0].buckets
    return buckets.available, buckets.held, buckets.burned


def is_refused(answer: Any) -> bool:
    return isinstance(answer, HoldfastError) and answer.reason is Reason.STORE_OUT_OF_MEMORY


async def test_what_asks_for_more_is_refused_and_changes_nothing(
    real: Real, holds: list[str]
) -> None:
    """Everything that places, gives or keeps; the same keys decide it later."""
    asked: list[Operation] = [
        reserve("more"),
        op.Burn("t", "a", (op.Line("ai", 1),), "burn"),
        op.Grant("t", "a", op.GrantTerms("ai", 1, op.GrantSource.SUPPORT), "give"),
        op.Extend("t", holds[0], TTL_MS, "extend"),
        op.CreateAccount("t", "b", op.AccountTerms(), "create"),
    ]
    before = await dump(real)
    async with full(real):
        assert all(map(is_refused, await real.decide(asked)))
    assert await dump(real) == before
    assert all(answer.applied.seq for answer in await real.decide(asked))


async def test_what_ends_goes_on_beside_what_is_refused(real: Real, holds: list[str]) -> None:
    """In one batch: work that was done is booked, what was not used comes back, and is shown."""
    commit, release = op.Commit("t", holds[0], "commit"), op.Release("t", holds[1], "release")
    batch: list[Operation] = [
        reserve("more"),
        commit,
        release,
        op.GetBalance("t", "a"),
        reserve("yet more"),
    ]
    async with full(real):
        first = await real.decide(batch)
        again = await real.decide(batch)
    assert [is_refused(answer) for answer in first] == [True, False, False, False, True]
    assert first[3].credits[0].buckets.held == 10
    assert [answer.applied.replayed for answer in again[1:3]] == [True, True]
    assert [answer.applied.seq for answer in again[1:3]] == [
        answer.applied.seq for answer in first[1:3]
    ]
    assert await figures(real) == (80, 10, 10)


async def test_what_is_due_ends(real: Real, holds: list[str]) -> None:
    """The sweeper goes on, and so does whoever looks."""
    real.clock.now_ms += TTL_MS + 1
    async with full(real):
        (ended,) = await real.decide([op.ExpireDue("t", "a")])
    assert not isinstance(ended, HoldfastError)
    assert await figures(real) == (GRANTED, 0, 0)


async def test_an_answer_that_is_lost_is_unknown_here_too(
    valkey_url: str, real: Real, holds: list[str]
) -> None:
    """The second call, which decides, may break off as any other; the same key finds it."""
    async with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        through = build(proxy.url(valkey_url), partitions=real.keys.partitions, armed_at=valkey_url)
        commit = op.Commit("t", holds[0], "once")
        async with full(real):
            # Loads the script, so that the reply to drop is that of the decision.
            await through.decide([op.GetBalance("t", "a")])
            beyond = scripts.beyond_memory(scripts.load("apply", scripts.Clock.ARGUMENT))
            proxy.drop_reply(1, after=beyond.called.encode())
            (unknown,) = await through.decide([commit])
            (found,) = await through.decide([commit])
        await through.store.close()
    assert unknown.reason is Reason.RESULT_UNKNOWN
    assert found.applied.replayed
    assert await figures(real) == (70, 20, 10)


def test_nothing_but_its_flag_differs() -> None:
    """What is decided beyond memory is decided by the same words."""
    deciding, claiming = scripts.load("apply"), scripts.load("claim_keys")
    beyond = scripts.beyond_memory(deciding)
    assert beyond.called != deciding.called
    assert beyond.loading == deciding.loading
    beyond = scripts.beyond_memory(claiming)
    assert beyond.called != claiming.called
    assert beyond.text.split("\n", 1)[1] == claiming.text.split("\n", 1)[1]
    assert beyond.text.startswith("#!lua flags=allow-oom\n")
