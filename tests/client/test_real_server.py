"""Both clients against a real service: every method, and what only a real one can promise."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast import (
    AccountStatus,
    AlreadyExists,
    AsyncClient,
    Client,
    Conflict,
    Denied,
    Durability,
    EntryKind,
    FailedPrecondition,
    GrantSource,
    HoldState,
    InvalidRequest,
    Limit,
    LimitUnit,
    LimitWindow,
    Mode,
    NotFound,
    Outcome,
    Overage,
    Policy,
    ResourceExhausted,
    Scope,
    ScopeKind,
    operations,
)
from tests.support.server import PATIENCE_S, RunningService
from tests.support.waiting import until


class Awaited:
    """A threaded client with the face of the asyncio one, so that one test tries both."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name.startswith("list_") and name not in {"list_credit_types", "list_policies"}:
            return lambda *args, **named: _iterate(method(*args, **named))
        return lambda *args, **named: asyncio.to_thread(method, *args, **named)


async def _iterate(items: Any) -> AsyncIterator[Any]:
    for item in await asyncio.to_thread(list, items):
        yield item


@pytest.fixture(params=["asyncio", "threads"])
async def client(
    request: pytest.FixtureRequest, holdfast_server: RunningService
) -> AsyncIterator[Any]:
    """Either client."""
    if request.param == "asyncio":
        async with AsyncClient(holdfast_server.target) as one:
            await one.create_credit_type("credits")
            yield one
    else:
        with Client(holdfast_server.target) as threaded:
            threaded.create_credit_type("credits")
            yield Awaited(threaded)


@pytest.fixture
async def acct(client: Any) -> str:
    """An account with 1,000 credits."""
    name = f"acct-{uuid.uuid4().hex[:12]}"
    await client.create_account(name)
    await client.grant(
        name, 1_000, source=GrantSource.PURCHASE, cost_amount=500, cost_currency="USD"
    )
    return name


async def test_reserve_extend_capture_commit(client: Any, acct: str) -> None:
    placed = await client.reserve(acct, 300, feature="chat", ttl_ms=30_000, labels={"model": "m"})
    assert placed.decision.outcome is Outcome.GRANTED
    assert (placed.lines[0].held, placed.lines[0].available_after) == (300, 700)
    extended = await client.extend(placed.hold_id, 60_000)
    assert extended.expires_at_ms > placed.expires_at_ms
    part = await client.commit(placed.hold_id, 100, final=False)
    assert (part.state, part.lines[0].held_after) == (HoldState.OPEN, 200)
    rest = await client.commit(placed.hold_id, 50)
    assert (rest.state, rest.lines[0].burned, rest.lines[0].returned) == (
        HoldState.COMMITTED,
        50,
        150,
    )
    assert rest.lines[0].grants[0].account == acct
    balance = await client.balance(acct)
    assert (balance.spendable("credits"), balance.spendable("other")) == (850, 0)
    assert balance.credits[0].buckets.burned == 150


async def test_release_and_open_holds(client: Any, acct: str) -> None:
    placed = await client.reserve(acct, 300)
    holds = [hold async for hold in client.list_holds(acct)]
    assert [hold.lines[0].held for hold in holds] == [300]
    assert (holds[0].account, holds[0].mode) == (acct, Mode.ENFORCE)
    released = await client.release(placed.hold_id, reason="not needed")
    assert released.lines[0].returned == 300
    assert [hold async for hold in client.list_holds(acct)] == []
    with pytest.raises(FailedPrecondition) as raised:
        await client.commit(placed.hold_id, 1)
    assert raised.value.reason == "HOLD_ALREADY_SETTLED"


async def test_a_denial_is_an_answer(client: Any, acct: str) -> None:
    result = await client.burn(acct, 1_200)
    assert result.decision.outcome is Outcome.DENIED
    assert not result.decision.allowed
    assert result.decision.reason == "INSUFFICIENT_CREDITS"
    assert (result.decision.shortfalls[0].available, result.decision.shortfalls[0].shortfall) == (
        1_000,
        200,
    )
    partial = await client.reserve(acct, 1_200, minimum=900)
    assert partial.decision.outcome is Outcome.GRANTED_PARTIAL
    assert partial.lines[0].held == 1_000


async def test_an_operation_longer_than_a_server_reads_fails_alone(client: Any, acct: str) -> None:
    """Its neighbours are answered; it ends as a call of its own would, and applies nothing."""
    short = [client.burn(acct, 1) for _ in range(16)]
    long = client.burn(acct, 1, labels={"label": "x" * (2 << 20)})
    burned: list[Any]
    *burned, ended = await asyncio.gather(*short, long, return_exceptions=True)
    assert isinstance(ended, ResourceExhausted)
    assert all(each.decision.allowed for each in burned)
    assert (await client.balance(acct)).credits[0].buckets.burned == len(burned)


