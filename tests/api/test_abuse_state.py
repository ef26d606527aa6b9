"""Requests that are well formed and wrong all the same: rows A15, A19 to A30, A33, A55 and A72."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import grpc
import pytest

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import types_pb2 as types
from holdfast_server.domain.operation import Line
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner
from holdfast_server.errors import Reason
from tests.api.world import World, eventually, uuid7
from tests.support.wire import refused

#: Texts that mean something to a database, a shell, a template or a log.
HOSTILE_TEXTS = [
    "'; DROP TABLE ledger.entry; --",
    "' OR '1'='1",
    '"; SELECT pg_sleep(10); --',
    "$1 %s %(tenant)s {0} {tenant} \\x00 \\",
    "1); DELETE FROM ledger.entry WHERE (1=1",
    '\n{"level":"info","message":"all is well"}',
    "\x1b[2J\x1b[31mred\x07",
    "\u202ereversed\u200b \U0001f4a3 \ufeff",
    "__proto__",
    "../../etc/passwd",
    "<script>alert(1)</script>",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
async def test_a15_a55_hostile_text_is_kept_as_it_is(world: World, text: str) -> None:
    account = await world.create_account(credits=100, display_name=text, labels={text: text})
    labels = {text: text, "plain": text}
    hold = await world.hold(account, 10, labels=labels)
    await world.client.balance.Release(world.release(hold, reason=text))
    released, held, _, created = await world.entries(account, at_least=4)
    assert released.reason == text
    assert dict(held.labels) == labels
    assert created.labels == {} or created.labels[text] == text
    found = await world.client.accounts.GetAccount(
        accounts.GetAccountRequest(tenant=world.tenant, account=account)
    )
    assert found.account.display_name == text
    assert dict(found.account.labels) == {text: text}


def other_content(child: str) -> dict[str, dict[str, Any]]:
    """For each field of a Reserve that is content, another value."""
    return {
        "account": {"account": child},
        "lines": {"lines": [types.Line(credit_type="ai", amount=11)]},
        "ttl_ms": {"ttl_ms": 60_001},
        "feature": {"feature": "chat"},
        "labels": {"labels": {"k": "v"}},
        "fit": {"fit": types.FIT_UP_TO},
    }


async def test_a19_same_key_with_other_content(world: World) -> None:
    account = await world.create_account(credits=100)
    child = await world.create_account(parent=account)
    key = uuid7()
    first = await world.client.balance.Reserve(world.reserve(account, idempotency_key=key))
    for name, change in other_content(child).items():
        request = world.reserve(**{"account": account, "idempotency_key": key, **change})
        call = world.client.balance.Reserve(request)
        refusal = await world.refuses(call, Reason.IDEMPOTENCY_KEY_REUSED, account)
        assert refusal.metadata == {"field": name}
    again = await world.client.balance.Reserve(world.reserve(account, idempotency_key=key))
    assert again.applied.replayed
    again.applied.replayed = False
    assert again == first


async def test_a19_same_key_with_other_content_of_a_commit(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account, 50)
    key = uuid7()
    lines = [balance.CommitLine(credit_type="ai", amount=20)]
    commit = world.commit(hold, lines=lines, idempotency_key=key)
    await world.client.balance.Commit(commit)
    changes: dict[str, dict[str, Any]] = {
        "lines": {"lines": [balance.CommitLine(credit_type="ai", amount=21)]},
        "final": {"final": False},
        "overage": {"overage": types.OVERAGE_REJECT},
        "labels": {"labels": {"k": "v"}},
        "hold_id": {"hold_id": await world.hold(account, 1)},
    }
    for name, change in changes.items():
        fields: dict[str, Any] = {"hold": hold, "lines": lines, "idempotency_key": key}
        if "hold_id" in change:
            fields["hold"] = change["hold_id"]
        else:
            fields |= change
        call = world.client.balance.Commit(world.commit(**fields))
        refusal = await world.refuses(call, Reason.IDEMPOTENCY_KEY_REUSED, account)
        assert refusal.metadata == {"field": name}


async def test_a19_labels_are_the_same_in_any_order(world: World) -> None:
    account = await world.create_account(credits=100)
    key, pairs = uuid7(), [(f"k{number}", "v") for number in range(16)]
    forwards = world.burn(account, idempotency_key=key, labels=dict(pairs))
    backwards = world.burn(account, idempotency_key=key, labels=dict(reversed(pairs)))
    await world.client.balance.Burn(forwards)
    assert (await world.client.balance.Burn(backwards)).applied.replayed


async def test_a19_a_denial_is_remembered(world: World) -> None:
    account = await world.create_account(credits=1)
    request = world.reserve(account, 10)
    denied = await world.client.balance.Reserve(request)
    assert denied.decision.outcome == types.OUTCOME_DENIED
    await world.client.grants.Grant(world.grant(account, amount=100))
    again = await world.client.balance.Reserve(request)
    assert again.applied.replayed
    assert again.decision == denied.decision


async def test_a20_same_key_for_another_method(world: World) -> None:
    account = await world.create_account(credits=100)
    key = uuid7()
    reserved = await world.client.balance.Reserve(world.reserve(account, 10, idempotency_key=key))
    burned = await world.client.balance.Burn(world.burn(account, 10, idempotency_key=key))
    committed = await world.client.balance.Commit(
        world.commit(reserved.hold_id, idempotency_key=key)
    )
    answers = (reserved, burned, committed)
    assert not any(answer.applied.replayed for answer in answers)
    assert (await world.buckets(account)).burned == 20


async def test_a21_same_key_in_another_tenant(world: World) -> None:
    other = World(world.service, world.client, f"{world.tenant}-b")
    await other.create_credit_type("ai")
    account = await world.create_account(credits=100, account="same")
    await other.create_account(credits=100, account="same")
    key = uuid7()
    for one in (world, other):
        answer = await one.client.balance.Burn(one.burn(account, 10, idempotency_key=key))
        assert not answer.applied.replayed
        assert (await one.buckets(account)).burned == 10


async def test_a22_a_key_that_is_older_than_the_window_is_applied_once(world: World) -> None:
    account = await world.create_account(credits=100)
    hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000
    for key in (uuid7(hour_ago_ms), "no-time-in-this-key"):
        request = world.burn(account, 10, idempotency_key=key)
        first = await world.client.balance.Burn(request)
        again = await world.client.balance.Burn(request)
        assert again.applied.replayed
        assert again.applied.transaction_id == first.applied.transaction_id
    assert (await world.buckets(account)).burned == 20


async def settlements_are_refused(world: World, hold: str, account: str) -> set[tuple[str, str]]:
    """What Commit, Release and Extend of a hold id answer, none of them changing anything."""
    client = world.client
    extend = balance.ExtendRequest(
        tenant=world.tenant, hold_id=hold, ttl_ms=60_000, idempotency_key=uuid7()
    )
    calls: list[Any] = [
        client.balance.Commit(world.commit(hold)),
        client.balance.Release(world.release(hold)),
        client.balance.Extend(extend),
    ]
    found = set()
    for call in calls:
        refusal = await world.refuses(call, Reason.HOLD_NOT_FOUND, account)
        found.add((refusal.message, str(refusal.metadata)))
    return found


def forged(account: str, tenant: str) -> str:
    """A well-formed token under a key of the forger's own."""
    signer = TokenSigner({1: b"k" * 32}, 1)
    return signer.issue(tenant, HoldToken(TokenKind.HELD, account, account, bytes(16)))


