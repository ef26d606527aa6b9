"""Principals: a subject, its tenant and its roles."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from holdfast_server.domain.bounds import ID_BYTES_MAX
from holdfast_server.errors import HoldfastError, Reason

#: The tenant of a credential that serves every tenant.
EVERY_TENANT = "*"
#: Bytes of a credential's subject: it is kept in every ledger entry.
SUBJECT_BYTES_MAX = 256

_TENANT = re.compile(rf"[A-Za-z0-9._~-]{{1,{ID_BYTES_MAX}}}\Z")


class Role(StrEnum):
    """What a credential may be used for."""

    #: Reserve, Commit, Release, Extend, Burn, Refund: the services that do the work.
    SPENDER = "spender"
    #: Reads balances, grants and entries.
    READER = "reader"
    #: Gives, takes back and refunds credits, and creates the accounts that get them.
    GRANTER = "granter"
    #: Accounts, credit types, limits.
    TENANT_ADMIN = "tenant-admin"
    #: Enforcement modes, the fleet, stuck holds.
    SRE = "sre"
    #: Reads everything, verifies the ledger.
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. With `EVERY_TENANT`, requests that name no tenant mean `default_tenant`."""

    subject: str
    tenant: str
    roles: frozenset[Role]
    default_tenant: str = ""

    def tenant_of(self, named: str, field: str = "tenant") -> str:
        """The tenant of a request that names `named` in `field`, or names none.

        Raises HoldfastError: TENANT_MISMATCH for a tenant other than the credential's; ID_INVALID
        where the credential serves every tenant and the request names none, or no possible one.
        """
        if self.tenant != EVERY_TENANT:
            if named not in ("", self.tenant):
                raise HoldfastError(
                    Reason.TENANT_MISMATCH,
                    f"{field} must be empty or the credential's own tenant.",
                    field=field,
                )
            return self.tenant
        tenant = named or self.default_tenant
        if not _TENANT.match(tenant):
            raise HoldfastError(
                Reason.ID_INVALID,
                f"{field} must name a tenant: this credential serves every one.",
                field=field,
            )
        return tenant

    def require_every_tenant(self, subject: str, field: str) -> None:
        """Raises TENANT_MISMATCH for a credential of one tenant; `subject` is not for those."""
        if self.tenant != EVERY_TENANT:
            raise HoldfastError(
                Reason.TENANT_MISMATCH,
                f"{subject} is for credentials that serve every tenant.",
                field=field,
            )

    def require(self, allowed: frozenset[Role]) -> None:
        """Raises ROLE_REQUIRED unless the principal has one of the allowed roles."""
        if self.roles.isdisjoint(allowed):
            required = " or ".join(sorted(allowed))
            raise HoldfastError(
                Reason.ROLE_REQUIRED, f"This method needs the role {required}.", required=required
            )


#: Whoever calls a server that runs for development without credentials.
DEVELOPMENT = Principal("development", EVERY_TENANT, frozenset(Role), default_tenant="default")


def make_principal(subject: object, tenant: object, roles: object) -> Principal | None:
    """A principal from untrusted claims; None when one of them is missing or of a wrong form.

    Roles this version does not know are left out, so that an issuer may be ahead of a server.
    """
    # What cannot be encoded is not printable.
    if not isinstance(subject, str) or not subject.isprintable():
        return None
    if not 1 <= len(subject.encode()) <= SUBJECT_BYTES_MAX or not isinstance(tenant, str):
        return None
    if tenant != EVERY_TENANT and not _TENANT.match(tenant):
        return None
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        return None
    return Principal(subject, tenant, known_roles(roles))


def known_roles(names: Collection[str]) -> frozenset[Role]:
    """The roles among `names`."""
    return frozenset(role for role in Role if role.value in names)
