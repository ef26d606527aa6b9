"""Which mode applies to a request: a pure function of the policies, the account and the time.

The most specific scope that is set wins: account, then feature, then credit type, then tenant, then
global. A request over several credit types gets the strictest of their modes (ENFORCE, then SHADOW,
then OFF). Where nothing is set, everything is enforced and nothing passes while the store is away.

**Dials.** Every tree of accounts has a fixed bucket between 0 and 9,999, by hash of its root, so
that a tree moves as a whole: one decision over a branch is never half in shadow. A dial at p
percent holds the buckets below 100 p. Raising a dial therefore only adds trees, in every process.
Both dials count from the same end, so that `enforce_percent` is a share of all trees, and all of
its trees are evaluated as long as it is not above `evaluate_percent`.

**Expiry.** A version that has expired no longer counts: the newest version that has not holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.value import value
from holdfast_server.errors import HoldfastError, Reason

#: Fixes the bucket of every tree. Changing it would move all trees at once, so it never changes.
BUCKET_SALT = b"holdfast-dial-1"
#: A dial that holds everything.
PERCENT_MAX = 100
#: Buckets per percent of a dial.
BUCKETS_PER_PERCENT = 100
#: Buckets in all.
BUCKETS = PERCENT_MAX * BUCKETS_PER_PERCENT


class ScopeKind(IntEnum):
    """What a policy applies to, the more specific the higher. Numbers as in the proto."""

    GLOBAL = 1
    TENANT = 2
    CREDIT_TYPE = 3
    FEATURE = 4
    ACCOUNT = 5


#: To find a member in its class takes longer than to look for its policy.
_GLOBAL, _TENANT, _CREDIT_TYPE, _FEATURE, _ACCOUNT = ScopeKind


class StoreUnavailableKind(IntEnum):
    """What happens to Reserve and Burn while the store is away. Numbers as in the proto."""

    DENY = 1
    ALLOW_BOUNDED = 2
    ALLOW = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a policy applies. `tenant` is empty for GLOBAL, `value` for GLOBAL and TENANT."""

    kind: ScopeKind
    tenant: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class StoreUnavailable:
    """What passes while the store is away; `bound_amount` per account and minute, if bounded."""

    kind: StoreUnavailableKind = StoreUnavailableKind.DENY
    bound_amount: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """How enforcement treats a scope. The fields from `version` on are set by the server."""

    scope: Scope
    mode: Mode = Mode.ENFORCE
    evaluate_percent: int = 100
    enforce_percent: int = 100
    store_unavailable: StoreUnavailable = StoreUnavailable()
    #: 0 takes the next wider scope's, and `IDEMPOTENCY_WINDOW_MS_DEFAULT` in the end.
    idempotency_window_ms: int = 0
    #: Rises by one with every change of the scope, from 1.
    version: int = 0
    #: 0 means never.
    expires_at_ms: int = 0
    changed_by: str = ""
    reason: str = ""
    changed_at_ms: int = 0

    def expired(self, now_ms: int) -> bool:
        """Whether this version has stopped to count."""
        return 0 < self.expires_at_ms <= now_ms


@value(frozen=True, slots=True)
class Subject:
    """Whom a request is about. `root` is the top of the account's tree, or the account itself."""

    tenant: str
    account: str
    root: str
    feature: str = ""


#: What holds where nothing is set.
UNSET = Policy(Scope(ScopeKind.GLOBAL))


class Enforcement(Protocol):
    """What the engine asks about every request. Answers come from memory: none blocks or fails."""

    def mode(
        self, tenant: str, account: str, root: str, credit_types: Sequence[str], feature: str
    ) -> Mode:
        """The mode in which a request is decided."""
        ...

    def idempotency_window_ms(self, tenant: str) -> int:
        """How long the tenant's idempotency keys are remembered."""
        ...

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        """Whether the credit type is defined for the tenant."""
        ...


class PolicySet:
    """All versions of all policies that may still count, ready to be asked."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        """Takes any number of versions per scope, in any order."""
        self._versions: dict[tuple[ScopeKind, str, str], list[Policy]] = {}
        for policy in sorted(policies, key=lambda each: -each.version):
            scope = policy.scope
            self._versions.setdefault((scope.kind, scope.tenant, scope.value), []).append(policy)

    def at(self, scope: Scope, now_ms: int) -> Policy | None:
        """The version that counts at exactly this scope, or None."""
        return self._at(scope.kind, scope.tenant, scope.value, now_ms)

    def counting(self, now_ms: int) -> list[Policy]:
        """Every policy that counts, the most specific first."""
        found = [self._at(*scope, now_ms) for scope in sorted(self._versions, reverse=True)]
        return [policy for policy in found if policy is not None]

    def resolve(self, subject: Subject, credit_type: str, now_ms: int) -> Policy:
        """The policy of the most specific scope that is set; `UNSET` when none is."""
        tenant = subject.tenant
        return (
            self._at(_ACCOUNT, tenant, subject.account, now_ms)
            or self._at(_FEATURE, tenant, subject.feature, now_ms)
            or self._at(_CREDIT_TYPE, tenant, credit_type, now_ms)
            or self._at(_TENANT, tenant, "", now_ms)
            or self._at(_GLOBAL, "", "", now_ms)
            or UNSET
        )

    def store_unavailable(
        self, subject: Subject, credit_type: str, now_ms: int
    ) -> StoreUnavailable:
        """What happens to one line of a request while the store is away."""
        return self.resolve(subject, credit_type, now_ms).store_unavailable

    def mode(self, subject: Subject, credit_types: Sequence[str], now_ms: int) -> Mode:
        """The strictest of the modes that the credit types of one request have.

        Without credit types, policies of credit types do not count.
        """
        if not self._versions:
            return UNSET.mode
        policies = (self.resolve(subject, each, now_ms) for each in credit_types or ("",))
        return max(dialled(policy, subject.tenant, subject.root) for policy in policies)

    def idempotency_window_ms(self, tenant: str, now_ms: int) -> int:
        """The tenant's window, or the global one, or the default."""
        at_tenant = self._at(ScopeKind.TENANT, tenant, "", now_ms)
        at_global = self._at(ScopeKind.GLOBAL, "", "", now_ms)
        windows = (each.idempotency_window_ms for each in (at_tenant, at_global) if each)
        return next(filter(None, windows), bounds.IDEMPOTENCY_WINDOW_MS_DEFAULT)

    def _at(self, kind: ScopeKind, tenant: str, value: str, now_ms: int) -> Policy | None:
        for policy in self._versions.get((kind, tenant, value), ()):
            if not policy.expired(now_ms):
                return policy
        return None


