"""Refund: burned credits go back to the grants they came from, newest burn first, never more."""

import asyncio
from dataclasses import replace
from unittest.mock import patch

import pytest

from holdfast_server.control.operations import ASK_AT_ONCE_MAX
from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import GRANTS_MAX
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import BurnedTransaction
from tests.engine.test_late import uuid7
from tests.support.both import Both
from tests.support.pair import START_MS


async def burned(both: Both, account: str, amount: int) -> str:
    """Burns credits; answers the transaction."""
    answer = await both.do(op.Burn("t", account, (op.Line("ai", amount),), both.key()))
    return str(answer.applied.transaction_id)


def refund(both: Both, transaction: str, amount: int = 0, goodwill_ttl_ms: int = 0) -> op.Refund:
    lines = (op.RefundLine("ai", amount),) if amount else ()
    return op.Refund("t", transaction, both.key(), lines, "quality", goodwill_ttl_ms)


async def test_parts_go_back_in_reverse_burn_order(both: Both) -> None:
    await both.account("a")
    first = await both.grant("a", 30, priority=1)
    second = await both.grant("a", 70, priority=2)
    transaction = await burned(both, "a", 80)

    answer = await both.do(refund(both, transaction, 60))

    shares = [(share.grant_id, share.returned) for share in answer.lines[0].grants]
    assert shares == [(second, 50), (first, 10)]
    assert await both.buckets("a") == Buckets(granted=100, available=80, burned=20)


async def test_several_refunds_never_give_back_more_than_was_burned(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 100)
    transaction = await burned(both, "a", 50)

    first = await both.do(refund(both, transaction, 30))
    second = await both.do(refund(both, transaction, 30))
    rest = await both.do(refund(both, transaction))
    nothing = await both.do(refund(both, transaction))

    assert first.lines[0].refunded == 30
    assert second.reason is Reason.REFUND_EXCEEDS_BURNED
    assert second.metadata == {"refundable": "20"}
    assert rest.lines[0].refunded == 20
    assert nothing.reason is Reason.REFUND_EXCEEDS_BURNED
    assert await both.buckets("a") == Buckets(granted=100, available=100)


async def test_concurrent_refunds_share_what_was_burned(both: Both) -> None:
    """Each reads the ledger before the others are done; the store refuses what is stale."""
    await both.account("a")
    await both.grant("a", 100)
    transaction = await burned(both, "a", 50)

    answers = await asyncio.gather(*(both.do(refund(both, transaction, 20)) for _ in range(4)))

    done = [answer for answer in answers if not isinstance(answer, HoldfastError)]
    refused = [answer.reason for answer in answers if isinstance(answer, HoldfastError)]
    assert [answer.lines[0].refunded for answer in done] == [20, 20]
    assert refused == [Reason.REFUND_EXCEEDS_BURNED] * 2


async def test_a_grant_that_was_spent_and_forgotten_comes_back(both: Both) -> None:
    await both.account("a")
    grant = await both.grant("a", 40, priority=3)
    transaction = await burned(both, "a", 40)

    await both.do(refund(both, transaction, 15))

    balance = await both.do(op.GetBalance("t", "a"))
    (line,) = balance.credits[0].grants
    assert (line.grant_id, line.remaining, line.priority) == (grant, 15, 3)


async def test_what_belonged_to_an_expired_grant_expires(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 40, expires_at_ms=START_MS + 5_000)
    transaction = await burned(both, "a", 40)
    both.real.clock.now_ms += 10_000

    answer = await both.do(refund(both, transaction, 25))

    assert answer.lines[0].grants[0].expired == 25
    assert await both.buckets("a") == Buckets(granted=40, burned=15, expired=25)


