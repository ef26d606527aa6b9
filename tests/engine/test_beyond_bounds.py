"""What would take a figure beyond 2^53-1 is an error that changes nothing, in shadow mode too, and
a hold can be ended all the same.

Each on the engine and the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.operation import Mode
from holdfast_server.engine.rows import pack_row, unpack_row
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import Pair, Real
from tests.support.stored import CREDIT_PLACE

#: What is held, nearly all of it unenforced, and how much more the account can have beside it.
HELD, ROOM = AMOUNT_MAX - 20, 15
#: Where a credit has some of its buckets.
BUCKET_PLACES = {"available": 4, "held": 5, "burned": 6}


def line(amount: int) -> tuple[op.Line, ...]:
    return (op.Line("ai", amount),)


def commit(hold: str, amount: int, *, final: bool = True, key: str = "end") -> op.Commit:
    return op.Commit("t", hold, key, (op.CommitLine("ai", amount),), final)


#: How a hold ends or goes on, within bounds.
ENDS: dict[str, Callable[[str], op.Operation]] = {
    "commit": lambda hold: commit(hold, HELD + ROOM),
    "capture": lambda hold: commit(hold, HELD + ROOM, final=False),
    "release": lambda hold: op.Release("t", hold, "end"),
}


@pytest.fixture
def pair(real: Real) -> Pair:
    real.mode.now = Mode.SHADOW
    return Pair(real)


async def placed(pair: Pair) -> str:
    """A hold of a second."""
    given = op.GrantTerms("ai", 10, op.GrantSource.PURCHASE)
    hold = op.Reserve("t", "a", line(HELD), 1_000, "hold")
    *_, answer = await pair.submit(
        [
            op.CreateAccount("t", "a", op.AccountTerms(), "create"),
            op.Grant("t", "a", given, "grant"),
            op.BookUnenforced("t", "a", line(5), "unenforced"),
            hold,
        ]
    )
    assert isinstance(answer, rp.ReserveReply)
    return answer.hold


async def refuse(pair: Pair, operation: op.Operation) -> None:
    """Whoever is refused finds everything as it was, versions and numbers of entries too."""
    await pair.submit([op.ExpireDue("t", "a")])
    balance, count = await pair.submit([op.GetBalance("t", "a")]), len(await pair.real.entries())
    (answer,) = await pair.submit([operation])
    assert isinstance(answer, HoldfastError)
    assert answer.reason is Reason.BALANCE_LIMIT_EXCEEDED
    assert await pair.submit([op.GetBalance("t", "a")]) == balance
    assert len(await pair.real.entries()) == count


async def accept(pair: Pair, operation: op.Operation) -> None:
    (answer,) = await pair.submit([operation])
    assert not isinstance(answer, HoldfastError)
    await pair.check_entries()
    await pair.check_figures()


async def test_shadow_mode_lets_pass_what_can_be_booked(pair: Pair) -> None:
    await placed(pair)
    await refuse(pair, op.Reserve("t", "a", line(ROOM + 1), 60_000, "reserve"))
    await refuse(pair, op.Burn("t", "a", line(ROOM + 1), "burn"))
    await refuse(pair, op.BookUnenforced("t", "a", line(ROOM + 1), "book"))
    await accept(pair, op.Burn("t", "a", line(ROOM), "burn"))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("final", [True, False], ids=["final", "not final"])
async def test_a_commit_beyond_all_bounds_leaves_the_hold_to_be_ended(
    pair: Pair, end: Callable[[str], op.Operation], final: bool
) -> None:
    hold = await placed(pair)
    await refuse(pair, commit(hold, HELD + ROOM + 1, final=final, key="refused"))
    await accept(pair, end(hold))


async def test_a_late_commit_beyond_all_bounds_leaves_the_hold_to_be_committed(pair: Pair) -> None:
    hold = await placed(pair)
    pair.real.clock.now_ms += 1_000
    await refuse(pair, commit(hold, HELD + ROOM + 1))
    await accept(pair, commit(hold, HELD + ROOM))


async def test_what_is_to_come_has_its_room(pair: Pair, real: Real) -> None:
    """Else it could not begin when its time has come, and nothing more be decided of the tree."""
    begins_ms = real.clock.now_ms + 1_000
    later = op.GrantTerms("ai", AMOUNT_MAX - 10, op.GrantSource.PLAN, effective_at_ms=begins_ms)
    *_, refused = await pair.submit(
        [
            op.CreateAccount("t", "a", op.AccountTerms(), "a"),
            op.Grant("t", "a", later, "later"),
            op.Grant("t", "a", op.GrantTerms("ai", 11, op.GrantSource.PLAN), "more"),
        ]
    )
    assert isinstance(refused, HoldfastError)
    assert refused.reason is Reason.BALANCE_LIMIT_EXCEEDED
    await pair.submit([op.Grant("t", "a", op.GrantTerms("ai", 10, op.GrantSource.PLAN), "rest")])
    real.clock.now_ms += 1_000
    (balance,) = await pair.submit([op.GetBalance("t", "a")])
    assert isinstance(balance, rp.BalanceReply)
    assert balance.credits[0].buckets.available == AMOUNT_MAX


@pytest.mark.parametrize("change", [{"held": 1}, {"available": -8, "burned": 8}])
async def test_credits_that_contradict_themselves_are_not_spent(
    real: Real, change: dict[str, int]
) -> None:
    """Whatever made them so, the script itself goes no further: both sides would not be equal, or
    a bucket would be below zero.
    """
    given = op.GrantTerms("ai", 10, op.GrantSource.PURCHASE)
    created = op.CreateAccount("t", "a", op.AccountTerms(), "a")
    await real.decide([created, op.Grant("t", "a", given, "given")])
    tree, _ = real.keys.tree_keys(real.keys.partition("t", "a"), 1, "t", "a")
    stored: Any = await real.store.client.hget(tree, "aa")
    account = unpack_row(stored)
    credit = unpack_row(account[CREDIT_PLACE + 1])
    for bucket, more in change.items():
        credit[BUCKET_PLACES[bucket]] += more
    account[CREDIT_PLACE + 1] = pack_row(credit)
    await real.store.client.hset(tree, "aa", pack_row(account))
    before = await real.store.client.hgetall(tree), await real.entries()
    (answer,) = await real.decide([op.Reserve("t", "a", line(10), 1_000, "hold")])
    assert answer.reason is Reason.INTERNAL
    assert (await real.store.client.hgetall(tree), await real.entries()) == before
