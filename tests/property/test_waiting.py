"""Random limits on a path: whoever is denied by them and waits as told is not denied again, and
whoever waits a millisecond less is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.errors import Reason
from tests.support.pair import Pair, build

EXAMPLES = 150
PATH = ("org", "team", "user")
WINDOWS_MS = {op.LimitWindow.SLIDING: [1_000, 7_777, 60_000], op.LimitWindow.BURST: [1_000, 60_000]}

lines = st.lists(
    st.builds(op.Line, st.sampled_from(["ai", "video"]), st.integers(1, 6)),
    min_size=1,
    max_size=2,
    unique_by=lambda line: line.credit_type,
).map(tuple)
#: So long after the one before, so much.
burns = st.lists(st.tuples(st.sampled_from([0, 300, 1_000, 5_000]), lines), min_size=2, max_size=8)


@st.composite
def limits(draw: st.DrawFn) -> tuple[op.Limit, ...]:
    return tuple(_limit(draw, str(index)) for index in range(draw(st.integers(0, 3))))


def _limit(draw: st.DrawFn, name: str) -> op.Limit:
    unit, window = draw(st.sampled_from(op.LimitUnit)), draw(st.sampled_from(op.LimitWindow))
    return op.Limit(
        name,
        unit,
        window,
        draw(st.integers(1, 12)),
        op.LimitEnforcement.HARD,
        draw(st.sampled_from(WINDOWS_MS.get(window, [0]))),
        draw(st.sampled_from(["ai", "video"])) if unit is op.LimitUnit.AMOUNT else "",
    )


async def check(
    url: str, path: Sequence[tuple[op.Limit, ...]], asked: Sequence[tuple[int, tuple[op.Line, ...]]]
) -> None:
    """The last of the burns is the one that waits."""
    pair = Pair(build(url))
    for name, parent, own in zip(PATH, ("", *PATH), path, strict=False):
        await pair.submit([op.CreateAccount("t", name, op.AccountTerms(parent, limits=own), name)])
    for credit_type in ("ai", "video"):
        given = op.GrantTerms(credit_type, 1_000, op.GrantSource.PURCHASE)
        await pair.submit([op.Grant("t", "org", given, credit_type)])
    decision = rp.Decision(rp.Outcome.GRANTED, op.Mode.ENFORCE)
    for number, (gap_ms, each) in enumerate(asked):
        pair.real.clock.now_ms += gap_ms
        decision = await decide(pair, op.Burn("t", PATH[-1], each, f"burn {number}"))
    if wait_ms := decision.retry_after_ms:
        last = asked[-1][1]
        pair.real.clock.now_ms += wait_ms - 1
        early = await decide(pair, op.Burn("t", PATH[-1], last, "early"))
        pair.real.clock.now_ms += 1
        in_time = await decide(pair, op.Burn("t", PATH[-1], last, "in time"))
        assert (early.reason, in_time.reason) == (Reason.LIMIT_EXCEEDED, Reason.UNSPECIFIED)
    await pair.real.store.close()


async def decide(pair: Pair, burn: op.Burn) -> rp.Decision:
    (answer,) = await pair.submit([burn])
    assert isinstance(answer, rp.BurnReply)
    return answer.decision


@pytest.mark.timeout(0)
def test_no_limit_denies_after_the_time_that_was_named(valkey_url: str) -> None:
    with asyncio.Runner() as runner:

        @settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(path=st.tuples(limits(), limits(), limits()), asked=burns)
        def run(
            path: tuple[tuple[op.Limit, ...], ...],
            asked: list[tuple[int, tuple[op.Line, ...]]],
        ) -> None:
            with redis.Redis.from_url(valkey_url) as client:
                client.flushdb()
            runner.run(check(valkey_url, path, asked))

        run()
