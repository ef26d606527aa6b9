"""Balance while the hot store is away: the ledger's figures, over the account and all above it.

They are as old as the ledger says. What only the hot store counts is left out: how much of a limit
is used, how many holds are open, and what remains of each grant (`ListGrants` sums that up, at a
price that a store which is just being asked by everybody should not pay).
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.bounds import AMOUNT_MAX, TREE_LEVELS_MAX
from holdfast_server.domain.operation import AccountStatus
from holdfast_server.domain.reply import Account, BalanceReply, Buckets, CreditBalance
from holdfast_server.ledger.records import BalanceAt
from holdfast_server.ledger.store import Ledger


async def stale_balance(ledger: Ledger, tenant: str, account: str) -> BalanceReply | None:
    """The newest figures that the ledger has; None where it does not know the account."""
    path = await _path(ledger, tenant, account)
    if not path:
        return None
    found = [await ledger.balance_at(tenant, each.account) for each in path]
    names = {name for each in found for name in each.credits if name}
    names.update(name for each in path for name in each.terms.overdraft_limits)
    lines = tuple(_line(path, found, name) for name in sorted(names))
    return BalanceReply(account, lines, (), 0, found[0].as_of_ms, stale=True)


async def _path(ledger: Ledger, tenant: str, account: str) -> list[Account]:
    """The account and those above it, the root last."""
    path: list[Account] = []
    while account and len(path) < TREE_LEVELS_MAX:
        found = await ledger.get_account(tenant, account)
        if found is None:
            break
        path.append(found)
        account = found.terms.parent
    return path


def _line(path: Sequence[Account], found: Sequence[BalanceAt], name: str) -> CreditBalance:
    buckets, version = found[0].credits.get(name, (Buckets(), 0))
    return CreditBalance(name, buckets, _spendable(path, found, name), version)


def _spendable(path: Sequence[Account], found: Sequence[BalanceAt], name: str) -> int:
    """As a live Balance counts it; 0 where one of the path may not spend."""
    if any(each.terms.status is not AccountStatus.ACTIVE for each in path):
        return 0
    total = 0
    for each, balance in zip(path, found, strict=True):
        buckets, _ = balance.credits.get(name, (Buckets(), 0))
        limit = each.terms.overdraft_limits.get(name, 0)
        total += buckets.available + max(0, limit - buckets.debt)
    return min(AMOUNT_MAX, total)
