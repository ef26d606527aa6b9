"""What must hold between ledger, hot store, balances and history. Pure; answers sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from holdfast import BalanceResult
from holdfast_server.workload.checks.ledger import BUCKETS, HELD, Fold, Place, Transaction
from holdfast_server.workload.checks.store import Stored
from holdfast_server.workload.history import Acknowledged, History

NOTHING = [0] * len(BUCKETS)

#: What only happens because somebody asked. The service does the rest by itself, as holds expire.
ASKED_FOR = frozenset(
    {
        "CreateAccount",
        "UpdateAccount",
        "Grant",
        "Revoke",
        "Reserve",
        "Commit",
        "Release",
        "Extend",
        "Burn",
        "Refund",
    }
)


@dataclass(frozen=True, slots=True)
class Accounted:
    """How acknowledged operations stand in the ledger."""

    #: Acknowledged, but not in the ledger as acknowledged.
    lost: tuple[str, ...]
    #: In the ledger more than once, or without having been asked for.
    duplicates: tuple[str, ...]


def compare_store(fold: Fold, stored: Stored, accounts: set[str]) -> Iterator[str]:
    """The hot store's buckets and versions are the sums of the ledger's rows; no hold is left."""
    for place in fold.sums.keys() | stored.buckets.keys():
        if place[1] not in accounts:
            continue
        ledger, hot = fold.sums.get(place, NOTHING), stored.buckets.get(place, NOTHING)
        if ledger != hot:
            yield f"{place}: the ledger says {ledger}, the hot store {hot}"
        versions = fold.versions.get(place, 0), stored.versions.get(place, 0)
        if versions[0] != versions[1]:
            yield f"{place}: the ledger has version {versions[0]}, the hot store {versions[1]}"
    for hold, account in stored.open_holds.items():
        if account in accounts:
            yield f"hold {hold} is left in the hot store"


def compare_balances(fold: Fold, balances: Iterable[BalanceResult]) -> Iterator[str]:
    """What the service answers is the sums of the ledger's rows."""
    by_account: dict[str, dict[str, list[int]]] = {}
    for (_, account, credit_type), sums in fold.sums.items():
        by_account.setdefault(account, {})[credit_type] = sums
    for balance in balances:
        ledger = by_account.get(balance.account, {})
        answered = {
            one.credit_type: [getattr(one.buckets, name) for name in BUCKETS]
            for one in balance.credits
        }
        for credit_type in ledger.keys() | answered.keys():
            expected, found = ledger.get(credit_type, NOTHING), answered.get(credit_type, NOTHING)
            if expected != found:
                yield f"{balance.account} {credit_type}: {found} answered, {expected} in the ledger"
        if balance.open_holds or balance.stale:
            yield f"{balance.account}: {balance.open_holds} open holds, stale {balance.stale}"


def compare_holds(fold: Fold, accounts: set[str]) -> Iterator[str]:
    """Every hold of the run has ended exactly once, and nothing is held."""
    for name, transaction in fold.transactions.items():
        if transaction.placed and transaction.account in accounts:
            for hold in transaction.holds:
                if len(fold.ends.get(hold, ())) != 1:
                    yield f"hold {hold} of {name} has ended {len(fold.ends.get(hold, ()))} times"
    for (tenant, account, credit_type), sums in fold.sums.items():
        if account in accounts and sums[HELD]:
            place: Place = (tenant, account, credit_type)
            yield f"{place}: {sums[HELD]} are still held"


def account_for(fold: Fold, history: History, accounts: set[str]) -> Accounted:
    """Each acknowledged operation is in the ledger once, and nothing else is."""
    lost = [problem for one in history.acknowledged if (problem := _missing(fold, one))]
    acknowledged = {one.transaction_id for one in history.acknowledged}
    holds = {
        hold for name in acknowledged & fold.transactions.keys() for hold in _holds(fold, name)
    }
    duplicates = [
        f"{method} {key} was applied as {', '.join(sorted(names))}"
        for (method, key), names in fold.keys.items()
        if len(names) > 1
    ]
    unasked = (
        f"{transaction.method} {transaction.key} was applied as {name} without an answer"
        for name, transaction in fold.transactions.items()
        if name not in acknowledged
        and transaction.account in accounts
        and not _may_be_unanswered(transaction, history, holds)
    )
    return Accounted(tuple(lost), (*duplicates, *unasked))


def _holds(fold: Fold, name: str) -> set[str]:
    return fold.transactions[name].holds


def _missing(fold: Fold, one: Acknowledged) -> str | None:
    transaction = fold.transactions.get(one.transaction_id)
    what = f"{one.method} {one.key} in {one.transaction_id}"
    if transaction is None:
        return f"{what} is not in the ledger"
    if transaction.last_seq != one.seq:
        return f"{what} ends at {transaction.last_seq}, acknowledged was {one.seq}"
    if one.key and transaction.key != one.key:
        return f"{what} has the key {transaction.key} in the ledger"
    moved = _moved(one.method, transaction)
    if moved != one.amount:
        return f"{what} moved {moved}, acknowledged was {one.amount}"
    return None


def _moved(method: str, transaction: Transaction) -> int:
    """What a transaction moved, as its method counts it."""
    match method:
        case "Reserve":
            return transaction.placed
        case "Commit" | "Burn":
            return transaction.burned
        case "Refund":
            return -transaction.burned
        case "Release":
            return -transaction.held
        case "Grant":
            return transaction.granted
        case _:
            return 0


def _may_be_unanswered(transaction: Transaction, history: History, holds: set[str]) -> bool:
    """Whether it was sent without an answer, or needs none.

    A block's settlement has a key that only the client knows: it is recognised by its hold.
    """
    if transaction.method not in ASKED_FOR or transaction.key in history.unanswered:
        return True
    unanswered_blocks = bool(history.failures)
    return unanswered_blocks and bool(transaction.holds) and transaction.holds <= holds