async def test_the_same_key_is_applied_once(client: Any, acct: str) -> None:
    first = await client.burn(acct, 100, key=f"order-{acct}")
    again = await client.burn(acct, 100, key=f"order-{acct}")
    assert again.applied.replayed
    assert again.applied.transaction_id == first.applied.transaction_id
    assert (await client.balance(acct)).spendable("credits") == 900
    with pytest.raises(AlreadyExists) as raised:
        await client.burn(acct, 101, key=f"order-{acct}")
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert not raised.value.result_unknown


async def test_every_mutation_is_applied_once_whatever_happened_since(
    client: Any, acct: str
) -> None:
    held = await client.reserve(acct, 100)
    other = await client.reserve(acct, 100)
    burned = await client.burn(acct, 100)
    given = await client.grant(acct, 50, source=GrantSource.SUPPORT)
    child = f"{acct}-child"
    mutations: list[Callable[[str], Any]] = [
        lambda key: client.reserve(acct, 10, key=key),
        lambda key: client.extend(held.hold_id, 50_000, key=key),
        lambda key: client.commit(held.hold_id, 10, final=False, key=key),
        lambda key: client.commit(held.hold_id, 20, key=key),
        lambda key: client.release(other.hold_id, key=key),
        lambda key: client.burn(acct, 10, key=key),
        lambda key: client.refund(burned.applied.transaction_id, 40, key=key),
        lambda key: client.refund(burned.applied.transaction_id, key=key),
        lambda key: client.grant(acct, 5, source=GrantSource.SUPPORT, key=key),
        lambda key: client.revoke(acct, given.grant_id, key=key),
        lambda key: client.create_account(child, parent=acct, key=key),
        lambda key: client.update_account(child, display_name="x", key=key),
    ]
    keys = [f"{acct}-{number}" for number in range(len(mutations))]
    first = [await mutate(key) for mutate, key in zip(mutations, keys, strict=True)]
    before = await client.balance(acct)
    again = [await mutate(key) for mutate, key in zip(mutations, keys, strict=True)]
    for one, other_time in zip(first, again, strict=True):
        assert not one.applied.replayed
        assert other_time.applied.replayed
        assert other_time.applied.transaction_id == one.applied.transaction_id
    after = await client.balance(acct)
    assert after.credits == before.credits


async def recorded(client: Any, result: Any) -> None:
    """Waits until the ledger has an operation, however busy the machine is."""
    applied = result.applied

    async def is_recorded() -> bool:
        reached = await client.await_durable(applied.transaction_id, seq=applied.seq)
        return bool(reached is Durability.LEDGER)

    await until(is_recorded)


async def test_refund(client: Any, acct: str) -> None:
    burned = await client.burn(acct, 400, durability=Durability.LEDGER)
    await recorded(client, burned)
    refund = await client.refund(burned.applied.transaction_id, 150, reason_code="quality")
    assert (refund.lines[0].refunded, refund.lines[0].available_after) == (150, 750)
    rest = await client.refund(burned.applied.transaction_id)
    assert rest.lines[0].refunded == 250


async def test_a_commit_above_the_hold(client: Any, acct: str) -> None:
    placed = await client.reserve(acct, 100)
    refused = await client.commit(placed.hold_id, 150, overage=Overage.REJECT)
    assert refused.decision.reason == "OVERAGE_REJECTED"
    charged = await client.commit(placed.hold_id, 150)
    assert (charged.lines[0].burned, charged.lines[0].overage) == (150, 50)


async def test_a_batch_is_decided_in_order(client: Any, acct: str) -> None:
    answers = await client.batch(
        [
            operations.burn(acct, 600),
            operations.burn(acct, 600),
            operations.release("no-such-hold"),
            operations.balance(acct),
        ]
    )
    assert [answer.decision.outcome for answer in answers[:2]] == [Outcome.GRANTED, Outcome.DENIED]
    assert isinstance(answers[2], NotFound)
    assert answers[2].reason == "HOLD_NOT_FOUND"
    assert answers[3].spendable("credits") == 400


async def test_accounts(client: Any, acct: str) -> None:
    child = f"{acct}-child"
    limit = Limit("burst", LimitUnit.REQUESTS, LimitWindow.BURST, 5, window_ms=10_000)
    created = await client.create_account(
        child, parent=acct, display_name="A child", limits=[limit], labels={"team": "x"}
    )
    assert (created.account.parent, created.account.root) == (acct, acct)
    assert created.account.limits[0].limit_id == "burst"
    changed = await client.update_account(
        child, status=AccountStatus.FROZEN, expected_version=created.account.version
    )
    assert (changed.account.status, changed.account.display_name) == (
        AccountStatus.FROZEN,
        "A child",
    )
    with pytest.raises(Conflict):
        await client.update_account(child, zone="UTC", expected_version=created.account.version)
    assert (await client.get_account(child)).labels == {"team": "x"}
    assert (await client.burn(child, 1)).decision.reason == "ACCOUNT_FROZEN"
    children: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while not children:
            children = [one.account async for one in client.list_accounts(parent=acct)]
    assert children == [child]
    assert "credits" in {one.credit_type for one in await client.list_credit_types()}


