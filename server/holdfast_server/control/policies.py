"""Setting and reading policies and credit types: the use cases behind ControlService."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from holdfast_server.control.config import ConfigCache
from holdfast_server.domain import bounds
from holdfast_server.domain.policy import (
    Policy,
    PolicySet,
    Scope,
    Subject,
    check_policy,
    check_step,
)
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.configuration import ConfigurationStore
from holdfast_server.ledger.records import CreditType

#: The shortest life of a policy that expires by itself.
EXPIRY_MS_MIN = 1_000


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """A policy as it shall be. Of `policy`, what the server sets is ignored."""

    policy: Policy
    #: The version that counted when the caller read it; 0: none did.
    expected_version: int
    reason: str
    key: str
    #: 0: never.
    expires_in_ms: int = 0
    #: Allows more than 25 % of accounts to be treated otherwise at once, see `check_step`.
    force: bool = False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Policies:
    """Changes go to the ledger first; this process applies them before it answers."""

    def __init__(
        self,
        store: ConfigurationStore,
        cache: ConfigCache,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock_ms = clock_ms

    async def set_policy(self, subject: str, request: SetPolicy) -> tuple[Policy, bool]:
        """Sets a policy; answers it as it is now, and whether the key had done so before.

        `subject` is who asks. Raises what `check_policy` and `check_step` raise, FIELD_INVALID,
        CONFIG_VERSION_CONFLICT, IDEMPOTENCY_KEY_REUSED and LEDGER_UNAVAILABLE.
        """
        _check_request(request)
        now_ms = self._clock_ms()
        await self._check_against_others(request, now_ms)
        policy = replace(
            request.policy,
            expires_at_ms=now_ms + request.expires_in_ms if request.expires_in_ms else 0,
            changed_by=subject,
            reason=request.reason,
        )
        change, replayed = await self._store.set_policy(
            policy,
            expected_version=request.expected_version,
            idempotency_key=request.key,
            fingerprint=fingerprint(request),
        )
        await self._cache.refresh()
        return change.policy, replayed

    async def get_policy(self, scope: Scope) -> Policy:
        """The policy that counts at exactly a scope. Raises POLICY_NOT_FOUND."""
        policies = await self._policies()
        found = policies.at(scope, self._clock_ms())
        if found is None:
            raise HoldfastError(Reason.POLICY_NOT_FOUND, "No policy is set at this scope.")
        return found

    async def list_policies(self, tenant: str) -> list[Policy]:
        """Every policy that counts for a tenant, the most specific first, the global one last."""
        counting = (await self._policies()).counting(self._clock_ms())
        return [policy for policy in counting if policy.scope.tenant in {tenant, ""}]

    async def create_credit_type(
        self, tenant: str, credit_type: CreditType, subject: str
    ) -> CreditType:
        """Defines a credit type; the same one again changes nothing.

        Raises FIELD_INVALID and CREDIT_TYPE_ALREADY_EXISTS.
        """
        if not 0 <= credit_type.scale <= bounds.SCALE_MAX:
            message = f"scale must be from 0 to {bounds.SCALE_MAX}"
            raise HoldfastError(Reason.FIELD_INVALID, message, field="scale")
        created = await self._store.create_credit_type(tenant, credit_type, subject)
        await self._cache.refresh()
        return created

    async def _policies(self) -> PolicySet:
        return PolicySet((await self._store.load_configuration()).policies)

    async def _check_against_others(self, request: SetPolicy, now_ms: int) -> None:
        policies = await self._policies()
        scope = request.policy.scope
        current = policies.at(scope, now_ms)
        if (current.version if current else 0) != request.expected_version:
            # The ledger answers that: with the earlier answer for its key, or a conflict.
            return
        # Where nothing is set at the scope, that of the whole tenant or of everybody counted there.
        before = current or policies.resolve(Subject(scope.tenant, "", ""), "", now_ms)
        check_step(before, request.policy, request.force)
        others = [each for each in policies.counting(now_ms) if each.scope.tenant == scope.tenant]
        if current is None and len(others) >= bounds.POLICIES_MAX:
            message = f"a tenant has at most {bounds.POLICIES_MAX} policies"
            raise HoldfastError(Reason.FIELD_INVALID, message, field="policy.scope")


def fingerprint(request: SetPolicy) -> bytes:
    """What tells a request from another one under the same key."""
    content = asdict(request)
    del content["key"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _check_request(request: SetPolicy) -> None:
    check_policy(request.policy)
    if not 1 <= len(request.reason.encode()) <= bounds.REASON_BYTES_MAX:
        message = f"a reason of 1 to {bounds.REASON_BYTES_MAX} bytes is required"
        raise HoldfastError(Reason.FIELD_INVALID, message, field="reason")
    expires_in_ms = request.expires_in_ms
    if expires_in_ms and not EXPIRY_MS_MIN <= expires_in_ms <= bounds.POLICY_EXPIRY_MS_MAX:
        message = "expires_in_ms must be 0, or from 1 s to 30 days"
        raise HoldfastError(Reason.FIELD_INVALID, message, field="expires_in_ms")
