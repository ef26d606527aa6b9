"""Which roles may call which method. A method that is not listed keeps the server from starting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from holdfast_server.api.auth.principal import Role

_SPEND = frozenset({Role.SPENDER})
_SETTLE = frozenset({Role.SPENDER, Role.SRE, Role.TENANT_ADMIN})
_REFUND = frozenset({Role.SPENDER, Role.GRANTER})
_GRANT = frozenset({Role.GRANTER})
_OPEN_ACCOUNT = frozenset({Role.GRANTER, Role.TENANT_ADMIN})
_ADMINISTER = frozenset({Role.TENANT_ADMIN})
_OPERATE = frozenset({Role.SRE})
_SEE_POLICY = frozenset({Role.SRE, Role.TENANT_ADMIN, Role.READER, Role.AUDITOR})
_READ = frozenset(Role)
_READ_LEDGER = frozenset({Role.READER, Role.AUDITOR, Role.TENANT_ADMIN})
_SEE_FLEET = frozenset({Role.SRE, Role.AUDITOR})
_VERIFY = frozenset({Role.AUDITOR, Role.SRE})

#: By service and method. One of the roles suffices.
ROLES: Final[Mapping[str, frozenset[Role]]] = {
    "BalanceService/Reserve": _SPEND,
    "BalanceService/Commit": _SPEND,
    # An operator may release a hold that is stuck.
    "BalanceService/Release": _SETTLE,
    "BalanceService/Extend": _SPEND,
    "BalanceService/Burn": _SPEND,
    "BalanceService/Refund": _REFUND,
    "BalanceService/Balance": _READ,
    "BalanceService/ListHolds": _READ,
    # It says how far partitions are, and nothing of what is in them.
    "BalanceService/AwaitDurable": _READ,
    # A spender may call each method that a batch can carry.
    "BalanceService/Batch": _SPEND,
    "BalanceService/Session": _SPEND,
    "AccountService/CreateAccount": _OPEN_ACCOUNT,
    "AccountService/UpdateAccount": _ADMINISTER,
    "AccountService/GetAccount": _READ,
    "AccountService/ListAccounts": _READ,
    "AccountService/CreateCreditType": _ADMINISTER,
    "AccountService/ListCreditTypes": _READ,
    "GrantService/Grant": _GRANT,
    "GrantService/Revoke": _GRANT,
    "GrantService/ListGrants": _READ,
    "ControlService/SetPolicy": _OPERATE,
    "ControlService/GetPolicy": _SEE_POLICY,
    "ControlService/ListPolicies": _SEE_POLICY,
    "ControlService/ListPolicyChanges": _SEE_POLICY,
    "ControlService/GetFleet": _SEE_FLEET,
    "LedgerService/ListEntries": _READ_LEDGER,
    "LedgerService/GetBalanceAt": _READ_LEDGER,
    "LedgerService/Explain": _READ_LEDGER,
    "LedgerService/Verify": _VERIFY,
}
