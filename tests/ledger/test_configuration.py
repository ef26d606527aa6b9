"""Credit types, policies and facts of the deployment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from holdfast_server.domain.bounds import CREDIT_TYPES_MAX
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import CreditType, PolicyChange, ProcessReport
from holdfast_server.ledger.store import Ledger
from tests.support.ledger import open_ledger, query

AI = CreditType("ai", "AI credits", 2)
SHADOW = Policy(
    Scope(ScopeKind.TENANT, "tenant"),
    Mode.SHADOW,
    evaluate_percent=50,
    enforce_percent=10,
    store_unavailable=StoreUnavailable(StoreUnavailableKind.ALLOW_BOUNDED, 500),
    idempotency_window_ms=60_000,
    changed_by="ada",
    reason="trial",
)


async def put(
    ledger: Ledger, policy: Policy, expected: int, key: str, fingerprint: bytes = b"f"
) -> tuple[PolicyChange, bool]:
    return await ledger.set_policy(
        policy, expected_version=expected, idempotency_key=key, fingerprint=fingerprint
    )


async def test_credit_types_are_created_once(ledger: Ledger) -> None:
    await ledger.create_credit_type("tenant", AI, "ada")
    await ledger.create_credit_type("tenant", AI, "ada")
    await ledger.create_credit_type("other", replace(AI, scale=0), "bob")

    with pytest.raises(HoldfastError) as caught:
        await ledger.create_credit_type("tenant", replace(AI, scale=3), "ada")

    assert caught.value.reason is Reason.CREDIT_TYPE_ALREADY_EXISTS
    assert await ledger.list_credit_types("tenant") == [AI]
    configuration = await ledger.load_configuration()
    assert configuration.credit_types == {"tenant": (AI,), "other": (replace(AI, scale=0),)}
    assert configuration.version == 2


async def test_a_tenant_has_only_so_many_credit_types(ledger: Ledger) -> None:
    for number in range(CREDIT_TYPES_MAX):
        await ledger.create_credit_type("tenant", CreditType(f"c{number}", "", 0), "ada")

    with pytest.raises(HoldfastError) as caught:
        await ledger.create_credit_type("tenant", AI, "ada")

    assert caught.value.reason is Reason.FIELD_INVALID


async def test_a_policy_reads_back_with_what_the_ledger_adds(ledger: Ledger) -> None:
    before_ms = time.time() * 1000

    change, replayed = await put(ledger, SHADOW, 0, "k")

    stored = change.policy
    assert (change.version_before, change.config_version, replayed) == (0, 1, False)
    assert replace(stored, changed_at_ms=0) == replace(SHADOW, version=1)
    assert abs(stored.changed_at_ms - before_ms) < 60_000
    assert (await ledger.load_configuration()).policies == (stored,)


async def test_a_policy_changes_only_from_the_version_that_counts(ledger: Ledger) -> None:
    await put(ledger, SHADOW, 0, "1")

    for wrong in (0, 2):
        with pytest.raises(HoldfastError) as caught:
            await put(ledger, SHADOW, wrong, "2")
        assert caught.value.reason is Reason.CONFIG_VERSION_CONFLICT
        assert caught.value.metadata == {"version": "1"}
    change, _ = await put(ledger, SHADOW, 1, "2")

    assert (change.policy.version, change.version_before) == (2, 1)


async def test_of_concurrent_changes_one_wins(ledger: Ledger) -> None:
    results = await asyncio.gather(
        *(put(ledger, SHADOW, 0, f"k{number}") for number in range(5)), return_exceptions=True
    )

    refused = [each.reason for each in results if isinstance(each, HoldfastError)]
    assert refused == [Reason.CONFIG_VERSION_CONFLICT] * 4
    assert await ledger.config_version() == 1


async def test_the_same_key_answers_the_same_change(ledger: Ledger) -> None:
    first, _ = await put(ledger, SHADOW, 0, "k")
    await put(ledger, replace(SHADOW, mode=Mode.ENFORCE), 1, "later")

    again, replayed = await put(ledger, SHADOW, 0, "k")

    assert (again, replayed) == (first, True)
    assert await ledger.config_version() == 2
    with pytest.raises(HoldfastError) as caught:
        await put(ledger, SHADOW, 2, "k", b"other")
    assert caught.value.reason is Reason.IDEMPOTENCY_KEY_REUSED


async def test_a_policy_that_expired_gives_way_to_the_one_before(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I17: versions only rise, yet an expired version no longer counts."""
    await put(ledger, SHADOW, 0, "lasting")
    soon_ms = int(time.time() * 1000) + 3_600_000
    off = replace(SHADOW, mode=Mode.OFF, expires_at_ms=soon_ms)
    await put(ledger, off, 1, "for an hour")
    both = (await ledger.load_configuration()).policies
    assert [(each.version, each.expires_at_ms) for each in both] == [(1, 0), (2, soon_ms)]

    past_ms = int(time.time() * 1000) - 1
    await put(ledger, replace(off, expires_at_ms=past_ms), 2, "over already")
    assert [each.version for each in (await ledger.load_configuration()).policies] == [1, 2]
    change, _ = await put(ledger, SHADOW, 2, "lasting again")

    assert (change.policy.version, change.version_before) == (4, 2)
    assert [each.version for each in (await ledger.load_configuration()).policies] == [4]
    (row,) = query(migrated_postgres_url, "SELECT count(*)::int AS n FROM holdfast.policy_audit")
    assert row["n"] == 4


