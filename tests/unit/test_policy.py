"""Policies: who wins, dials that only add, and requests that are never denied outside ENFORCE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    BUCKETS,
    UNSET,
    Policy,
    PolicySet,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
    Subject,
    bucket,
    check_policy,
    check_step,
    dialled,
)
from holdfast_server.errors import HoldfastError, Reason

NOW_MS = 1_000_000
SUBJECT = Subject("t", "org.user", "org", "chat")

GLOBAL = Scope(ScopeKind.GLOBAL)
TENANT = Scope(ScopeKind.TENANT, "t")
AI = Scope(ScopeKind.CREDIT_TYPE, "t", "ai")
CHAT = Scope(ScopeKind.FEATURE, "t", "chat")
USER = Scope(ScopeKind.ACCOUNT, "t", "org.user")
#: From the widest to the narrowest.
LADDER = (GLOBAL, TENANT, AI, CHAT, USER)

percents = st.integers(0, 100)
modes = st.sampled_from(Mode)
accounts = st.text("abcdefghij0123456789", min_size=1, max_size=8)
policies = st.builds(
    Policy, st.sampled_from(LADDER), modes, evaluate_percent=percents, enforce_percent=percents
)


def mode_of(found: Sequence[Policy], subject: Subject = SUBJECT, now_ms: int = NOW_MS) -> Mode:
    return PolicySet(found).mode(subject, ["ai"], now_ms)


def test_everything_is_enforced_and_closed_where_nothing_is_set() -> None:
    nothing = PolicySet()
    assert nothing.mode(SUBJECT, ["ai"], NOW_MS) is Mode.ENFORCE
    closed = nothing.store_unavailable(SUBJECT, "ai", NOW_MS)
    assert closed.kind is StoreUnavailableKind.DENY
    assert nothing.idempotency_window_ms("t", NOW_MS) == 900_000


@pytest.mark.parametrize("narrowest", range(len(LADDER)))
def test_the_most_specific_scope_wins(narrowest: int) -> None:
    found = [Policy(scope, Mode.ENFORCE) for scope in LADDER[:narrowest]]
    found.append(Policy(LADDER[narrowest], Mode.SHADOW))
    assert mode_of(found) is Mode.SHADOW


def test_a_scope_of_another_tenant_feature_or_account_does_not_count() -> None:
    others = [
        Policy(Scope(ScopeKind.TENANT, "u"), Mode.OFF),
        Policy(Scope(ScopeKind.CREDIT_TYPE, "t", "video"), Mode.OFF),
        Policy(Scope(ScopeKind.FEATURE, "t", "image"), Mode.OFF),
        # Not those below it.
        Policy(Scope(ScopeKind.ACCOUNT, "t", "org"), Mode.OFF),
    ]
    assert mode_of(others) is Mode.ENFORCE


@given(first=modes, second=modes)
def test_several_credit_types_get_the_strictest_of_their_modes(first: Mode, second: Mode) -> None:
    video = Scope(ScopeKind.CREDIT_TYPE, "t", "video")
    found = PolicySet([Policy(AI, first), Policy(video, second)])
    assert found.mode(SUBJECT, ["ai", "video"], NOW_MS) is max(first, second)


def test_a_request_without_credit_types_is_judged_by_the_wider_scopes() -> None:
    found = PolicySet([Policy(AI, Mode.OFF), Policy(TENANT, Mode.SHADOW)])
    assert found.mode(SUBJECT, [], NOW_MS) is Mode.SHADOW


@given(found=st.lists(policies), account=accounts)
def test_nothing_is_ever_enforced_where_no_policy_enforces(
    found: list[Policy], account: str
) -> None:
    """Shadow and off never deny: a mode stricter than every policy's cannot come out."""
    permissive = [replace(each, mode=min(each.mode, Mode.SHADOW)) for each in found]
    subject = Subject("t", account, account, "chat")
    mode = mode_of([*permissive, Policy(GLOBAL, Mode.SHADOW)], subject)
    assert mode is not Mode.ENFORCE