def bypassed(account: str, tenant: str) -> str:
    """The same for work that was let through, which would be booked without a hold."""
    signer = TokenSigner({1: b"k" * 32}, 1)
    lines = (Line("ai", 10),)
    token = HoldToken(TokenKind.BYPASSED, account, account, bytes(16), "", lines)
    return signer.issue(tenant, token)


async def test_a24_a25_unknown_and_forged_holds_get_one_answer(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    raw = base64.urlsafe_b64decode(hold + "=" * (-len(hold) % 4))
    tampered = [
        base64.urlsafe_b64encode(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :]).rstrip(b"=").decode()
        for i in range(len(raw))
    ]
    guesses = [
        *("", "x", "0" * 64, "a:b", "\n", "\u0430" * 20, "{p00}", "x" * 900_000),
        *(hold[:-1], hold + "A", hold + "=", " " + hold, hold.swapcase()),
        *(forged(account, world.tenant), bypassed(account, world.tenant)),
        base64.urlsafe_b64encode(struct.pack(">Q", 1) * 8).decode(),
    ]
    answers: set[tuple[str, str]] = set()
    for guess in guesses:
        answers |= await settlements_are_refused(world, guess, account)
    async with world.unchanged(account):
        for guess in tampered:
            refusal = await refused(
                world.client.balance.Commit(world.commit(guess)), Reason.HOLD_NOT_FOUND
            )
            answers.add((refusal.message, str(refusal.metadata)))
    assert len(answers) == 1
    await world.client.balance.Commit(world.commit(hold))


