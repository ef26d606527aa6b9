"""What time does by itself: holds and grants expire, future grants become effective."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import Mode, Overage
from holdfast_server.domain.twin import limits
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.settle import plan_line, settle_line
from holdfast_server.domain.twin.state import DEBT, AccountState, Credit, Grant, HoldRecord, Tree


@dataclass(slots=True)
class Due:
    """Something whose time comes."""

    at_ms: int
    #: Sorts what is due in the same millisecond as the store's index does.
    member: bytes
    hold: HoldRecord | None = None
    state: AccountState | None = None
    credit_type: str = ""
    grant: Grant | None = None


def first_due(tree: Tree, now_ms: int) -> Due | None:
    """What became due first and has not ended yet."""
    return min(
        (due for due in _all_due(tree) if due.at_ms <= now_ms),
        key=lambda due: (due.at_ms, due.member),
        default=None,
    )


def next_due_ms(tree: Tree) -> int:
    """When the next thing is due; 0 when nothing ever is."""
    return min((due.at_ms for due in _all_due(tree)), default=0)


def _all_due(tree: Tree) -> Iterator[Due]:
    for hold in tree.holds.values():
        yield Due(hold.expires_ms, b"h" + bytes.fromhex(hold.hold), hold=hold)
    for state in tree.accounts.values():
        for credit_type, credit in state.credits.items():
            yield from _grants_due(state, credit_type, credit)


def _grants_due(state: AccountState, credit_type: str, credit: Credit) -> Iterator[Due]:
    for grant in credit.grants:
        if grant.expires_ms and grant.remaining > 0:
            yield _grant_due(b"g", grant.expires_ms, state, credit_type, grant)
    for grant in credit.pending:
        yield _grant_due(b"e", grant.effective_ms, state, credit_type, grant)


def _grant_due(mark: bytes, at_ms: int, state: AccountState, credit_type: str, grant: Grant) -> Due:
    member = mark + bytes.fromhex(grant.grant_id) + f"{state.account}/{credit_type}".encode()
    return Due(at_ms, member, None, state, credit_type, grant)


def expire_hold(journal: Journal, tree: Tree, hold: HoldRecord) -> None:
    """Gives back all that is still held, to grants and limits as they were when it expired."""
    for line in hold.lines:
        held = line.held
        plan = plan_line(tree, hold.account, line, 0, False, Mode.ENFORCE, Overage.CHARGE)
        settle_line(journal, tree, hold.account, plan, EntryKind.HOLD_EXPIRED, hold.expires_ms)
        limits.give_back(tree.accounts, hold.counts, line.credit_type, held, hold.expires_ms)
    if not any(line.captured for line in hold.lines):
        limits.give_back(tree.accounts, hold.counts, "", 1, hold.expires_ms)
    close_hold(journal, tree, hold, EntryKind.HOLD_EXPIRED)


def close_hold(journal: Journal, tree: Tree, hold: HoldRecord, kind: EntryKind) -> None:
    """Forgets an ended hold; an end that moved nothing is written down all the same."""
    if not journal.postings:
        journal.posting(kind, hold.account, hold.lines[0].credit_type)
    del tree.holds[hold.hold]
    tree.accounts[hold.account].open_holds -= 1


def expire_grant(journal: Journal, state: AccountState, credit_type: str, grant: Grant) -> None:
    """The unheld rest is lost."""
    credit = state.credit(credit_type)
    credit.topped = max(0, credit.topped - grant.remaining)
    kind = EntryKind.GRANT_EXPIRED
    journal.transfer(kind, state, credit_type, ("available", "expired"), grant.remaining, grant)
    credit.forget(grant)


def start_grant(
    journal: Journal, state: AccountState, credit_type: str, grant: Grant, kind: EntryKind
) -> int:
    """Credits become available, debt is repaid first; answers what was repaid."""
    credit = state.credit(credit_type)
    amount, grant.remaining = grant.remaining, 0
    repaid = min(amount, credit.settled(DEBT)) if grant.repay else 0
    journal.book(kind, state, credit_type, "granted", "available", amount)
    journal.book(kind, state, credit_type, "debt", "available", -repaid)
    journal.attribute(kind, state, credit_type, grant, "remaining", amount - repaid)
    if repaid:
        journal.attribute(kind, state, credit_type, grant, "burned", repaid)
    if grant.remaining > 0:
        credit.insert(grant)
    credit.topped = credit.buckets["available"]
    return repaid
