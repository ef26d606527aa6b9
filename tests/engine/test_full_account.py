"""An account with as many open grants as it may have, and what a Refund may still give back there.

The engine and the twin are asked together.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import GRANTS_MAX
from holdfast_server.domain.twin.grants import RefundPart, RefundPlan
from holdfast_server.domain.twin.state import DEBT, UNENFORCED
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import START_MS, Pair, Real

EXPIRES_MS = START_MS + 5_000


@pytest.fixture
async def pair(real: Real) -> Pair:
    """Both, with an account that may owe."""
    pair = Pair(real)
    terms = op.AccountTerms(overdraft_limits={"ai": 1_000})
    await pair.submit([op.CreateAccount("t", "a", terms, "create")])
    return pair


async def give(pair: Pair, name: str, count: int = 1, **terms: Any) -> str:
    """So many grants of 10; the id of the last."""
    given = op.GrantTerms("ai", 10, op.GrantSource.PURCHASE, **terms)
    grants = [op.Grant("t", "a", given, f"{name}-{number}") for number in range(count)]
    answer = (await pair.submit(grants))[-1]
    assert isinstance(answer, rp.GrantReply)
    return answer.grant_id


async def spend(pair: Pair, amount: int, *, held: int = 0) -> None:
    """Holds some for long, and burns the next."""
    hold = op.Reserve("t", "a", (op.Line("ai", held),), 600_000, "hold")
    burn = op.Burn("t", "a", (op.Line("ai", amount),), f"burn {amount}")
    await pair.submit([hold, burn] if held else [burn])


async def fill(pair: Pair, *, but: int = 0) -> None:
    """Opens grants, which nobody can spend yet, until so many more may be open."""
    count = GRANTS_MAX - but - await count_grants(pair)
    await give(pair, "rest", count, effective_at_ms=START_MS + 3_600_000)


async def count_grants(pair: Pair) -> int:
    (balance,) = await pair.submit([op.GetBalance("t", "a")])
    assert isinstance(balance, rp.BalanceReply)
    return sum(len(credit.grants) for credit in balance.credits)


def part(source: str, amount: int = 10, **more: Any) -> RefundPart:
    return RefundPart("a", "ai", source, amount, new_grant_id="f" * 32, **more)


async def refund(pair: Pair, *parts: RefundPart, goodwill_ttl_ms: int = 0) -> Any:
    """Asks both; compares all that they keep, too."""
    plan = RefundPlan("a", parts, 10**9, "burned", goodwill_ttl_ms)
    answer = await pair.refund(op.Refund("t", "burned", "", (), "", goodwill_ttl_ms), plan)
    await pair.check_balances()
    await pair.check_entries()
    return answer


def refused(answer: Any) -> bool:
    return isinstance(answer, HoldfastError) and answer.reason is Reason.ACCOUNT_FULL


async def test_all_grants_count_that_a_refund_brings_back(pair: Pair) -> None:
    first, second = await give(pair, "first"), await give(pair, "second")
    await spend(pair, 20)
    await fill(pair, but=1)

    assert refused(await refund(pair, part(second), part(first)))
    assert (await refund(pair, part(second, 6), part(second, 4))).lines[0].refunded == 10
    assert await count_grants(pair) == GRANTS_MAX


async def test_what_needs_no_other_grant_is_given_back(pair: Pair) -> None:
    """Off debt, to a grant that is open, and to those that have expired or were revoked."""
    expired = await give(pair, "expired", expires_at_ms=EXPIRES_MS)
    revoked = await give(pair, "revoked")
    await spend(pair, 20)
    is_open = await give(pair, "open")
    await spend(pair, 45, held=5)
    await fill(pair)
    pair.real.clock.now_ms = EXPIRES_MS

    answer = await refund(
        pair,
        part(DEBT, 40),
        part(is_open, 5),
        part(revoked, revoked=True),
        part(expired, expires_ms=EXPIRES_MS),
    )

    assert (answer.lines[0].refunded, answer.lines[0].debt) == (65, 40)
    assert await count_grants(pair) == GRANTS_MAX


async def test_goodwill_needs_a_grant_also_where_the_expired_one_is_open(pair: Pair) -> None:
    expired = part(await give(pair, "expired", expires_at_ms=EXPIRES_MS), 5, expires_ms=EXPIRES_MS)
    await spend(pair, 5, held=5)
    await fill(pair)
    pair.real.clock.now_ms = EXPIRES_MS

    assert refused(await refund(pair, expired, goodwill_ttl_ms=60_000))
    assert (await refund(pair, expired)).lines[0].grants[0].expired == 5


@pytest.mark.parametrize("but", [0, 1])
async def test_debt_that_was_repaid_needs_one_grant(pair: Pair, but: int) -> None:
    """Each of the last parts alone would find all of it still owed."""
    await spend(pair, 20)
    await give(pair, "repays")
    unenforced = op.BookUnenforced("t", "a", (op.Line("ai", 10),), "unenforced")
    await pair.submit([unenforced])
    await fill(pair, but=but)

    owed = await refund(pair, part(UNENFORCED, 4), part(DEBT, 4))
    more = await refund(pair, part(UNENFORCED, 7), part(DEBT, 6))

    assert (owed.lines[0].unenforced, owed.lines[0].debt) == (4, 4)
    assert more.lines[0].grants[0].returned == 1 if but else refused(more)
    assert await count_grants(pair) == GRANTS_MAX


async def test_no_more_grants_are_open_than_may_be(pair: Pair) -> None:
    await fill(pair)
    given = op.GrantTerms("ai", 1, op.GrantSource.PURCHASE)
    (refused,) = await pair.submit([op.Grant("t", "a", given, "one more")])
    assert isinstance(refused, HoldfastError)
    assert refused.reason is Reason.ACCOUNT_FULL
