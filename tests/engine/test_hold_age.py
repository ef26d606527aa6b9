"""How old a hold may become, however often it is extended.

Each on the engine and the twin.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import HOLD_AGE_MS_MAX, TTL_MS_MAX
from holdfast_server.domain.reply import CommitReply, ExtendReply, ReserveReply
from tests.support.pair import Pair, Real

#: Something that wants a hold of the token to live so long from now, under a key.
Longer = Callable[[str, int, str], op.Operation]


def extend(token: str, ttl_ms: int, key: str) -> op.Operation:
    return op.Extend("t", token, ttl_ms, key)


def capture(token: str, ttl_ms: int, key: str) -> op.Operation:
    return op.Commit("t", token, key, (op.CommitLine("ai", 1),), final=False, ttl_ms=ttl_ms)


@pytest.mark.parametrize("longer", [extend, capture])
async def test_a_hold_lives_for_its_maximum_age_at_most(real: Real, longer: Longer) -> None:
    pair, clock = Pair(real), real.clock
    given = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    held = op.Reserve("t", "a", (op.Line("ai", 50),), TTL_MS_MAX, "reserve")
    create = op.CreateAccount("t", "a", op.AccountTerms(), "create")
    *_, reserved = await pair.submit([create, op.Grant("t", "a", given, "grant"), held])
    assert isinstance(reserved, ReserveReply)
    placed_ms, ends = clock.now_ms, []
    for n in range(HOLD_AGE_MS_MAX // TTL_MS_MAX):
        clock.now_ms += TTL_MS_MAX - 1
        (answer,) = await pair.submit([longer(reserved.hold, TTL_MS_MAX, f"k{n}")])
        assert isinstance(answer, ExtendReply | CommitReply)
        ends.append(answer.expires_at_ms)
    latest_ms = placed_ms + HOLD_AGE_MS_MAX
    assert ends[-2] < ends[-1] == latest_ms < clock.now_ms + TTL_MS_MAX