async def test_changes_of_policies_are_listed_newest_first(ledger: Ledger) -> None:
    for version in range(3):
        await put(ledger, replace(SHADOW, reason=f"reason {version}"), version, f"k{version}")
    await put(ledger, Policy(Scope(ScopeKind.GLOBAL), reason="for all"), 0, "k0")
    await put(ledger, Policy(Scope(ScopeKind.TENANT, "other"), reason="theirs"), 0, "k0")

    newest = await ledger.list_policy_changes("tenant", limit=2)
    rest = await ledger.list_policy_changes("tenant", limit=9, before=newest[-1].config_version)
    theirs = await ledger.list_policy_changes("other", limit=9)

    assert [each.policy.reason for each in newest] == ["for all", "reason 2"]
    assert [each.policy.reason for each in rest] == ["reason 1", "reason 0"]
    assert [each.policy.reason for each in theirs] == ["theirs", "for all"]


async def test_a_deployment_is_fixed_when_it_first_starts(migrated_postgres_url: str) -> None:
    async with open_ledger(migrated_postgres_url, 7) as ledger:
        first = await ledger.start_deployment(7)
        again = await ledger.start_deployment(99)

        assert first == again
        assert (first.partitions, first.active_token_key) == (7, 1)
        assert [len(secret) for secret in first.token_keys.values()] == [32]
        assert "token_keys" not in repr(first)
        assert await ledger.flushed() == {partition: (1, 0) for partition in range(7)}


async def test_many_processes_start_a_deployment_at_once(migrated_postgres_url: str) -> None:
    async with open_ledger(migrated_postgres_url) as ledger:
        facts = await asyncio.gather(*(ledger.start_deployment(4) for _ in range(4)))

    assert len({each.token_keys[1] for each in facts}) == 1


async def test_processes_report_and_are_forgotten(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    worker = ProcessReport("host:1", "worker", "0.1.0", 1_767_225_600_000, 3)
    killed = replace(worker, killed=True, killed_by="file", config_version=4)
    await ledger.report_process(worker)
    await ledger.report_process(replace(worker, process="host:2", role="flusher"))
    await ledger.report_process(killed)

    first, second = await ledger.list_processes()

    assert replace(first, seen_at_ms=0) == killed
    assert (second.process, second.role) == ("host:2", "flusher")
    query(
        migrated_postgres_url,
        "UPDATE holdfast.process SET seen_at = now() - interval '61 s' WHERE process = 'host:2'",
    )
    assert [each.process for each in await ledger.list_processes()] == ["host:1"]
    await ledger.report_process(worker)
    assert len(query(migrated_postgres_url, "SELECT process FROM holdfast.process")) == 1
