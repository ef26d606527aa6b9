"""Operations that come while a process is busy travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.reply import BalanceReply
from holdfast_server.engine.batcher import Limits
from holdfast_server.engine.idle import IdleLoop
from holdfast_server.engine.item import BALANCES_MAX
from holdfast_server.engine.store import failure
from holdfast_server.errors import Reason
from tests.support.idle import busy, run
from tests.support.pair import Real, build

pytestmark = pytest.mark.usefixtures("waits_for_ever")

ENOUGH = 8
LIMITS = Limits(gathered_operations=ENOUGH, calls=2)


class Batches:
    """Takes how many operations each script call had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def queued(self, operations: int) -> None: ...

    def batch(self, operations: int, seconds: float) -> None:
        self.sizes.append(operations)


def reserve(key: str) -> op.Reserve:
    return op.Reserve("t", "a", (op.Line("ai", 1),), 1_000, key)


def on_engine(url: str, test: Callable[[IdleLoop, Real, Batches], Awaitable[None]]) -> None:
    """Runs a test with an account that has 100 credits, and counts what it sends from then on."""

    async def with_engine(loop: IdleLoop) -> None:
        real, batches = build(url, limits=LIMITS), Batches()
        try:
            await real.decide(
                [
                    op.CreateAccount("t", "a", op.AccountTerms(), "1"),
                    op.Grant("t", "a", op.GrantTerms("ai", 100, op.GrantSource.PURCHASE), "2"),
                ]
            )
            real.batcher._recorder = batches
            await test(loop, real, batches)
        finally:
            await real.store.close()

    run(with_engine)


async def one_a_turn(real: Real, count: int) -> list[asyncio.Task[list[object]]]:
    """Asks for so many holds, each in a turn of the event loop of its own."""
    asked = []
    for number in range(count):
        asked.append(asyncio.create_task(real.decide([reserve(f"r{number}")])))
        await asyncio.sleep(0)
    return asked


async def held(real: Real) -> int:
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    found: int = balance.credits[0].buckets.held
    return found


def test_what_comes_while_the_process_is_busy_travels_together(valkey_url: str) -> None:
    async def test(loop: IdleLoop, real: Real, batches: Batches) -> None:
        with busy(loop):
            asked = await one_a_turn(real, ENOUGH - 1)
            assert batches.sizes == []
        await asyncio.gather(*asked)
        assert batches.sizes == [ENOUGH - 1]
        assert await held(real) == ENOUGH - 1

    on_engine(valkey_url, test)


def test_a_busy_process_waits_until_there_are_enough(valkey_url: str) -> None:
    async def test(loop: IdleLoop, real: Real, batches: Batches) -> None:
        with busy(loop):
            await asyncio.gather(*await one_a_turn(real, ENOUGH))
        assert batches.sizes == [ENOUGH]

    on_engine(valkey_url, test)


def test_more_than_enough_are_all_decided_in_a_busy_process(valkey_url: str) -> None:
    async def test(loop: IdleLoop, real: Real, batches: Batches) -> None:
        with busy(loop):
            asked = await one_a_turn(real, 5 * ENOUGH)
            await asyncio.gather(*asked[: 2 * ENOUGH])
        await asyncio.gather(*asked)
        assert sum(batches.sizes) == 5 * ENOUGH
        assert await held(real) == 5 * ENOUGH

    on_engine(valkey_url, test)


def test_one_alone_waits_for_nobody(valkey_url: str) -> None:
    async def test(_: IdleLoop, real: Real, batches: Batches) -> None:
        for number in range(3):
            await real.decide([reserve(f"alone-{number}")])
        assert batches.sizes == [1, 1, 1]

    on_engine(valkey_url, test)


def test_many_balances_do_not_keep_the_store_from_others(valkey_url: str) -> None:
    async def test(loop: IdleLoop, real: Real, batches: Batches) -> None:
        asked: list[op.Operation] = [op.GetBalance("t", "a")] * (2 * BALANCES_MAX + 1)
        answers = await real.decide([*asked[:5], reserve("between"), *asked[5:]])
        held = [each.credits[0].buckets.held for each in answers if isinstance(each, BalanceReply)]
        assert held == [0] * 5 + [1] * (len(asked) - 5)
        assert batches.sizes == [BALANCES_MAX + 1, BALANCES_MAX, 1]

    on_engine(valkey_url, test)


def test_nothing_of_a_batch_overtakes_what_the_store_did_not_answer(valkey_url: str) -> None:
    async def test(loop: IdleLoop, real: Real, batches: Batches) -> None:
        call, calls = real.store.call, 0

        async def lost_once(*arguments: Any) -> bytes:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise failure(Reason.RESULT_UNKNOWN, TimeoutError())
            return await call(*arguments)

        with patch.object(real.store, "call", lost_once):
            balances: list[op.Operation] = [op.GetBalance("t", "a")] * (2 * BALANCES_MAX)
            answers = await real.decide([reserve("first"), *balances, reserve("last")])
        assert answers[0].reason is Reason.RESULT_UNKNOWN
        assert answers[-1].reason is Reason.STORE_UNAVAILABLE
        assert (calls, await held(real)) == (1, 0)

    on_engine(valkey_url, test)
