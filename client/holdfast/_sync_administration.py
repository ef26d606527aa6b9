"""Accounts, grants, policies and the ledger for threads. I/O only: see `_calls_…`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast import _calls_accounts, _calls_ledger, records
from holdfast._core import VERIFY_TIMEOUT_MS
from holdfast._keys import new_key
from holdfast._sync_connection import Connection
from holdfast.kinds import AccountStatus, Durability, GrantSource


class Administration(Connection):
    """Everything beside the hot path. The base of `Client`."""

    def create_account(
        self,
        account: str,
        *,
        parent: str = "",
        display_name: str = "",
        overdraft_limits: Mapping[str, int] | None = None,
        limits: Sequence[records.Limit] = (),
        zone: str = "",
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> records.AccountResult:
        """Creates an account, alone or below `parent`."""
        return self._send(
            _calls_accounts.create_account(
                account,
                parent=parent,
                display_name=display_name,
                overdraft_limits=overdraft_limits,
                limits=limits,
                zone=zone,
                labels=labels,
                key=key or new_key(),
            )
        )

    def update_account(
        self,
        account: str,
        *,
        parent: str | None = None,
        display_name: str | None = None,
        status: AccountStatus | None = None,
        overdraft_limits: Mapping[str, int] | None = None,
        limits: Sequence[records.Limit] | None = None,
        zone: str | None = None,
        labels: Mapping[str, str] | None = None,
        expected_version: int = 0,
        key: str | None = None,
    ) -> records.AccountResult:
        """Replaces what is not None. Raises `Conflict` unless at `expected_version` (0: any)."""
        return self._send(
            _calls_accounts.update_account(
                account,
                parent=parent,
                display_name=display_name,
                status=status,
                overdraft_limits=overdraft_limits,
                limits=limits,
                zone=zone,
                labels=labels,
                expected_version=expected_version,
                key=key or new_key(),
            )
        )

    def get_account(self, account: str) -> records.Account:
        """One account."""
        return self._send(_calls_accounts.get_account(account))

    def list_accounts(self, *, parent: str = "") -> Iterator[records.Account]:
        """The tenant's accounts by id, or only those directly below `parent`."""
        return self._pages(lambda token: _calls_accounts.list_accounts(parent, token))

    def create_credit_type(
        self, credit_type: str, *, display_name: str = "", scale: int = 0
    ) -> records.CreditType:
        """Defines a credit type, for good. The same one again is answered as before."""
        return self._send(_calls_accounts.create_credit_type(credit_type, display_name, scale))

    def list_credit_types(self) -> tuple[records.CreditType, ...]:
        """The tenant's credit types, by code."""
        return self._send(_calls_accounts.list_credit_types())

    def grant(
        self,
        account: str,
        amount: int,
        *,
        source: GrantSource,
        credit_type: str | None = None,
        priority: int = 0,
        effective_at_ms: int = 0,
        expires_at_ms: int = 0,
        cost_amount: int = 0,
        cost_currency: str = "",
        reason_code: str = "",
        repay_debt: bool = True,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> records.GrantResult:
        """Gives credits; answered when the ledger has them. Lower `priority` burns first.

        `cost_amount` is what was paid, in minor units of `cost_currency`. `effective_at_ms` 0: now;
        `expires_at_ms` 0: never.
        """
        return self._send(
            _calls_accounts.grant(
                account,
                amount,
                source=source,
                credit_type=credit_type,
                priority=priority,
                effective_at_ms=effective_at_ms,
                expires_at_ms=expires_at_ms,
                cost_amount=cost_amount,
                cost_currency=cost_currency,
                reason_code=reason_code,
                repay_debt=repay_debt,
                labels=labels,
                key=key or new_key(),
                durability=durability,
            )
        )

    def revoke(
        self,
        account: str,
        grant_id: str,
        *,
        reason_code: str = "",
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> records.RevokeResult:
        """Takes back what a grant has left; held parts follow when they come back."""
        return self._send(
            _calls_accounts.revoke(account, grant_id, reason_code, key or new_key(), durability)
        )

    def list_grants(self, account: str, *, credit_type: str = "") -> Iterator[records.Grant]:
        """The grants of an account, spent ones included, newest first."""
        return self._pages(lambda token: _calls_accounts.list_grants(account, credit_type, token))

    def set_policy(
        self,
        policy: records.Policy,
        *,
        reason: str,
        expires_in_ms: int = 0,
        force: bool = False,
        key: str | None = None,
    ) -> records.Policy:
        """Sets the policy of its scope. Raises `Conflict` when `policy.version` is outdated.

        With `expires_in_ms` it reverts by itself. `force` allows a dial, or a stricter mode, to
        move over 25 % of accounts at once.
        """
        return self._send(
            _calls_ledger.set_policy(policy, reason, expires_in_ms, force, key or new_key())
        )

    def get_policy(self, scope: records.Scope) -> records.Policy:
        """The policy set at one scope."""
        return self._send(_calls_ledger.get_policy(scope))

    def list_policies(self) -> tuple[records.Policy, ...]:
        """Every policy of the tenant, the most specific first, the global one included."""
        return self._send(_calls_ledger.list_policies())

    def list_policy_changes(self) -> Iterator[records.PolicyChange]:
        """Every change of the tenant's policies and of the global one, newest first."""
        return self._pages(_calls_ledger.list_policy_changes)

    def get_fleet(self) -> records.Fleet:
        """Every process and what it has applied."""
        return self._send(_calls_ledger.get_fleet())

    def list_entries(
        self, account: str, *, credit_type: str = "", from_ms: int = 0, to_ms: int = 0
    ) -> Iterator[records.Entry]:
        """The entries of an account from `from_ms` until before `to_ms`, newest first."""
        return self._pages(
            lambda token: _calls_ledger.list_entries(account, credit_type, from_ms, to_ms, token)
        )

    def balance_at(self, account: str, *, instant_ms: int = 0) -> records.BalanceAt:
        """The buckets of an account as they were at an instant; 0 means now."""
        return self._send(_calls_ledger.balance_at(account, instant_ms))

    def explain(
        self,
        transaction_id: str = "",
        *,
        account: str = "",
        credit_type: str | None = None,
        instant_ms: int = 0,
        maximum_entries: int = 0,
    ) -> records.Explanation:
        """The entries behind a transaction, or behind the balance of `account` at an instant."""
        return self._send(
            _calls_ledger.explain(transaction_id, account, credit_type, instant_ms, maximum_entries)
        )

    def verify(
        self, partitions: Sequence[int] = (), *, timeout_ms: int = VERIFY_TIMEOUT_MS
    ) -> records.Verification:
        """Checks the ledger's chain, sequence, versions and conservation; all of it by default.

        Only for credentials that serve every tenant.
        """
        return self._send(_calls_ledger.verify(partitions, timeout_ms))
