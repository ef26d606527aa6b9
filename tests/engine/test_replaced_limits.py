"""A hold gives back what it counted to the count that has it, whatever limit has its id by then.

Each on the engine and the twin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import msgpack
import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine.rows import pack_hold, pack_row, pack_value, unpack_hold, unpack_row
from tests.support.pair import Pair, Real, hold_id
from tests.support.stored import LIMITS_PLACE

DAILY = op.Limit(
    "daily",
    op.LimitUnit.AMOUNT,
    op.LimitWindow.CALENDAR_DAY,
    200,
    op.LimitEnforcement.HARD,
    credit_type="ai",
)
OTHER = replace(DAILY, limit_id="other")


@pytest.fixture
def pair(real: Real) -> Pair:
    return Pair(real)


async def decide(pair: Pair, operation: op.Operation) -> Any:
    """The answer of both."""
    return (await pair.submit([operation]))[0]


async def start(pair: Pair) -> str:
    """An account with a limit that counted a hold of 60, which ends in a second."""
    terms = op.AccountTerms(limits=(DAILY,))
    await decide(pair, op.CreateAccount("t", "a", terms, "create"))
    given = op.GrantTerms("ai", 1_000, op.GrantSource.PURCHASE)
    await decide(pair, op.Grant("t", "a", given, "grant"))
    held = await decide(pair, op.Reserve("t", "a", (op.Line("ai", 60),), 1_000, "hold"))
    return str(held.hold)


async def limit(pair: Pair, *steps: tuple[op.Limit, ...]) -> None:
    """Gives the account other limits, and others again."""
    for number, limits in enumerate(steps):
        terms, fields = op.AccountTerms(limits=limits), frozenset({"limits"})
        await decide(pair, op.UpdateAccount("t", "a", terms, fields, f"limits {number}"))


async def use(pair: Pair, amount: int) -> None:
    await decide(pair, op.Burn("t", "a", (op.Line("ai", amount),), "burn", "chat"))


async def end(pair: Pair, hold: str, how: str) -> None:
    """A commit burns ten of it."""
    if how == "expire":
        pair.real.clock.now_ms += 1_000
    elif how == "release":
        await decide(pair, op.Release("t", hold, "end"))
    else:
        await decide(pair, op.Commit("t", hold, "end", (op.CommitLine("ai", 10),)))


async def used(pair: Pair) -> list[int]:
    """What counts under each limit."""
    balance = await decide(pair, op.GetBalance("t", "a"))
    return [each.used for each in balance.limits]


@pytest.mark.parametrize("how", ["expire", "release", "commit"])
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([(replace(DAILY, feature="chat"),)], id="of another feature"),
        pytest.param([(), (DAILY,)], id="removed and added again"),
        pytest.param([(OTHER,), (OTHER, DAILY)], id="beside another"),
    ],
)
async def test_a_limit_that_counts_anew_gets_nothing_back(
    pair: Pair, steps: list[tuple[op.Limit, ...]], how: str
) -> None:
    """All of it within one millisecond."""
    hold = await start(pair)
    await limit(pair, *steps)
    await use(pair, 60)
    await end(pair, hold, how)
    assert set(await used(pair)) == {60}


@pytest.mark.parametrize(("how", "left"), [("expire", 60), ("release", 60), ("commit", 70)])
async def test_a_limit_that_still_counts_the_same_gets_it_back(
    pair: Pair, how: str, left: int
) -> None:
    """At another place, with another maximum."""
    hold = await start(pair)
    await limit(pair, (OTHER, replace(DAILY, maximum=150)))
    await use(pair, 60)
    await end(pair, hold, how)
    assert await used(pair) == [60, left]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="nothing"),
        pytest.param([(OTHER, DAILY)], id="the same beside another"),
        pytest.param([(), (DAILY,)], id="removed and added again"),
    ],
)
async def test_what_was_counted_without_a_number_is_known_by_the_limit_s_id(
    pair: Pair, steps: list[tuple[op.Limit, ...]]
) -> None:
    """As scripts counted that gave no numbers."""
    hold = await start(pair)
    await forget_numbers(pair, hold)
    await limit(pair, *steps)
    await use(pair, 50)
    await end(pair, hold, "release")
    assert set(await used(pair)) == {50}


async def forget_numbers(pair: Pair, hold: str) -> None:
    """Makes of an account with one limit, and of its hold, what such scripts left."""
    keys, client = pair.real.keys, cast("Any", pair.real.store.client)
    tree, _ = keys.tree_keys(keys.partition("t", "a"), 1, "t", "a")
    account = unpack_row(await client.hget(tree, "aa"))
    ((*limit, _),) = msgpack.unpackb(account[LIMITS_PLACE], raw=True)
    account[LIMITS_PLACE] = pack_value([limit])
    await client.hset(tree, "aa", pack_row(account))
    name = b"h" + bytes.fromhex(hold_id(hold))
    *own, (owner, _, *count) = unpack_hold(await client.hget(tree, name))
    await client.hset(tree, name, pack_hold([*own, [owner, DAILY.limit_id, *count]]))


async def test_what_has_drained_until_then_has_drained_by_the_limit_before(pair: Pair) -> None:
    """A higher maximum drains faster, from then on."""
    burst = replace(DAILY, window=op.LimitWindow.BURST, window_ms=60_000)
    await decide(pair, op.CreateAccount("t", "b", op.AccountTerms(limits=(burst,)), "b"))
    given = op.GrantTerms("ai", 1_000, op.GrantSource.PURCHASE)
    await decide(pair, op.Grant("t", "b", given, "b"))
    await decide(pair, op.Burn("t", "b", (op.Line("ai", 200),), "b"))
    pair.real.clock.now_ms += 30_000
    terms = op.AccountTerms(limits=(replace(burst, maximum=400),))
    await decide(pair, op.UpdateAccount("t", "b", terms, frozenset({"limits"}), "raise"))
    (limit,) = (await decide(pair, op.GetBalance("t", "b"))).limits
    assert limit.used == 100


async def test_a_hold_gives_back_to_the_account_that_counted_it_wherever_its_own_is_by_then(
    pair: Pair,
) -> None:
    for name, limits in (("root", ()), ("limited", (DAILY,)), ("free", ()), ("a", ())):
        parent = {"root": "", "a": "limited"}.get(name, "root")
        terms = op.AccountTerms(parent=parent, limits=limits)
        await decide(pair, op.CreateAccount("t", name, terms, name))
    given = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await decide(pair, op.Grant("t", "a", given, "grant"))
    held = await decide(pair, op.Reserve("t", "a", (op.Line("ai", 60),), 60_000, "hold"))
    moved = op.AccountTerms(parent="free")
    await decide(pair, op.UpdateAccount("t", "a", moved, frozenset({"parent"}), "move"))
    await decide(pair, op.Release("t", held.hold, "end"))
    (limit,) = (await decide(pair, op.GetBalance("t", "limited"))).limits
    assert limit.used == 0