async def test_goodwill_makes_a_new_grant_of_what_expired(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 40, expires_at_ms=START_MS + 5_000)
    transaction = await burned(both, "a", 40)
    both.real.clock.now_ms += 10_000

    answer = await both.do(refund(both, transaction, 25, goodwill_ttl_ms=60_000))

    (share,) = answer.lines[0].grants
    assert share.returned == 25
    assert await both.buckets("a") == Buckets(granted=40, available=25, burned=15)
    await both.flushed()
    grants = await both.ledger.list_grants("t", "a", limit=10)
    new = next(grant for grant in grants if grant.grant_id == share.grant_id)
    assert (new.remaining, new.terms.source) == (25, op.GrantSource.REFUND)
    assert new.terms.expires_at_ms == both.real.clock.now_ms + 60_000


async def test_goodwill_leaves_what_became_of_the_expired_grant(both: Both) -> None:
    """What was paid for it is burned or expired, to the unit; what comes anew costs nothing."""
    await both.account("a")
    old = await both.grant("a", 40, expires_at_ms=START_MS + 5_000, cost_amount=990)
    transaction = await burned(both, "a", 30)
    both.real.clock.now_ms += 10_000

    await both.do(refund(both, transaction, 25, goodwill_ttl_ms=60_000))

    await both.flushed()
    grants = {each.grant_id: each for each in await both.ledger.list_grants("t", "a", limit=10)}
    assert (grants[old].burned, grants[old].expired) == (30, 10)
    assert all(
        each.terms.amount == each.remaining + each.held + each.burned + each.expired + each.revoked
        for each in grants.values()
    )


async def test_debt_shrinks_before_grants_get_anything(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 40)
    held = await both.reserve("a", 40)
    committed = await both.commit(held.hold, 55)

    answer = await both.do(refund(both, committed.applied.transaction_id, 25))

    assert (answer.lines[0].debt, answer.lines[0].grants[0].returned) == (15, 10)
    assert await both.buckets("a") == Buckets(granted=40, available=10, burned=30)


async def test_debt_that_was_repaid_comes_back_as_credits(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 10)
    hold = await both.reserve("a", 10)
    committed = await both.commit(hold.hold, 30)
    await both.grant("a", 20)
    assert await both.buckets("a") == Buckets(granted=30, burned=30)

    answer = await both.do(refund(both, committed.applied.transaction_id, 20))

    assert answer.lines[0].debt == 0
    assert await both.buckets("a") == Buckets(granted=30, available=20, burned=10)


async def test_unenforced_use_is_taken_back(both: Both) -> None:
    await both.account("a")
    both.real.mode.now = Mode.SHADOW
    transaction = await burned(both, "a", 30)

    answer = await both.do(refund(both, transaction, 10))

    assert answer.lines[0].unenforced == 10
    assert await both.buckets("a") == Buckets(unenforced=20, burned=20)


async def test_pool_credits_go_back_to_the_pool(both: Both) -> None:
    await both.account("org")
    await both.account("user", parent="org")
    await both.grant("org", 50)
    await both.grant("user", 10)
    transaction = await burned(both, "user", 40)

    await both.do(refund(both, transaction, 35))

    assert (await both.buckets("org")).available == 50
    assert (await both.buckets("user")).available == 5


async def test_unknown_transactions_and_credit_types_are_refused(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 50)
    transaction = await burned(both, "a", 40)
    other = op.Refund("t", transaction, both.key(), (op.RefundLine("video", 1),))

    unknown = [await both.do(refund(both, name)) for name in ("0-1-999", "99-1-1", "x", "0-1-1")]
    foreign = await both.do(op.Refund("u", transaction, both.key()))

    assert {answer.reason for answer in [*unknown, foreign]} == {Reason.TRANSACTION_NOT_FOUND}
    assert (await both.do(other)).reason is Reason.LINE_UNKNOWN


async def test_a_revoked_grant_gets_nothing_that_could_be_spent(both: Both) -> None:
    """Nothing was left to take when it was revoked; what is given back follows all the same."""
    await both.account("a")
    grant = await both.grant("a", 100)
    held = await both.reserve("a", 100)
    revoked = await both.do(op.Revoke("t", "a", grant, both.key(), "chargeback"))
    committed = await both.commit(held.hold)

    answer = await both.do(refund(both, committed.applied.transaction_id, 60))

    assert (revoked.revoked, revoked.still_held) == (0, 100)
    assert answer.lines[0].grants[0].revoked == 60
    assert await both.buckets("a") == Buckets(granted=100, burned=40, revoked=60)


