"""Setting policies: bounds, steps, races, reasons, expiry, repetition and the audit trail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast_server.background import background
from holdfast_server.control.config import ConfigCache
from holdfast_server.control.fleet import Heartbeat
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.policies import Policies, SetPolicy, fingerprint
from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import Policy, Scope, ScopeKind
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import CreditType, ProcessReport
from holdfast_server.ledger.store import Ledger
from tests.control.support import Reports, until, until_async

TENANT = Scope(ScopeKind.TENANT, "t")
CHAT = Scope(ScopeKind.FEATURE, "t", "chat")
GLOBAL = Scope(ScopeKind.GLOBAL)


@pytest_asyncio.fixture
async def ledger(migrated_postgres_url: str) -> AsyncIterator[Ledger]:
    found = await Ledger.open(migrated_postgres_url, pool_size=4)
    yield found
    await found.close()


@pytest.fixture
def cache(ledger: Ledger, tmp_path: Path) -> ConfigCache:
    return ConfigCache(ledger, tmp_path, Reports())


@pytest.fixture
def policies(ledger: Ledger, cache: ConfigCache) -> Policies:
    return Policies(ledger, cache)


def change(key: str = "k", version: int = 0, **fields: int | Mode | Scope) -> SetPolicy:
    policy = replace(Policy(TENANT, Mode.SHADOW), **fields)  # type: ignore[arg-type]
    return SetPolicy(policy, version, f"because of {key}", key)


async def refusal(policies: Policies, request: SetPolicy) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        await policies.set_policy("ann", request)
    return caught.value


async def test_a_policy_is_set_read_listed_and_applied(
    policies: Policies, cache: ConfigCache
) -> None:
    policy, replayed = await policies.set_policy("ann", change())
    assert (policy.version, policy.changed_by, policy.reason) == (1, "ann", "because of k")
    assert abs(policy.changed_at_ms - time.time() * 1000) < 60_000
    assert not replayed
    assert await policies.get_policy(TENANT) == policy
    assert cache.mode("t", "a", "a", ["ai"], "") is Mode.SHADOW
    others, _ = await policies.set_policy("bob", change("g", scope=GLOBAL))
    feature, _ = await policies.set_policy("bob", change("f", scope=CHAT))
    await policies.set_policy("bob", change("u", scope=Scope(ScopeKind.TENANT, "u")))
    assert await policies.list_policies("t") == [feature, policy, others]


async def test_a_scope_without_a_policy_is_not_found(policies: Policies) -> None:
    with pytest.raises(HoldfastError) as caught:
        await policies.get_policy(CHAT)
    assert caught.value.reason is Reason.POLICY_NOT_FOUND


@pytest.mark.parametrize("percent", [-5, 101, 2**40])
@pytest.mark.parametrize("dial", ["evaluate_percent", "enforce_percent"])
async def test_a_dial_out_of_range_is_refused(
    policies: Policies, ledger: Ledger, dial: str, percent: int
) -> None:
    # mypy takes the name of the dial for any parameter.
    error = await refusal(policies, change(**{dial: percent}))  # type: ignore[arg-type]
    assert error.reason is Reason.ROLLOUT_OUT_OF_RANGE
    assert await ledger.list_policy_changes("t", limit=10) == []


async def test_a_dial_moves_far_only_by_force_and_every_step_is_audited(
    policies: Policies, ledger: Ledger
) -> None:
    down = change("1", mode=Mode.ENFORCE, enforce_percent=0)
    assert (await refusal(policies, down)).reason is Reason.ROLLOUT_OUT_OF_RANGE
    await policies.set_policy("ann", replace(down, force=True))
    await policies.set_policy("bob", change("2", 1, mode=Mode.ENFORCE, enforce_percent=25))
    far = change("3", 2, mode=Mode.ENFORCE, enforce_percent=51)
    assert (await refusal(policies, far)).reason is Reason.ROLLOUT_OUT_OF_RANGE
    await policies.set_policy("bob", change("4", 2, mode=Mode.ENFORCE, enforce_percent=50))
    audit = await ledger.list_policy_changes("t", limit=10)
    rows = [
        (
            each.policy.enforce_percent,
            each.policy.changed_by,
            each.policy.reason,
            each.version_before,
        )
        for each in audit
    ]
    assert rows == [
        (50, "bob", "because of 4", 2),
        (25, "bob", "because of 2", 1),
        (0, "ann", "because of 1", 0),
    ]


async def test_what_counted_until_then_may_be_a_wider_scopes(policies: Policies) -> None:
    """A tenant in shadow has all of its features in shadow."""
    await policies.set_policy("ann", change("1", scope=GLOBAL))
    enforced = change("2", scope=CHAT, mode=Mode.ENFORCE)
    assert (await refusal(policies, enforced)).metadata == {"field": "policy.enforce_percent"}
    await policies.set_policy("ann", change("3"))
    assert (await refusal(policies, enforced)).reason is Reason.ROLLOUT_OUT_OF_RANGE
    quarter = change("4", scope=CHAT, mode=Mode.ENFORCE, enforce_percent=25)
    await policies.set_policy("ann", quarter)
    await policies.set_policy("ann", change("5", 1, scope=CHAT, mode=Mode.OFF))


async def test_of_two_who_change_at_once_one_is_told(policies: Policies) -> None:
    requests = [change(str(number), enforce_percent=80 + number) for number in range(8)]
    answers = await asyncio.gather(
        *(policies.set_policy("ann", request) for request in requests), return_exceptions=True
    )
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    lost = [answer for answer in answers if isinstance(answer, HoldfastError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {error.reason for error in lost} == {Reason.CONFIG_VERSION_CONFLICT}
    assert {error.metadata["version"] for error in lost} == {"1"}


async def test_a_version_that_is_not_the_newest_is_refused(policies: Policies) -> None:
    await policies.set_policy("ann", change("1"))
    for version in (0, 2, 99):
        error = await refusal(policies, change("2", version))
        assert error.reason is Reason.CONFIG_VERSION_CONFLICT
    policy, _ = await policies.set_policy("ann", change("2", 1))
    assert policy.version == 2


async def test_the_same_key_gives_the_same_answer_whatever_came_after(policies: Policies) -> None:
    first, _ = await policies.set_policy("ann", change("1"))
    await policies.set_policy("bob", change("2", 1, mode=Mode.OFF))
    again, replayed = await policies.set_policy("ann", change("1"))
    assert (again, replayed) == (first, True)
    assert (await policies.get_policy(TENANT)).mode is Mode.OFF


@pytest.mark.parametrize(
    "other",
    [
        change(mode=Mode.OFF),
        change(enforce_percent=90),
        replace(change(), reason="another"),
        replace(change(), expires_in_ms=5_000),
        replace(change(), force=True),
        change(version=1),
    ],
)
async def test_the_same_key_with_other_content_is_refused(
    policies: Policies, other: SetPolicy
) -> None:
    await policies.set_policy("ann", change())
    assert (await refusal(policies, other)).reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert fingerprint(other) != fingerprint(change())


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (replace(change(), reason=""), "reason"),
        (replace(change(), reason="x" * 257), "reason"),
        (replace(change(), reason="é" * 129), "reason"),
        (replace(change(), expires_in_ms=999), "expires_in_ms"),
        (replace(change(), expires_in_ms=-1), "expires_in_ms"),
        (replace(change(), expires_in_ms=bounds.POLICY_EXPIRY_MS_MAX + 1), "expires_in_ms"),
        (change(scope=Scope(ScopeKind.FEATURE, "t")), "policy.scope.value"),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_field(
    policies: Policies, request_: SetPolicy, field: str
) -> None:
    error = await refusal(policies, request_)
    assert (error.reason, error.metadata["field"]) == (Reason.FIELD_INVALID, field)


async def test_an_override_reverts_by_itself_and_can_be_followed(
    ledger: Ledger, cache: ConfigCache, policies: Policies
) -> None:
    await policies.set_policy("ann", change("1"))
    override = replace(change("2", 1, mode=Mode.OFF), expires_in_ms=1_000)
    policy, _ = await policies.set_policy("ann", override)
    assert policy.expires_at_ms > 0
    assert cache.mode("t", "a", "a", ["ai"], "") is Mode.OFF
    await until(lambda: cache.mode("t", "a", "a", ["ai"], "") is Mode.SHADOW)
    assert (await policies.get_policy(TENANT)).version == 1
    # Whoever reads version 1 now may follow it, and gets a number that was never used.
    error = await refusal(policies, change("3", 2))
    assert (error.reason, error.metadata["version"]) == (Reason.CONFIG_VERSION_CONFLICT, "1")
    following, _ = await policies.set_policy("ann", change("4", 1))
    assert following.version == 3


async def test_a_tenant_has_only_so_many_policies(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "POLICIES_MAX", 2)
    await policies.set_policy("ann", change("1"))
    await policies.set_policy("ann", change("2", scope=CHAT))
    third = change("3", scope=Scope(ScopeKind.FEATURE, "t", "image"))
    assert (await refusal(policies, third)).metadata == {"field": "policy.scope"}
    await policies.set_policy("ann", change("4", 1, scope=CHAT))
    await policies.set_policy("ann", change("5", scope=Scope(ScopeKind.TENANT, "u")))


async def test_a_credit_type_is_known_where_it_was_created_at_once(
    policies: Policies, cache: ConfigCache
) -> None:
    ai = CreditType("ai", "AI credits", 2)
    assert await policies.create_credit_type("t", ai, "ann") == ai
    assert cache.knows_credit_type("t", "ai")
    assert await policies.create_credit_type("t", ai, "bob") == ai
    for other, reason in (
        (replace(ai, scale=3), Reason.CREDIT_TYPE_ALREADY_EXISTS),
        (replace(ai, scale=10), Reason.FIELD_INVALID),
        (replace(ai, scale=-1), Reason.FIELD_INVALID),
    ):
        with pytest.raises(HoldfastError) as caught:
            await policies.create_credit_type("t", other, "ann")
        assert caught.value.reason is reason


async def test_the_fleet_shows_each_process_and_what_it_has_applied(
    tmp_path: Path, ledger: Ledger
) -> None:
    kill = KillSwitch(False, tmp_path / "KILL", tmp_path, Reports())
    report = ProcessReport("host-1", "worker", "0.1.0", 1_000, 0)
    heartbeat = Heartbeat(ledger, report, kill, lambda: 42)
    found: list[ProcessReport] = []

    async def look() -> None:
        found[:] = await ledger.list_processes()

    async with background(heartbeat.run()):
        await until_async(look, lambda: bool(found))
    assert [replace(each, seen_at_ms=0) for each in found] == [replace(report, config_version=42)]
    (tmp_path / "KILL").touch()
    killed = heartbeat.report()
    assert (killed.killed, killed.killed_by) == (True, "file")