@given(policy=policies, account=accounts, more=percents)
def test_raising_a_dial_only_adds_trees(policy: Policy, account: str, more: int) -> None:
    for name in ("evaluate_percent", "enforce_percent"):
        # Any: the name of the field varies.
        change: dict[str, Any] = {name: max(more, getattr(policy, name))}
        before = dialled(policy, "t", account)
        assert dialled(replace(policy, **change), "t", account) >= before


@given(account=accounts, percent=percents)
def test_a_whole_tree_moves_together(account: str, percent: int) -> None:
    policy = Policy(TENANT, evaluate_percent=percent, enforce_percent=percent // 2)
    members = [Subject("t", f"{account}.{number}", account) for number in range(5)]
    assert len({mode_of([policy], member) for member in members}) == 1


def test_a_dial_holds_about_its_share() -> None:
    policy = Policy(TENANT, evaluate_percent=50, enforce_percent=10)
    found = [dialled(policy, "t", f"account-{number}") for number in range(10_000)]
    assert 900 < found.count(Mode.ENFORCE) < 1_100
    assert 3_800 < found.count(Mode.SHADOW) < 4_200


def test_a_dial_at_its_ends_holds_all_or_nothing() -> None:
    for number in range(200):
        account = f"a{number}"
        assert dialled(Policy(TENANT, evaluate_percent=0), "t", account) is Mode.OFF
        assert dialled(Policy(TENANT, enforce_percent=0), "t", account) is Mode.SHADOW
        assert dialled(Policy(TENANT), "t", account) is Mode.ENFORCE


def test_buckets_never_change() -> None:
    """Another bucket for a tree would move it in the middle of a roll-out."""
    assert [bucket("t", root) for root in ("a", "b", "org")] == [7716, 370, 630]
    assert bucket("t", "ab") != bucket("ta", "b")
    assert all(0 <= bucket("t", str(number)) < BUCKETS for number in range(1_000))


def test_an_expired_version_gives_way_to_the_newest_that_has_not() -> None:
    found = [
        Policy(TENANT, Mode.ENFORCE, version=1),
        Policy(TENANT, Mode.SHADOW, version=2, expires_at_ms=200),
        Policy(TENANT, Mode.OFF, version=3, expires_at_ms=100),
    ]
    assert mode_of(found, now_ms=99) is Mode.OFF
    assert mode_of(found, now_ms=100) is Mode.SHADOW
    assert mode_of(found, now_ms=200) is Mode.ENFORCE
    policy = PolicySet(found).at(TENANT, 150)
    assert policy is not None
    assert policy.version == 2


def test_an_expired_policy_without_a_version_before_leaves_the_wider_scope() -> None:
    found = [Policy(USER, Mode.OFF, version=1, expires_at_ms=100), Policy(TENANT, Mode.SHADOW)]
    assert mode_of(found, now_ms=99) is Mode.OFF
    assert mode_of(found, now_ms=100) is Mode.SHADOW
    assert PolicySet(found).at(USER, 100) is None


def test_what_counts_is_listed_from_the_most_specific() -> None:
    found = PolicySet([Policy(scope, version=1) for scope in LADDER])
    assert [policy.scope for policy in found.counting(NOW_MS)] == list(reversed(LADDER))


def test_the_window_of_a_tenant_wins_over_the_global_one() -> None:
    at_global = Policy(GLOBAL, idempotency_window_ms=60_000)
    at_tenant = Policy(TENANT, idempotency_window_ms=120_000)
    unset = Policy(TENANT)
    assert PolicySet([at_global, at_tenant]).idempotency_window_ms("t", NOW_MS) == 120_000
    assert PolicySet([at_global, unset]).idempotency_window_ms("t", NOW_MS) == 60_000


def test_store_unavailable_comes_from_the_most_specific_scope() -> None:
    allow = StoreUnavailable(StoreUnavailableKind.ALLOW)
    found = PolicySet([Policy(TENANT), Policy(AI, store_unavailable=allow)])
    assert found.store_unavailable(SUBJECT, "ai", NOW_MS) == allow
    assert found.store_unavailable(SUBJECT, "video", NOW_MS) == StoreUnavailable()


BOUNDED = StoreUnavailableKind.ALLOW_BOUNDED


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(TENANT, evaluate_percent=101), Reason.ROLLOUT_OUT_OF_RANGE),
        (Policy(TENANT, enforce_percent=-5), Reason.ROLLOUT_OUT_OF_RANGE),
        (Policy(Scope(ScopeKind.TENANT)), Reason.FIELD_INVALID),
        (Policy(Scope(ScopeKind.GLOBAL, "t")), Reason.FIELD_INVALID),
        (Policy(Scope(ScopeKind.TENANT, "t", "x")), Reason.FIELD_INVALID),
        (Policy(Scope(ScopeKind.ACCOUNT, "t")), Reason.FIELD_INVALID),
        (Policy(TENANT, store_unavailable=StoreUnavailable(BOUNDED)), Reason.FIELD_INVALID),
        (
            Policy(TENANT, store_unavailable=StoreUnavailable(BOUNDED, bounds.AMOUNT_MAX + 1)),
            Reason.FIELD_INVALID,
        ),
        (Policy(TENANT, idempotency_window_ms=59_999), Reason.FIELD_INVALID),
        (Policy(AI, idempotency_window_ms=60_000), Reason.FIELD_INVALID),
    ],
)
def test_a_policy_that_breaks_a_rule_is_refused(policy: Policy, reason: Reason) -> None:
    with pytest.raises(HoldfastError) as caught:
        check_policy(policy)
    assert caught.value.reason is reason
    assert caught.value.metadata["field"].startswith("policy.")


