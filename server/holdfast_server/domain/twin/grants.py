"""Grant, Revoke and Refund: credits given, taken back and given back."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_server.domain.bounds import GRANTS_MAX
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import AccountStatus, GrantTerms
from holdfast_server.domain.reply import GrantShare
from holdfast_server.domain.twin.due import start_grant
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.state import DEBT, UNENFORCED, AccountState, Credit, Grant
from holdfast_server.errors import HoldfastError, Reason


@dataclass(frozen=True, slots=True)
class RefundPart:
    """One step of a refund, newest burn first: so much back to a grant, or off debt or unenforced
    use.

    `priority`, `expires_ms`, `paid`, `effective_ms` and `revoked` repeat the grant's terms, so that
    a
    grant that was spent and forgotten can come back.
    """

    account: str
    credit_type: str
    #: A grant id, `DEBT` or `UNENFORCED`.
    source: str
    amount: int
    priority: int = 0
    expires_ms: int = 0
    paid: int = 0
    effective_ms: int = 0
    revoked: bool = False
    #: The id of a new grant, for what cannot go back where it came from.
    new_grant_id: str = ""


@dataclass(frozen=True, slots=True)
class RefundPlan:
    """What a refund gives back, as the ledger says it can; made by whoever reads the ledger."""

    account: str
    parts: tuple[RefundPart, ...]
    #: Up to where the ledger was read: refused when the account was refunded after that.
    as_of_seq: int
    refund_of: str
    #: How long a new grant lives that stands for an expired one; 0: what belonged to that one
    #: expires.
    goodwill_ttl_ms: int


@dataclass(slots=True)
class Refunded:
    """What a refund did to one credit type."""

    refunded: int = 0
    debt: int = 0
    unenforced: int = 0
    shares: list[GrantShare] = field(default_factory=list)


def give_grant(
    journal: Journal, path: list[AccountState], terms: GrantTerms, grant_id: str, now_ms: int
) -> int:
    """Books a new grant, or keeps it pending until its time; answers what went into debt."""
    state = path[0]
    _check_grant(path, terms, now_ms)
    credit = state.credit(terms.credit_type)
    effective_ms = terms.effective_at_ms or now_ms
    paid = 1 if terms.cost_amount > 0 else 0
    grant = Grant(
        grant_id,
        terms.amount,
        terms.priority,
        terms.expires_at_ms,
        paid,
        effective_ms,
        terms.repay_debt,
    )
    if effective_ms > now_ms:
        credit.pending.append(grant)
        journal.posting(EntryKind.GRANT, state.account, terms.credit_type)
        return 0
    return start_grant(journal, state, terms.credit_type, grant, EntryKind.GRANT)


def _check_grant(path: list[AccountState], terms: GrantTerms, now_ms: int) -> None:
    if any(state.status is AccountStatus.CLOSED for state in path):
        raise HoldfastError(
            Reason.ACCOUNT_CLOSED, "a closed account takes no grants", account=path[0].account
        )
    if 0 < terms.expires_at_ms <= max(now_ms, terms.effective_at_ms):
        raise HoldfastError(
            Reason.FIELD_INVALID,
            "a grant must expire after it is effective",
            field="terms.expires_at",
        )
    credit = path[0].credits.get(terms.credit_type)
    if credit is not None and len(credit.grants) + len(credit.pending) >= GRANTS_MAX:
        raise _full()
    credit = credit or Credit()
    repays = terms.repay_debt and terms.effective_at_ms <= now_ms
    # Debt that the grant repays makes room for it.
    if terms.amount - min(terms.amount, credit.settled(DEBT) if repays else 0) > credit.room():
        raise HoldfastError(
            Reason.BALANCE_LIMIT_EXCEEDED,
            "the account cannot hold this much",
            credit_type=terms.credit_type,
        )


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a Revoke took, and what is still held."""

    credit_type: str
    revoked: int
    still_held: int


