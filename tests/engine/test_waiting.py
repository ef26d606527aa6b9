"""Whoever is denied by limits is told how long to wait until none of them denies any more.

Each on the engine and the twin.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.reply import BurnReply, Decision
from holdfast_server.domain.zones import offsets_of
from holdfast_server.errors import Reason
from tests.support.pair import Pair, Real

HOUR_MS = 3_600_000
MINUTE = op.Limit(
    "minute",
    op.LimitUnit.AMOUNT,
    op.LimitWindow.SLIDING,
    100,
    op.LimitEnforcement.HARD,
    60_000,
    "ai",
)
HOUR = replace(MINUTE, limit_id="hour", window_ms=HOUR_MS)
HOUR_OF_VIDEO = replace(HOUR, limit_id="video", credit_type="video")
ONE_IN_AN_HOUR = replace(
    HOUR, limit_id="one", unit=op.LimitUnit.REQUESTS, credit_type="", maximum=1
)
#: It has room for the first half of what is asked for, and never for all of it.
NEVER = replace(HOUR, limit_id="never", maximum=60)

ORDERS = {
    "the own first": ((HOUR, MINUTE), ()),
    "the own last": ((MINUTE, HOUR), ()),
    "above": ((MINUTE,), (HOUR,)),
    "below": ((HOUR,), (MINUTE,)),
    "of a later line": ((MINUTE,), (HOUR_OF_VIDEO,)),
    "of requests": ((ONE_IN_AN_HOUR, MINUTE), ()),
}


@pytest.fixture
def pair(real: Real) -> Pair:
    return Pair(real)


def burn(key: str, amount: int) -> op.Burn:
    lines = op.Line("ai", amount), op.Line("video", amount)
    return op.Burn("t", "a", lines, key)


async def decide(pair: Pair, operation: op.Operation) -> Decision:
    """What both decide."""
    (answer,) = await pair.submit([operation])
    assert isinstance(answer, BurnReply)
    return answer.decision


async def denied(pair: Pair, own: tuple[op.Limit, ...], above: tuple[op.Limit, ...]) -> Decision:
    """The second of two burns, for which limits of an account and of the one above have no room."""
    await pair.submit([op.CreateAccount("t", "org", op.AccountTerms(limits=above), "org")])
    await pair.submit([op.CreateAccount("t", "a", op.AccountTerms("org", limits=own), "a")])
    for name in ("ai", "video"):
        given = op.GrantTerms(name, 1_000, op.GrantSource.PURCHASE)
        await pair.submit([op.Grant("t", "org", given, name)])
    await decide(pair, burn("first", 60))
    decision = await decide(pair, burn("second", 80))
    assert decision.reason is Reason.LIMIT_EXCEEDED
    return decision


@pytest.mark.parametrize(("own", "above"), ORDERS.values(), ids=ORDERS.keys())
async def test_after_the_time_that_was_named_no_limit_denies(
    pair: Pair, own: tuple[op.Limit, ...], above: tuple[op.Limit, ...]
) -> None:
    """The limit that is named is the one that needs it, wherever it stands."""
    decision = await denied(pair, own, above)
    assert decision.limit is not None
    assert decision.limit.limit_id != "minute"
    pair.real.clock.now_ms += decision.retry_after_ms - 1
    too_early = await decide(pair, burn("early", 80))
    pair.real.clock.now_ms += 1
    in_time = await decide(pair, burn("late", 80))
    assert too_early.limit == decision.limit
    assert in_time.reason is Reason.UNSPECIFIED


@pytest.mark.parametrize("own", [(MINUTE, NEVER), (NEVER, MINUTE)], ids=["last", "first"])
async def test_a_limit_that_never_has_room_is_named_before_all_others(
    pair: Pair, own: tuple[op.Limit, ...]
) -> None:
    """Waiting does not help."""
    decision = await denied(pair, own, ())
    assert decision.limit is not None
    assert (decision.limit.limit_id, decision.retry_after_ms) == ("never", 0)


@pytest.mark.parametrize(("change", "hours"), [(HOUR_MS, 21), (-HOUR_MS, 22)])
async def test_a_day_in_which_the_clocks_change_ends_at_its_midnight(
    pair: Pair, change: int, hours: int
) -> None:
    """In Berlin they do at one o'clock of UTC; half an hour before, the end is so much further."""
    zone, clock = "Europe/Berlin", pair.real.clock
    change_ms = next(
        after[0]
        for before, after in pairwise(offsets_of(zone))
        if after[1] - before[1] == change and after[0] > clock.now_ms
    )
    clock.now_ms, pair.zones["z"] = change_ms - HOUR_MS // 2, zone
    daily = op.Limit(
        "daily", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 1, op.LimitEnforcement.HARD
    )
    terms = op.AccountTerms(limits=(daily,), zone=zone)
    given = op.GrantTerms("ai", 10, op.GrantSource.PURCHASE)
    burns = [op.Burn("t", "z", (op.Line("ai", 1),), f"burn-{n}") for n in range(2)]
    *_, denied = await pair.submit(
        [op.CreateAccount("t", "z", terms, "z"), op.Grant("t", "z", given, "g"), *burns]
    )
    assert isinstance(denied, BurnReply)
    assert denied.decision.retry_after_ms == HOUR_MS // 2 + hours * HOUR_MS
