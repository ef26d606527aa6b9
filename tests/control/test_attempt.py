"""What is tried at once is answered as ever, or nothing was decided; and nobody waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast import new_key
from holdfast_server.control.durability import Durable, Promises
from holdfast_server.control.operations import Operations
from holdfast_server.domain import operation as op
from holdfast_server.domain.epoch import Epochs
from holdfast_server.domain.operation import Durability, Operation
from holdfast_server.domain.submit import Answer, Asked
from holdfast_server.engine.levels import StoreLevels
from holdfast_server.engine.tree_store import Evicted
from holdfast_server.telemetry.recorder import Recorder
from tests.control.support import MakeStage, burn, reserve
from tests.support.both import PARTITIONS, Both
from tests.support.eviction import evict
from tests.support.pair import CALLER

LINES = (op.Line("ai", 1),)


class Unasked:
    """A ledger, and whatever else an attempt MUST NOT ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class SomeCreditTypes:
    """Knows one; others it would have to look for."""

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        return (tenant, credit_type) == ("t", "ai")

    async def ensure_credit_type(self, tenant: str, credit_type: str) -> bool:
        raise AssertionError(credit_type)


@pytest.fixture
async def shop(both: Both) -> Both:
    """An account with credits, and operations that may ask nobody but the hot store."""
    await both.account("a")
    await both.account("cold")
    await both.grant("a", 100)
    await both.flushed()
    unasked: Any = Unasked()
    both.operations = Operations(both.real.engine, unasked, unasked, SomeCreditTypes())
    return both


def a_reserve(**changes: Any) -> op.Reserve:
    return replace(op.Reserve("t", "a", LINES, 60_000, new_key()), **changes)


async def attempt(both: Both, *operations: Operation) -> list[Answer | None]:
    return await both.operations.attempt([Asked(CALLER, each) for each in operations])


async def seqs(both: Both) -> list[int]:
    """How far each partition is."""
    return [await both.real.engine.current_seq(each) for each in range(PARTITIONS)]


async def test_the_answer_is_the_one_that_a_repetition_gets(shop: Both) -> None:
    operations = [a_reserve() for _ in range(3)]
    tried: list[Any] = await attempt(shop, *operations)
    again: list[Any] = await attempt(shop, *operations)
    assert [each.hold for each in tried] == [each.hold for each in again]
    assert [replace(each.applied, replayed=True) for each in tried] == [
        each.applied for each in again
    ]


async def test_each_kind_of_the_hot_path_is_answered(shop: Both) -> None:
    # A Reserve is never looked up, whatever its key is.
    (placed,) = await attempt(shop, a_reserve(key="a plain key"))
    hold = getattr(placed, "hold", "")
    answers = await attempt(
        shop,
        op.Extend("t", hold, 1_000, new_key()),
        op.Commit("t", hold, new_key(), final=False),
        op.Release("t", hold, new_key()),
        op.Burn("t", "a", LINES, new_key()),
        op.GetBalance("t", "a"),
    )
    assert [type(answer).__name__ for answer in answers] == [
        "ExtendReply",
        "CommitReply",
        "ReleaseReply",
        "BurnReply",
        "BalanceReply",
    ]


async def test_nothing_is_decided_for_which_somebody_else_has_to_be_asked(shop: Both) -> None:
    """Beside others that are answered, each in its place."""
    left: list[Operation] = [
        a_reserve(account="unheard-of"),
        a_reserve(lines=(op.Line("undefined", 1),)),
        op.Burn("t", "a", LINES, "a plain key"),
        op.Refund("t", "0-1-1", new_key()),
        op.Grant("t", "a", op.GrantTerms("ai", 1, op.GrantSource.PURCHASE), new_key()),
    ]
    for operation in left:
        before = await seqs(shop)
        answers = await attempt(shop, a_reserve(), operation, a_reserve())
        assert [answer is None for answer in answers] == [False, True, False]
        assert sum(await seqs(shop)) == sum(before) + 2


async def test_no_tree_is_brought(shop: Both) -> None:
    look = op.GetBalance("t", "cold")
    assert None not in await attempt(shop, look)
    assert await evict(shop.real, "t", "cold") is Evicted.EVICTED
    answers = await attempt(shop, a_reserve(), look, a_reserve(account="cold"), a_reserve())
    assert [answer is None for answer in answers] == [False, True, True, False]


async def test_nothing_is_waited_for(shop: Both) -> None:
    """A level of durability that is asked for, or that the deployment demands."""
    unasked: Any = Unasked()
    promises = Promises(StoreLevels(shop.real.store), 1, {op.Commit: Durability.LEDGER})
    durable = Durable(shop.operations, promises, {}, unasked, Epochs(), unasked, Recorder())
    (placed,) = await attempt(shop, a_reserve())
    operations: list[Operation] = [
        op.Burn("t", "a", LINES, new_key(), durability=Durability.MEMORY),
        op.Burn("t", "a", LINES, new_key(), durability=Durability.LEDGER),
        op.Commit("t", getattr(placed, "hold", ""), new_key()),
    ]
    answers = await durable.attempt([Asked(CALLER, each) for each in operations])
    assert [answer is None for answer in answers] == [False, True, True]


async def test_under_the_kill_switch_nothing_is_tried(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.turn_on()
    asked = [Asked(CALLER, each) for each in (reserve(), burn())]
    assert await stage.gate.attempt(asked) == [None, None]
    assert stage.engine.asked == []
    assert stage.spooled() == []