def revoke_grant(
    journal: Journal, state: AccountState, grant_id: str, given: str | None
) -> Revoked:
    """Takes what is not held; held parts follow when they come back.

    `given` is the credit type of the grant, None where the account never had it.
    """
    for credit_type, credit in sorted(state.credits.items()):
        if grant := credit.find(grant_id):
            return _revoke_effective(journal, state, credit_type, credit, grant)
        pending = next((grant for grant in credit.pending if grant.grant_id == grant_id), None)
        if pending is not None:
            return _revoke_pending(journal, state, credit_type, credit, pending)
    if given is None:
        raise HoldfastError(
            Reason.GRANT_NOT_FOUND, "this account has no such grant", grant_id=grant_id
        )
    return _revoke_spent(journal, state, given, grant_id)


def _revoke_effective(
    journal: Journal, state: AccountState, credit_type: str, credit: Credit, grant: Grant
) -> Revoked:
    taken, grant.revoked = grant.remaining, True
    credit.topped = max(0, credit.topped - taken)
    journal.transfer(EntryKind.REVOKE, state, credit_type, ("available", "revoked"), taken, grant)
    credit.forget(grant)
    return Revoked(credit_type, taken, grant.held)


def _revoke_pending(
    journal: Journal, state: AccountState, credit_type: str, credit: Credit, grant: Grant
) -> Revoked:
    credit.pending.remove(grant)
    taken, grant.remaining = grant.remaining, 0
    journal.book(EntryKind.REVOKE, state, credit_type, "granted", "revoked", taken)
    journal.attribute(EntryKind.REVOKE, state, credit_type, grant, "revoked", taken)
    return Revoked(credit_type, taken, 0)


def _revoke_spent(
    journal: Journal, state: AccountState, credit_type: str, grant_id: str
) -> Revoked:
    spent = Grant(grant_id, 0, 0, 0, 0, 0)
    journal.attribute(EntryKind.REVOKE, state, credit_type, spent, "revoked", 0)
    return Revoked(credit_type, 0, 0)


def apply_refund(
    journal: Journal, accounts: dict[str, AccountState], plan: RefundPlan, now_ms: int
) -> dict[str, Refunded]:
    """Gives parts back in the order of the plan; answers what happened per credit type."""
    _check_grants(accounts, plan, now_ms)
    done: dict[str, Refunded] = {}
    for part in plan.parts:
        refunded = done.setdefault(part.credit_type, Refunded())
        refunded.refunded += part.amount
        state = accounts[part.account]
        if part.source in (DEBT, UNENFORCED):
            _refund_debt(journal, state, part, refunded, now_ms)
        else:
            _refund_grant(journal, state, part, plan, refunded, now_ms)
    return done


@dataclass(slots=True)
class _Left:
    """What a credit has before a part of a refund: grants, and what can be taken off."""

    grants: set[str]
    unenforced: int
    debt: int


def _check_grants(accounts: dict[str, AccountState], plan: RefundPlan, now_ms: int) -> None:
    """Refuses a refund that would open more grants than an account may have."""
    known: dict[tuple[str, str], _Left] = {}
    for part in plan.parts:
        credit = accounts[part.account].credits.get(part.credit_type, Credit())
        left = known.setdefault((part.account, part.credit_type), _left(credit))
        needed = _needed_grant(part, plan, credit, left, now_ms)
        if needed and needed not in left.grants:
            left.grants.add(needed)
            if len(left.grants) > GRANTS_MAX:
                raise _full()


def _left(credit: Credit) -> _Left:
    grants = {grant.grant_id for grant in (*credit.grants, *credit.pending)}
    return _Left(grants, credit.settled(UNENFORCED), credit.settled(DEBT))


def _needed_grant(
    part: RefundPart, plan: RefundPlan, credit: Credit, left: _Left, now_ms: int
) -> str:
    """The grant that a part needs to be open, if any. `left` loses what the part takes off."""
    if part.source in (DEBT, UNENFORCED):
        forgiven, owed = _off_debt(part, left.unenforced, left.debt)
        left.unenforced -= forgiven
        left.debt -= owed
        return part.new_grant_id if part.amount > forgiven + owed else ""
    target = _target(part, plan, credit.find(part.source), now_ms)
    return {"available": part.source, "": part.new_grant_id}.get(target, "")