def bucket(tenant: str, root: str) -> int:
    """The bucket of a tree, 0 to 9,999: the same in every process, for ever."""
    message = b"%b\x00%b\x00%b" % (BUCKET_SALT, tenant.encode(), root.encode())
    return int.from_bytes(hashlib.sha256(message).digest()[:8], "big") % BUCKETS


def dialled(policy: Policy, tenant: str, root: str) -> Mode:
    """The mode of a tree under a policy, with its dials."""
    if policy.mode is Mode.OFF or policy.evaluate_percent == 0:
        return Mode.OFF
    if policy.evaluate_percent == policy.enforce_percent == PERCENT_MAX:
        return policy.mode
    place = bucket(tenant, root)
    if place >= policy.evaluate_percent * BUCKETS_PER_PERCENT:
        return Mode.OFF
    enforced = place < policy.enforce_percent * BUCKETS_PER_PERCENT
    return policy.mode if enforced else Mode.SHADOW


def check_policy(policy: Policy) -> None:
    """Raises `HoldfastError` when a policy, as it is asked for, breaks a rule."""
    _check_scope(policy.scope)
    for name in ("evaluate_percent", "enforce_percent"):
        if not 0 <= getattr(policy, name) <= PERCENT_MAX:
            message = f"{name} must be a whole number from 0 to 100"
            raise HoldfastError(Reason.ROLLOUT_OUT_OF_RANGE, message, field=f"policy.{name}")
    _check_store_unavailable(policy.store_unavailable)
    _check_window(policy)


def check_step(before: Policy, after: Policy, force: bool) -> None:
    """Raises `HoldfastError` when the share of accounts that are evaluated or enforced moves too
    far at once, whether by a dial or by a stricter mode.

    A milder mode lets any number go: whoever turns enforcement off in an incident is in a hurry.
    The policy of an account is about one, which is no share.
    """
    if force or after.scope.kind is ScopeKind.ACCOUNT:
        return
    shares = zip(
        ("evaluate_percent", "enforce_percent"), _reach(before), _reach(after), strict=True
    )
    for name, start, end in shares:
        step = abs(end - start) if before.mode is after.mode else end - start
        if step > bounds.DIAL_STEP_MAX:
            message = (
                f"{name} would go from {start} to {end} % of accounts; more than "
                f"{bounds.DIAL_STEP_MAX} points at once needs force"
            )
            raise HoldfastError(Reason.ROLLOUT_OUT_OF_RANGE, message, field=f"policy.{name}")


def _reach(policy: Policy) -> tuple[int, int]:
    """The percentages of accounts that are evaluated and enforced, whatever dials say of a mode in
    which they do not count."""
    evaluated = 0 if policy.mode is Mode.OFF else policy.evaluate_percent
    return evaluated, min(evaluated, policy.enforce_percent) if policy.mode is Mode.ENFORCE else 0


def _check_scope(scope: Scope) -> None:
    with_tenant = scope.kind is not ScopeKind.GLOBAL
    with_value = scope.kind > ScopeKind.TENANT
    if bool(scope.tenant) != with_tenant or bool(scope.value) != with_value:
        message = f"a scope of kind {scope.kind.name} {'needs a' if with_value else 'has no'} value"
        raise HoldfastError(Reason.FIELD_INVALID, message, field="policy.scope.value")


def _check_store_unavailable(rule: StoreUnavailable) -> None:
    bounded = rule.kind is StoreUnavailableKind.ALLOW_BOUNDED
    if bounded and not 1 <= rule.bound_amount <= bounds.AMOUNT_MAX:
        field = "policy.store_unavailable.bound_amount"
        message = "bound_amount must be from 1 to 2^53-1"
        raise HoldfastError(Reason.FIELD_INVALID, message, field=field)


def _check_window(policy: Policy) -> None:
    window_ms = policy.idempotency_window_ms
    if window_ms == 0:
        return
    allowed = bounds.IDEMPOTENCY_WINDOW_MS_MIN <= window_ms <= bounds.IDEMPOTENCY_WINDOW_MS_MAX
    if not allowed or policy.scope.kind > ScopeKind.TENANT:
        message = "idempotency_window_ms is 1 min to 24 h, at tenant or global scope only"
        raise HoldfastError(Reason.FIELD_INVALID, message, field="policy.idempotency_window_ms")
