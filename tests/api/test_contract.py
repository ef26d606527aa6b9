"""What the comments of the protos say, where nothing else makes it so."""

from __future__ import annotations

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import control_service_pb2 as control
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import reason_pb2 as reason
from holdfast.v1 import types_pb2 as types
from holdfast_server.domain import bounds
from holdfast_server.errors import Reason
from tests.api.world import World, eventually, uuid7
from tests.support.wire import refused


def test_the_protos_are_one_package_in_go() -> None:
    """Without a name for it no Go code can be made of them; they import nothing of each other then,
    so that the package may lie in any module.
    """
    files = [accounts, balance, control, grants, ledger, reason, types]
    names = {each.DESCRIPTOR.GetOptions().go_package for each in files}
    assert names == {"holdfast/v1;holdfastv1"}


async def test_an_explanation_of_nothing_is_told_what_it_lacks(world: World) -> None:
    request = ledger.ExplainRequest(tenant=world.tenant)
    refusal = await refused(world.client.ledger.Explain(request), Reason.FIELD_INVALID)
    assert refusal.metadata == {"field": "subject"}


async def test_one_credit_type_too_many_is_refused_by_the_field_that_names_it(
    world: World,
) -> None:
    for number in range(1, bounds.CREDIT_TYPES_MAX):
        await world.create_credit_type(f"c{number}")
    request = accounts.CreateCreditTypeRequest(
        tenant=world.tenant, credit_type=types.CreditType(credit_type="more")
    )
    call = world.client.accounts.CreateCreditType(request)
    refusal = await refused(call, Reason.FIELD_INVALID)
    assert refusal.metadata == {
        "field": "credit_type.credit_type",
        "maximum": str(bounds.CREDIT_TYPES_MAX),
    }


async def test_no_expired_hold_is_said_to_stay_open(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account, 10, ttl_ms=1_000)
    release = world.release(hold)

    async def is_over() -> bool:
        return (await world.balance(account)).open_holds == 0

    await eventually(is_over)
    await refused(world.client.balance.Release(release), Reason.HOLD_EXPIRED)
    lines = [balance.CommitLine(credit_type="ai", amount=11)]
    answer = await world.client.balance.Commit(
        world.commit(hold, lines=lines, overage=types.OVERAGE_REJECT)
    )
    assert answer.state == types.HOLD_STATE_EXPIRED
    assert answer.decision.reason == Reason.OVERAGE_REJECTED.value
    assert "open" not in answer.decision.message


async def test_no_limit_or_overdraft_counts_a_credit_type_that_is_not_defined(
    world: World,
) -> None:
    """A misspelt one would let everything pass."""
    limit = types.Limit(
        limit_id="daily",
        unit=types.Limit.UNIT_AMOUNT,
        credit_type="a1",
        window=types.Limit.WINDOW_CALENDAR_DAY,
        maximum=1,
        enforcement=types.Limit.ENFORCEMENT_HARD,
    )
    known = await world.create_account()
    for terms in ({"limits": [limit]}, {"overdraft_limits": {"a1": 5}}):
        account = accounts.Account(account=known, **terms)
        update = accounts.UpdateAccountRequest(
            tenant=world.tenant, account=account, idempotency_key=uuid7()
        )
        update.update_mask.paths.extend(terms)
        call = world.client.accounts.UpdateAccount(update)
        refusal = await refused(call, Reason.CREDIT_TYPE_NOT_FOUND)
        assert refusal.metadata == {"credit_type": "a1"}
        await refused(world.create_account(account="new", **terms), Reason.CREDIT_TYPE_NOT_FOUND)
        await refused(world.balance("new"), Reason.ACCOUNT_NOT_FOUND)
        update.update_mask.paths[:] = ["labels"]
        await world.client.accounts.UpdateAccount(update)


async def test_an_account_that_was_read_may_be_sent_back_whole(world: World) -> None:
    """Its zone may have been removed from the database of zones since it was set."""
    name = await world.create_account(display_name="before", zone="UTC")
    asked = accounts.GetAccountRequest(tenant=world.tenant, account=name)
    whole = (await world.client.accounts.GetAccount(asked)).account
    whole.zone, whole.display_name = "Mars/Base", "after"
    update = accounts.UpdateAccountRequest(
        tenant=world.tenant, account=whole, idempotency_key=uuid7()
    )
    update.update_mask.paths.append("display_name")
    updated = (await world.client.accounts.UpdateAccount(update)).account
    assert (updated.display_name, updated.zone) == ("after", "UTC")
    whole.zone = "Mars/Outpost"
    update.account.CopyFrom(whole)
    again = await world.client.accounts.UpdateAccount(update)
    assert (again.account, again.applied.replayed) == (updated, True)


async def test_no_limit_with_room_left_is_said_to_be_used_up(world: World) -> None:
    limit = types.Limit(
        limit_id="daily",
        unit=types.Limit.UNIT_AMOUNT,
        credit_type="ai",
        window=types.Limit.WINDOW_CALENDAR_DAY,
        maximum=100,
        enforcement=types.Limit.ENFORCEMENT_HARD,
    )
    account = await world.create_account(credits=1_000, limits=[limit])
    await world.hold(account, 80)
    answer = await world.client.balance.Reserve(world.reserve(account, 30))
    assert answer.decision.reason == Reason.LIMIT_EXCEEDED.value
    assert answer.decision.limit.remaining == 20
    assert "has 80 of 100 used" in answer.decision.message