async def test_a_grant_that_is_spent_can_be_revoked(both: Both) -> None:
    """A chargeback of credits that were used: a refund of their use must not bring them back."""
    await both.account("a")
    grant = await both.grant("a", 100)
    transaction = await burned(both, "a", 100)
    key = both.key()
    revoke = op.Revoke("t", "a", grant, key, "chargeback", op.Durability.MEMORY)

    revoked = await both.do(revoke)
    again = await both.do(revoke)
    answer = await both.do(refund(both, transaction, 60))

    assert (revoked.revoked, revoked.still_held) == (0, 0)
    assert revoked.buckets == Buckets(granted=100, burned=100)
    assert again == replace(revoked, applied=replace(revoked.applied, replayed=True))
    assert answer.lines[0].grants[0].revoked == 60
    assert await both.buckets("a") == Buckets(granted=100, burned=40, revoked=60)


async def test_only_a_grant_of_the_account_can_be_revoked(both: Both) -> None:
    await both.account("a")
    await both.account("b")
    spent = await both.grant("a", 10)
    await burned(both, "a", 10)

    for account, grant in (("b", spent), ("a", "0" * 32)):
        answer = await both.do(op.Revoke("t", account, grant, both.key()))
        assert (answer.reason, answer.metadata) == (Reason.GRANT_NOT_FOUND, {"grant_id": grant})


async def test_a_refund_that_is_planned_while_a_spent_grant_is_revoked_is_planned_again(
    both: Both,
) -> None:
    await both.account("a")
    grant = await both.grant("a", 40)
    transaction = await burned(both, "a", 40)
    await both.flushed()
    asked = both.ledger.burned_by

    async def revoked_meanwhile(tenant: str, transaction_id: str) -> BurnedTransaction | None:
        found = await asked(tenant, transaction_id)
        await both.do(op.Revoke("t", "a", grant, "revoke", durability=op.Durability.MEMORY))
        return found

    with patch.object(both.ledger, "burned_by", revoked_meanwhile):
        answer = await both.do(refund(both, transaction, 30))

    assert [share.revoked for share in answer.lines[0].grants] == [30]
    assert await both.buckets("a") == Buckets(granted=40, burned=10, revoked=30)


async def test_each_source_of_a_shadow_hold_gets_its_own_back(both: Both) -> None:
    """Overdraft was drawn before the unenforced rest, so that rest is given back first."""
    await both.account("a", overdraft_limits={"ai": 40})
    both.real.mode.now = Mode.SHADOW
    held = await both.reserve("a", 100)
    await both.commit(held.hold, 30, final=False)
    committed = await both.commit(held.hold)

    first = await both.do(refund(both, committed.applied.transaction_id, 65))

    assert (first.lines[0].unenforced, first.lines[0].debt) == (60, 5)
    assert await both.buckets("a") == Buckets(debt=35, burned=35)


async def test_a_refund_brings_back_no_more_grants_than_may_be_open(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 40)
    transaction = await burned(both, "a", 40)
    given = op.GrantTerms("ai", 1, op.GrantSource.PURCHASE)
    memory = op.Durability.MEMORY
    many = [op.Grant("t", "a", given, both.key(), memory) for _ in range(GRANTS_MAX)]
    await both.do_all(many)

    answer = await both.do(refund(both, transaction, 10))

    assert answer.reason is Reason.ACCOUNT_FULL
    assert (await both.buckets("a")).burned == 40