async def test_a26_the_hold_of_another_tenant(world: World) -> None:
    other = World(world.service, world.client, f"{world.tenant}-b")
    await other.create_credit_type("ai")
    account = await world.create_account(credits=100, account="same")
    await other.create_account(credits=100, account="same")
    hold = await world.hold(account)
    async with world.unchanged(account):
        theirs = await settlements_are_refused(other, hold, "same")
        assert theirs == await settlements_are_refused(other, "guess", "same")


async def test_a27_a_second_commit(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account, 50)
    lines = [balance.CommitLine(credit_type="ai", amount=20)]
    first = await world.client.balance.Commit(world.commit(hold, lines=lines))
    for amount in (20, 21, 0):
        again = world.commit(hold, lines=[balance.CommitLine(credit_type="ai", amount=amount)])
        call = world.client.balance.Commit(again)
        refusal = await world.refuses(call, Reason.HOLD_ALREADY_COMMITTED, account)
        assert refusal.metadata["transaction_id"] == first.applied.transaction_id
        assert "20" in refusal.metadata["committed"]


async def test_a28_release_after_commit_and_commit_after_release(world: World) -> None:
    account = await world.create_account(credits=100)
    committed, released = [await world.hold(account) for _ in range(2)]
    client = world.client.balance
    await client.Commit(world.commit(committed))
    await client.Release(world.release(released))
    for call in (
        client.Release(world.release(committed)),
        client.Commit(world.commit(released)),
        client.Release(world.release(released)),
    ):
        refusal = await world.refuses(call, Reason.HOLD_ALREADY_SETTLED, account)
        assert refusal.metadata["state"]


async def test_a29_a_commit_above_its_hold_is_booked(world: World) -> None:
    account = await world.create_account(credits=30)
    hold = await world.hold(account, 20)
    lines = [balance.CommitLine(credit_type="ai", amount=50)]
    answer = await world.client.balance.Commit(world.commit(hold, lines=lines))
    (line,) = answer.lines
    assert (line.burned, line.overage, line.debt) == (50, 30, 20)
    buckets = await world.buckets(account)
    assert (buckets.available, buckets.burned, buckets.debt) == (0, 50, 20)


async def test_a29_a_rejected_overage_changes_nothing(world: World) -> None:
    account = await world.create_account(credits=30)
    hold = await world.hold(account, 20)
    lines = [balance.CommitLine(credit_type="ai", amount=21)]
    request = world.commit(hold, lines=lines, overage=types.OVERAGE_REJECT)
    async with world.unchanged(account):
        answer = await world.client.balance.Commit(request)
    assert answer.decision.outcome == types.OUTCOME_DENIED
    assert answer.decision.reason == Reason.OVERAGE_REJECTED.value
    assert answer.state == types.HOLD_STATE_OPEN


async def test_a30_a_commit_after_expiry_is_booked_and_marked(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account, 20, ttl_ms=1_000)

    async def has_expired() -> bool:
        return (await world.balance(account)).open_holds == 0

    await eventually(has_expired)
    answer = await world.client.balance.Commit(world.commit(hold))
    assert answer.late
    assert answer.lines[0].burned == 20
    buckets = await world.buckets(account)
    assert (buckets.available, buckets.held, buckets.burned) == (80, 0, 20)
    kinds = [entry.kind for entry in await world.entries(account, at_least=5)]
    assert kinds[:2] == [ledger.ENTRY_KIND_LATE_COMMIT, ledger.ENTRY_KIND_HOLD_EXPIRED]