@pytest.mark.parametrize("scope", LADDER)
def test_a_policy_that_keeps_the_rules_is_taken(scope: Scope) -> None:
    check_policy(Policy(scope, store_unavailable=StoreUnavailable(BOUNDED, 1)))


def test_a_dial_that_moves_far_needs_force() -> None:
    low = Policy(TENANT, evaluate_percent=100, enforce_percent=10)
    check_step(low, replace(low, enforce_percent=35), force=False)
    check_step(low, replace(low, enforce_percent=100), force=True)
    for far in (36, 100):
        with pytest.raises(HoldfastError) as caught:
            check_step(low, replace(low, enforce_percent=far), force=False)
        assert caught.value.reason is Reason.ROLLOUT_OUT_OF_RANGE
    with pytest.raises(HoldfastError):
        # Where nothing is set, all is enforced: this is a step of 90 points.
        check_step(UNSET, low, force=False)
    check_step(UNSET, replace(UNSET, scope=TENANT), force=False)


OFF, SHADOW = Policy(TENANT, Mode.OFF), Policy(TENANT, Mode.SHADOW)
ENFORCED = Policy(TENANT, Mode.ENFORCE)


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        (SHADOW, ENFORCED, "enforce_percent"),
        (SHADOW, replace(ENFORCED, enforce_percent=26), "enforce_percent"),
        (OFF, ENFORCED, "evaluate_percent"),
        (OFF, SHADOW, "evaluate_percent"),
        (OFF, replace(SHADOW, evaluate_percent=26), "evaluate_percent"),
        (replace(SHADOW, evaluate_percent=50), ENFORCED, "evaluate_percent"),
    ],
)
def test_a_stricter_mode_that_takes_in_many_accounts_needs_force(
    before: Policy, after: Policy, field: str
) -> None:
    with pytest.raises(HoldfastError) as caught:
        check_step(before, after, force=False)
    assert caught.value.reason is Reason.ROLLOUT_OUT_OF_RANGE
    assert caught.value.metadata == {"field": f"policy.{field}"}
    check_step(before, after, force=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SHADOW, replace(ENFORCED, enforce_percent=25)),
        (OFF, replace(SHADOW, evaluate_percent=25)),
        (OFF, replace(ENFORCED, evaluate_percent=25)),
        # Whoever turns enforcement off is in a hurry.
        (ENFORCED, SHADOW),
        (ENFORCED, OFF),
        (SHADOW, OFF),
        (ENFORCED, replace(SHADOW, evaluate_percent=10)),
        # One account is no share of accounts.
        (replace(OFF, scope=USER), replace(ENFORCED, scope=USER)),
    ],
)
def test_small_steps_and_milder_modes_need_no_force(before: Policy, after: Policy) -> None:
    check_step(before, after, force=False)