async def test_grants(client: Any, acct: str) -> None:
    soon = time.time_ns() // 1_000_000 + 3_600_000
    given = await client.grant(
        acct, 70, source=GrantSource.PROMOTION, priority=-5, expires_at_ms=soon, reason_code="hello"
    )
    assert given.buckets.granted == 1_070
    (newest, *_) = [grant async for grant in client.list_grants(acct)]
    assert (newest.grant_id, newest.remaining) == (given.grant_id, 70)
    assert (newest.terms.priority, newest.terms.expires_at_ms) == (-5, soon)
    assert (newest.terms.source, newest.terms.repay_debt) == (GrantSource.PROMOTION, True)
    taken = await client.revoke(acct, given.grant_id, reason_code="chargeback")
    assert (taken.revoked, taken.still_held) == (70, 0)


async def test_policies(client: Any, acct: str) -> None:
    scope = Scope(ScopeKind.ACCOUNT, acct)
    with pytest.raises(NotFound):
        await client.get_policy(scope)
    policy = await client.set_policy(Policy(scope, Mode.SHADOW), reason="trial")
    assert (policy.mode, policy.version, policy.reason) == (Mode.SHADOW, 1, "trial")
    assert (await client.get_policy(scope)) == policy
    assert policy in await client.list_policies()
    changed = await client.set_policy(replace(policy, mode=Mode.ENFORCE), reason="over")
    assert changed.version == 2
    with pytest.raises(Conflict):
        await client.set_policy(policy, reason="too late")
    changes = [each async for each in client.list_policy_changes() if each.policy.scope == scope]
    assert [(each.policy, each.version_before) for each in changes] == [(changed, 1), (policy, 0)]
    assert changes[0].config_version > changes[1].config_version


async def test_the_fleet(client: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not (fleet := await client.get_fleet()).processes:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert fleet.processes[0].version
    assert not any(process.killed for process in fleet.processes)


async def test_the_ledger(client: Any, acct: str) -> None:
    before_ms = (await client.balance(acct)).as_of_ms
    burned = await client.burn(acct, 100, feature="chat", durability=Durability.LEDGER)
    await recorded(client, burned)
    entries = [entry async for entry in client.list_entries(acct, credit_type="credits")]
    assert [entry.kind for entry in entries] == [EntryKind.BURN, EntryKind.GRANT]
    assert (entries[0].delta.burned, entries[0].after.available) == (100, 900)
    assert (len(entries[0].hash), entries[0].feature) == (32, "chat")
    then = await client.balance_at(acct, instant_ms=before_ms)
    assert then.credits[0].buckets.available == 1_000
    assert (await client.balance_at(acct)).credits[0].buckets.available == 900
    by_transaction = await client.explain(burned.applied.transaction_id)
    assert [entry.seq for entry in by_transaction.entries] == [burned.applied.seq]
    by_balance = await client.explain(account=acct)
    assert by_balance.closing.available == 900
    assert len(by_balance.entries) == 2
    verified = await client.verify()
    assert verified.ok, verified.violations
    assert verified.entries >= 3


async def test_errors_name_what_is_wrong(client: Any, acct: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await client.reserve(acct, 0)
    assert raised.value.reason == "AMOUNT_NOT_POSITIVE"
    assert raised.value.metadata["field"] == "lines[0].amount"
    with pytest.raises(NotFound) as missing:
        await client.balance("nobody-at-all")
    assert missing.value.reason == "ACCOUNT_NOT_FOUND"
    with pytest.raises(NotFound) as unplaced:
        await client.commit("", 5)
    assert unplaced.value.reason == "HOLD_NOT_FOUND"


@pytest.mark.parametrize("client", ["asyncio"], indirect=True)
async def test_a_block_settles(holdfast_server: RunningService, acct: str) -> None:
    async with AsyncClient(holdfast_server.target) as client:
        async with client.hold(acct, 500) as hold:
            await hold.capture(100)
            hold.commit(120)
        assert hold.receipt is not None
        assert (await client.balance(acct)).spendable("credits") == 780
        with pytest.raises(ZeroDivisionError):
            async with client.hold(acct, 500):
                raise ZeroDivisionError
        assert (await client.balance(acct)).spendable("credits") == 780
        with pytest.raises(Denied) as denied:
            async with client.hold(acct, 800):
                pytest.fail("the block must not run")
        assert denied.value.shortfalls[0].shortfall == 20


@pytest.mark.parametrize("client", ["asyncio"], indirect=True)
async def test_a_block_outlives_its_time_to_live(
    holdfast_server: RunningService, acct: str
) -> None:
    """The hold lives one second; the block runs until the hold's time has passed twice over."""
    async with AsyncClient(holdfast_server.target) as client:
        async with client.hold(acct, 500, ttl_ms=1_000) as hold:
            last_ms = hold.placed.expires_at_ms + 1_000
            async with asyncio.timeout(PATIENCE_S):
                while (await client.balance(acct)).as_of_ms < last_ms:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await client.balance(acct)).open_holds == 1
            hold.commit(10)
        assert hold.receipt is not None
        assert not hold.receipt.late
        assert (await client.balance(acct)).spendable("credits") == 990