async def test_a33_unknown_accounts(world: World) -> None:
    known, client, tenant = await world.create_account(credits=1), world.client, world.tenant
    update = accounts.UpdateAccountRequest(
        tenant=tenant, account=accounts.Account(account="nobody"), idempotency_key=uuid7()
    )
    update.update_mask.paths.append("zone")
    calls: list[Any] = [
        client.balance.Reserve(world.reserve("nobody")),
        client.balance.Burn(world.burn("nobody")),
        client.balance.Balance(balance.BalanceRequest(tenant=tenant, account="nobody")),
        client.balance.ListHolds(balance.ListHoldsRequest(tenant=tenant, account="nobody")),
        client.grants.Grant(world.grant("nobody")),
        client.accounts.GetAccount(accounts.GetAccountRequest(tenant=tenant, account="nobody")),
        client.accounts.UpdateAccount(update),
        client.grants.Revoke(
            grants.RevokeRequest(
                tenant=tenant, account="nobody", grant_id="0" * 32, idempotency_key=uuid7()
            )
        ),
    ]
    for call in calls:
        refusal = await world.refuses(call, Reason.ACCOUNT_NOT_FOUND, known)
        assert refusal.metadata == {"account": "nobody"}


@pytest.mark.parametrize("grant_id", ["0" * 32, "no-such-grant", "A" * 32])
async def test_a33_unknown_grants(world: World, grant_id: str) -> None:
    account = await world.create_account(credits=1)
    request = grants.RevokeRequest(
        tenant=world.tenant, account=account, grant_id=grant_id, idempotency_key=uuid7()
    )
    call = world.client.grants.Revoke(request)
    refusal = await world.refuses(call, Reason.GRANT_NOT_FOUND, account)
    assert refusal.metadata == {"grant_id": grant_id}


@pytest.mark.parametrize(
    "transaction", ["0-1-999999", "63-7-1", "9999-1-1", "1-9999999999999999-1", "-", "x", "1-2"]
)
async def test_a33_unknown_transactions(world: World, transaction: str) -> None:
    account = await world.create_account(credits=1)
    refund = balance.RefundRequest(
        tenant=world.tenant, transaction_id=transaction, idempotency_key=uuid7()
    )
    explain = ledger.ExplainRequest(tenant=world.tenant, transaction_id=transaction)
    calls: list[Any] = [
        world.client.balance.Refund(refund),
        world.client.ledger.Explain(explain),
    ]
    for call in calls:
        refusal = await world.refuses(call, Reason.TRANSACTION_NOT_FOUND, account)
        assert refusal.metadata == {"transaction_id": transaction}


async def test_a33_unknown_credit_types(world: World) -> None:
    account = await world.create_account(credits=1)
    lines = [types.Line(credit_type="nothing", amount=1)]
    calls: list[Any] = [
        world.client.balance.Reserve(world.reserve(account, lines=lines)),
        world.client.grants.Grant(world.grant(account, credit_type="nothing")),
    ]
    for call in calls:
        refusal = await world.refuses(call, Reason.CREDIT_TYPE_NOT_FOUND, account)
        assert refusal.metadata == {"credit_type": "nothing"}


async def test_a72_no_time_at_all(world: World) -> None:
    account = await world.create_account(credits=100)
    request = world.burn(account, 10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.client.balance.Burn(request, timeout=1e-9)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # Whether it was applied is not known; retrying with the same key makes it once, for sure.
    await world.client.balance.Burn(request)
    assert (await world.buckets(account)).burned == 10


async def test_a72_all_the_time_in_the_world(world: World) -> None:
    account = await world.create_account(credits=100)
    await world.client.balance.Burn(world.burn(account, 10), timeout=100 * 365 * 86_400)
    assert (await world.buckets(account)).burned == 10
