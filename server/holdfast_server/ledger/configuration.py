"""Configuration that every process follows: credit types and policies, each change audited."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from psycopg.rows import DictRow

from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.records import Configuration, CreditType, PolicyChange
from holdfast_server.ledger.sql import QUERIES


class ConfigurationStore(Database):
    """Credit types and policies. Every change raises one counter, in the same transaction."""

    async def config_version(self) -> int:
        """The number of the newest change: cheap to ask, to see whether anything changed."""
        return _version(await self.glance(QUERIES["config_version"]))

    async def load_configuration(self) -> Configuration:
        """Everything that processes keep in memory, of one instant."""
        async with self.reading("") as cursor:
            version = _version(await fetch_one(cursor, QUERIES["config_version"]))
            credit_types = await fetch_all(cursor, QUERIES["every_credit_type"])
            policies = await fetch_all(cursor, QUERIES["policies_that_may_count"])
        return Configuration(
            version, _credit_types_per_tenant(credit_types), tuple(map(_policy, policies))
        )

    async def list_credit_types(self, tenant: str) -> list[CreditType]:
        """The credit types of a tenant, by code."""
        async with self.reading(tenant) as cursor:
            found = await fetch_all(cursor, QUERIES["credit_types"], tenant=tenant)
        return [_credit_type(row) for row in found]

    async def create_credit_type(
        self, tenant: str, credit_type: CreditType, created_by: str
    ) -> CreditType:
        """Defines a credit type; the same one again changes nothing.

        Raises CREDIT_TYPE_ALREADY_EXISTS for other content under the same code, and FIELD_INVALID
        when the tenant has as many as it may have.
        """
        async with self.changing() as cursor:
            await _lock(cursor)
            found = await fetch_all(cursor, QUERIES["credit_types"], tenant=tenant)
            known = {existing.code: existing for existing in map(_credit_type, found)}
            if credit_type == known.get(credit_type.code):
                return credit_type
            _check_new_credit_type(credit_type, known)
            await _raise_config_version(cursor)
            await cursor.execute(
                QUERIES["create_credit_type"],
                {
                    "tenant": tenant,
                    "code": credit_type.code,
                    "display_name": credit_type.display_name,
                    "scale": credit_type.scale,
                    "created_by": created_by,
                },
            )
        return credit_type

    async def set_policy(
        self, policy: Policy, *, expected_version: int, idempotency_key: str, fingerprint: bytes
    ) -> tuple[PolicyChange, bool]:
        """Sets a policy if the version that counts now is `expected_version` (0: none counts).

        `policy.version` and `changed_at_ms` are ignored and set. Answers the change and whether it
        had been made before under the same key (of the scope's tenant). Raises
        CONFIG_VERSION_CONFLICT, and IDEMPOTENCY_KEY_REUSED for another fingerprint under the key.
        """
        async with self.changing() as cursor:
            await _lock(cursor)
            before = await _change_under_key(cursor, policy, idempotency_key, fingerprint)
            if before:
                return before, True
            newest = await _check_version(cursor, policy.scope, expected_version)
            row = await fetch_one(
                cursor,
                QUERIES["set_policy"],
                **_scope_parameters(policy.scope),
                **_policy_parameters(policy),
                version=newest + 1,
                version_before=expected_version,
                config_version=await _raise_config_version(cursor),
                idempotency_key=idempotency_key,
                fingerprint=fingerprint,
            )
        assert row is not None
        return _policy_change(row), False

    async def list_policy_changes(
        self, tenant: str, *, limit: int, before: int | None = None
    ) -> list[PolicyChange]:
        """The audit trail of a tenant, with that of the global policy, newest first.

        `before` is the `config_version` of the last change of the page before.
        """
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor, QUERIES["policy_changes"], tenant=tenant, limit=limit, before=before
            )
        return [_policy_change(row) for row in found]


def _version(row: DictRow | None) -> int:
    return row["version"] if row else 0


async def _lock(cursor: Cursor) -> None:
    """Comes first in every change: it puts all changes of configuration in one order."""
    await cursor.execute(QUERIES["lock_configuration"])


async def _raise_config_version(cursor: Cursor) -> int:
    row = await fetch_one(cursor, QUERIES["raise_config_version"])
    assert row is not None
    return int(row["version"])


async def _change_under_key(
    cursor: Cursor, policy: Policy, key: str, fingerprint: bytes
) -> PolicyChange | None:
    row = await fetch_one(
        cursor, QUERIES["policy_change_under_key"], tenant=policy.scope.tenant, idempotency_key=key
    )
    if row and row["fingerprint"] != fingerprint:
        raise HoldfastError(
            Reason.IDEMPOTENCY_KEY_REUSED,
            "The idempotency key was used for another change of policy.",
            field="policy",
        )
    return _policy_change(row) if row else None


async def _check_version(cursor: Cursor, scope: Scope, expected: int) -> int:
    """The newest version of the scope, expired or not. Raises CONFIG_VERSION_CONFLICT."""
    row = await fetch_one(cursor, QUERIES["policy_versions"], **_scope_parameters(scope))
    assert row is not None
    if row["counting"] != expected:
        raise HoldfastError(
            Reason.CONFIG_VERSION_CONFLICT,
            "The policy changed since the version you named; read it again.",
            version=row["counting"],
        )
    return int(row["newest"])


def _check_new_credit_type(credit_type: CreditType, known: Mapping[str, CreditType]) -> None:
    if credit_type.code in known:
        raise HoldfastError(
            Reason.CREDIT_TYPE_ALREADY_EXISTS,
            "The credit type exists with other content; it never changes.",
            credit_type=credit_type.code,
        )
    if len(known) >= bounds.CREDIT_TYPES_MAX:
        raise HoldfastError(
            Reason.FIELD_INVALID,
            f"A tenant has at most {bounds.CREDIT_TYPES_MAX} credit types.",
            field="credit_type.credit_type",
            maximum=bounds.CREDIT_TYPES_MAX,
        )


def _credit_type(row: rows.Row) -> CreditType:
    return CreditType(row["code"], row["display_name"], row["scale"])


def _credit_types_per_tenant(found: Iterable[rows.Row]) -> dict[str, tuple[CreditType, ...]]:
    per_tenant: defaultdict[str, list[CreditType]] = defaultdict(list)
    for row in found:
        per_tenant[row["tenant"]].append(_credit_type(row))
    return {tenant: tuple(credit_types) for tenant, credit_types in per_tenant.items()}


def _scope_parameters(scope: Scope) -> dict[str, object]:
    return {"tenant": scope.tenant, "scope_kind": int(scope.kind), "scope_value": scope.value}


def _policy_parameters(policy: Policy) -> dict[str, object]:
    return {
        "mode": int(policy.mode),
        "evaluate_percent": policy.evaluate_percent,
        "enforce_percent": policy.enforce_percent,
        "store_unavailable": int(policy.store_unavailable.kind),
        "bound_amount": policy.store_unavailable.bound_amount,
        "idempotency_window_ms": policy.idempotency_window_ms,
        "expires_at": rows.instant(policy.expires_at_ms),
        "changed_by": policy.changed_by,
        "reason": policy.reason,
    }


def _policy(row: rows.Row) -> Policy:
    return Policy(
        scope=Scope(ScopeKind(row["scope_kind"]), row["tenant"], row["scope_value"]),
        mode=Mode(row["mode"]),
        evaluate_percent=row["evaluate_percent"],
        enforce_percent=row["enforce_percent"],
        store_unavailable=StoreUnavailable(
            StoreUnavailableKind(row["store_unavailable"]), row["bound_amount"]
        ),
        idempotency_window_ms=row["idempotency_window_ms"],
        version=row["version"],
        expires_at_ms=rows.milliseconds(row["expires_at"]),
        changed_by=row["changed_by"],
        reason=row["reason"],
        changed_at_ms=rows.milliseconds(row["changed_at"]),
    )


def _policy_change(row: rows.Row) -> PolicyChange:
    return PolicyChange(_policy(row), row["version_before"], row["config_version"])
