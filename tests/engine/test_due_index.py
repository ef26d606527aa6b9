"""A tree's index of due times: a list in the tree while it is small, a set once it is large."""

from __future__ import annotations

from typing import Any

from holdfast_server.domain import operation as op
from holdfast_server.engine.keys import DUE_FIELD
from tests.support.pair import SIGNER, Real, hold_id

MANY = 40


async def prepare(real: Real, holds: int) -> list[str]:
    """An account with so many open holds, each of which expires a second after the one before.

    The first is there before the others come: what it lies in has to go where they do not fit.
    """
    await real.decide(
        [
            op.CreateAccount("t", "a", op.AccountTerms(), "create"),
            op.Grant("t", "a", op.GrantTerms("ai", 1_000, op.GrantSource.PURCHASE), "grant"),
        ]
    )
    wanted = [
        op.Reserve("t", "a", (op.Line("ai", 1),), 1_000 * (number + 1), f"hold-{number}")
        for number in range(holds)
    ]
    answers = [*await real.decide(wanted[:1]), *await real.decide(wanted[1:])]
    return [answer.hold for answer in answers]


async def form(real: Real) -> tuple[bool, bool]:
    """Whether the index is a list in the tree, and whether it is a set."""
    tree, index = real.keys.tree_keys(real.keys.partition("t", "a"), 1, "t", "a")
    client = real.store.client
    return await client.hexists(tree, DUE_FIELD), bool(await client.exists(index))


async def listed(real: Real) -> list[str]:
    """The ids of the open holds, sooner expiry first."""
    holds, _ = await real.engine.list_holds("t", "a", False, 100, None)
    return [hold_id(hold.hold) for hold in holds]


async def test_few_members_lie_in_the_tree(real: Real) -> None:
    holds = await prepare(real, 3)
    assert await form(real) == (True, False)
    assert await listed(real) == [hold_id(hold) for hold in holds]


async def test_many_members_are_a_set_until_all_have_passed(real: Real) -> None:
    holds = await prepare(real, MANY)
    assert await form(real) == (False, True)
    assert await listed(real) == [hold_id(hold) for hold in holds]

    real.clock.now_ms += 30_500
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert balance.open_holds == MANY - 30
    assert await form(real) == (False, True)
    assert await listed(real) == [hold_id(hold) for hold in holds[30:]]

    real.clock.now_ms += 30_000
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert (balance.open_holds, balance.credits[0].buckets.held) == (0, 0)
    assert await form(real) == (False, False)

    await real.decide([op.Reserve("t", "a", (op.Line("ai", 1),), 1_000, "again")])
    assert await form(real) == (True, False)


async def test_what_is_settled_leaves_the_list(real: Real) -> None:
    holds = await prepare(real, 2)
    await real.decide([op.Commit("t", hold, f"commit-{hold}") for hold in holds])
    assert await listed(real) == []
    assert await form(real) == (True, False)

    await real.decide([op.Reserve("t", "a", (op.Line("ai", 1),), 9_000, "again")])
    assert await form(real) == (True, False)

    real.clock.now_ms += 60_000
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert balance.credits[0].buckets.held == 0
    assert await form(real) == (False, False)


async def test_members_of_one_time_end_in_the_order_of_their_names(real: Real) -> None:
    await prepare(real, 0)
    answers = await real.decide(
        [op.Reserve("t", "a", (op.Line("ai", 1),), 1_000, f"k{number}") for number in range(12)]
    )
    real.clock.now_ms += 2_000
    await real.decide([op.GetBalance("t", "a")])
    outbox = real.keys.outbox(real.keys.partition("t", "a"), 1)
    entries: Any = await real.store.client.xrange(outbox)
    ended = b"".join(fields[b"e"] for _, fields in entries[-12:])
    tokens = [SIGNER.read("t", answer.hold) for answer in answers]
    places = [ended.index(hold) for hold in sorted(each.hold for each in tokens if each)]
    assert places == sorted(places)


async def test_what_comes_back_to_a_grant_expires_with_it(real: Real) -> None:
    """While all of it was held, nothing was due."""
    await prepare(real, 0)
    expires_ms = real.clock.now_ms + 5_000
    given = op.GrantTerms("video", 10, op.GrantSource.PLAN, expires_at_ms=expires_ms)
    await real.decide([op.Grant("t", "a", given, "expiring")])
    (held,) = await real.decide([op.Reserve("t", "a", (op.Line("video", 10),), 9_000, "all")])
    await real.decide([op.Commit("t", held.hold, "some", (op.CommitLine("video", 4),))])
    real.clock.now_ms = expires_ms
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    (video,) = [each.buckets for each in balance.credits if each.credit_type == "video"]
    assert (video.burned, video.expired, video.available) == (4, 6, 0)