def _full() -> HoldfastError:
    return HoldfastError(
        Reason.ACCOUNT_FULL, "too many grants are open", field="grants", maximum=GRANTS_MAX
    )


def _off_debt(part: RefundPart, unenforced: int, debt: int) -> tuple[int, int]:
    """How much of a part that no grant paid is forgiven, and how much is owed no longer."""
    forgiven = min(part.amount, unenforced) if part.source == UNENFORCED else 0
    return forgiven, min(part.amount - forgiven, debt)


def _refund_debt(
    journal: Journal, state: AccountState, part: RefundPart, refunded: Refunded, now_ms: int
) -> None:
    """Debt that was repaid meanwhile cannot shrink: that part comes back as a new grant without
    expiry.
    """
    kind, credit = EntryKind.REFUND, state.credit(part.credit_type)
    forgiven, owed = _off_debt(part, credit.settled(UNENFORCED), credit.settled(DEBT))
    if forgiven > 0:
        journal.book(kind, state, part.credit_type, UNENFORCED, "burned", -forgiven)
        refunded.unenforced += forgiven
    if owed > 0:
        journal.book(kind, state, part.credit_type, DEBT, "burned", -owed)
        refunded.debt += owed
    if rest := part.amount - forgiven - owed:
        _refund_anew(journal, state, part, rest, 0, now_ms)
        refunded.shares.append(GrantShare(part.new_grant_id, state.account, returned=rest))


def _target(part: RefundPart, plan: RefundPlan, grant: Grant | None, now_ms: int) -> str:
    """The bucket that gets back what a grant paid; "" where goodwill makes a new grant of it."""
    if grant.revoked if grant else part.revoked:
        return "revoked"
    if not 0 < part.expires_ms <= now_ms:
        return "available"
    return "" if plan.goodwill_ttl_ms else "expired"


def _refund_grant(
    journal: Journal,
    state: AccountState,
    part: RefundPart,
    plan: RefundPlan,
    refunded: Refunded,
    now_ms: int,
) -> None:
    credit = state.credit(part.credit_type)
    grant = credit.find(part.source)
    target = _target(part, plan, grant, now_ms)
    if not target:
        _refund_anew(journal, state, part, part.amount, now_ms + plan.goodwill_ttl_ms, now_ms)
        refunded.shares.append(GrantShare(part.new_grant_id, state.account, returned=part.amount))
        return
    if grant is None:
        grant = _ghost(part)
        if target == "available":
            credit.insert(grant)
    journal.transfer(
        EntryKind.REFUND, state, part.credit_type, ("burned", target), part.amount, grant
    )
    share = "returned" if target == "available" else target
    refunded.shares.append(GrantShare(part.source, state.account, **{share: part.amount}))


def _refund_anew(
    journal: Journal,
    state: AccountState,
    part: RefundPart,
    amount: int,
    expires_ms: int,
    now_ms: int,
) -> None:
    """Burned credits become a new grant's; of the one that paid they stay burned.

    Parts with the same new id share one grant.
    """
    credit_type = part.credit_type
    credit = state.credit(credit_type)
    grant = credit.find(part.new_grant_id)
    if grant is None:
        grant = Grant(part.new_grant_id, 0, 0, expires_ms, 0, now_ms)
        credit.insert(grant)
    kind = EntryKind.REFUND
    journal.transfer(kind, state, credit_type, ("burned", "available"), amount, None)
    journal.attribute(kind, state, credit_type, grant, "remaining", amount)


def _ghost(part: RefundPart) -> Grant:
    return Grant(
        part.source,
        0,
        part.priority,
        part.expires_ms,
        part.paid,
        part.effective_ms,
        revoked=part.revoked,
    )