async def test_a_batch_of_refunds_is_planned_together(both: Both) -> None:
    """They wait for the ledger at one time, not one after the other."""
    accounts = [f"a{n}" for n in range(20)]
    for account in accounts:
        await both.account(account)
        await both.grant(account, 10)
    transactions = [await burned(both, account, 10) for account in accounts]
    planning = [0, 0]
    burned_by = both.ledger.burned_by

    async def watched(tenant: str, transaction_id: str) -> BurnedTransaction | None:
        planning[0] += 1
        planning[1] = max(planning)
        try:
            return await burned_by(tenant, transaction_id)
        finally:
            planning[0] -= 1

    with patch.object(both.ledger, "burned_by", watched):
        answers = await both.do_all([refund(both, each, 4) for each in transactions])

    assert [answer.lines[0].refunded for answer in answers] == [4] * len(accounts)
    assert 1 < planning[1] <= ASK_AT_ONCE_MAX
    assert await both.buckets("a7") == Buckets(granted=10, available=4, burned=6)


async def test_a_transaction_has_one_name(both: Both) -> None:
    """Else what was refunded under one would not be known under the other."""
    await both.account("a")
    await both.grant("a", 100)
    transaction = await burned(both, "a", 50)
    await burned(both, "a", 50)
    partition, epoch, seq = transaction.split("-")

    first = await both.do(refund(both, transaction))
    others = [f"{partition}-{epoch}-0{seq}", f"0{partition}-{epoch}-{seq}", f"{transaction} "]
    again = [await both.do(refund(both, other)) for other in others]

    assert first.lines[0].refunded == 50
    assert [each.reason for each in again] == [Reason.TRANSACTION_NOT_FOUND] * len(others)
    assert await both.buckets("a") == Buckets(granted=100, available=50, burned=50)


@pytest.mark.parametrize("way", ["burn", "commit", "overage"])
async def test_debt_shrinks_before_the_grants_of_a_parent_get_anything(
    both: Both, way: str
) -> None:
    """It was drawn last, although it is the account's own."""
    await both.account("org")
    await both.account("user", parent="org", overdraft_limits={"ai": 100})
    await both.grant("org", 50)
    await both.grant("user", 10)
    if way == "burn":
        transaction = await burned(both, "user", 100)
    else:
        held = await both.reserve("user", 100 if way == "commit" else 5)
        transaction = (await both.commit(held.hold, 100)).applied.transaction_id

    answer = await both.do(refund(both, transaction, 50))

    shares = [(share.account, share.returned) for share in answer.lines[0].grants]
    assert (answer.lines[0].debt, shares) == (40, [("org", 10)])


async def test_use_that_was_only_booked_is_taken_back(both: Both) -> None:
    """As a Commit names it that settles what had been let through."""
    await both.account("a")
    await both.grant("a", 100)
    booked = await both.do(op.BookUnenforced("t", "a", (op.Line("ai", 30),), both.key()))

    answer = await both.do(refund(both, booked.applied.transaction_id, 10))

    assert answer.lines[0].unenforced == 10
    assert await both.buckets("a") == Buckets(granted=100, unenforced=20, available=100, burned=20)


@pytest.mark.parametrize("owner", ["a", "org"])
async def test_what_is_revoked_while_a_refund_is_planned_does_not_come_back(
    both: Both, owner: str
) -> None:
    """The store has forgotten the grant by then, and the ledger was read before. The key proves
    itself, so nothing else has it read again.
    """
    await both.account("org")
    await both.account("a", parent="org")
    grant = await both.grant(owner, 40)
    transaction = await burned(both, "a", 30)
    burned_by = both.ledger.burned_by

    async def revoked_meanwhile(tenant: str, transaction_id: str) -> BurnedTransaction | None:
        found = await burned_by(tenant, transaction_id)
        await both.do(op.Revoke("t", owner, grant, "revoke", durability=op.Durability.MEMORY))
        return found

    with patch.object(both.ledger, "burned_by", revoked_meanwhile):
        key = uuid7(both.real.clock.now_ms)
        answer = await both.do(replace(refund(both, transaction), key=key))

    assert [share.revoked for share in answer.lines[0].grants] == [30]
    assert await both.buckets(owner) == Buckets(granted=40, revoked=40)
