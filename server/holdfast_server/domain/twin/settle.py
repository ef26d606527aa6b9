"""Commit, Release and expiry: what of a hold is burned, and where the rest goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import Mode, Overage
from holdfast_server.domain.reply import GrantShare, SettledLine
from holdfast_server.domain.twin.draw import (
    apply_draws,
    available,
    check_room,
    draw_from_grants,
    grant_of,
    split_draws,
)
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.state import DEBT, UNENFORCED, AccountState, Draw, HoldLine, Tree


@dataclass(slots=True)
class Shares:
    """Collects each grant's part, in the order in which grants are touched."""

    parts: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)

    def add(self, draw: Draw, part: str) -> None:
        """Adds a draw to one part ("burned", "returned", "expired" or "revoked") of its grant's
        share.
        """
        if draw.source not in (DEBT, UNENFORCED):
            share = self.parts.setdefault((draw.source, draw.account), {})
            share[part] = share.get(part, 0) + draw.amount

    def as_tuple(self) -> tuple[GrantShare, ...]:
        """As the receipt shows them."""
        return tuple(
            GrantShare(grant_id, account, **parts)
            for (grant_id, account), parts in self.parts.items()
        )


@dataclass(slots=True)
class Overflow:
    """How use that no hold covers is paid: from grants, then as debt or unenforced."""

    draws: list[Draw]

    def part(self, source: str) -> int:
        """What is booked as debt or unenforced."""
        return sum(draw.amount for draw in self.draws if draw.source == source)


def _debtor(path: list[AccountState], credit_type: str) -> str:
    """Who owes what no credits cover: the first on the path that was ever granted this credit type.

    Its next grant will repay the debt. The root owes when nobody was.
    """
    for state in path:
        credit = state.credits.get(credit_type)
        if credit is not None and credit.buckets["granted"] > 0:
            return state.account
    return path[-1].account


def plan_overflow(
    tree: Tree,
    account: str,
    credit_type: str,
    amount: int,
    mode: Mode,
    overage: Overage,
    within: int = 0,
) -> Overflow:
    """Available credits in burn order; the rest is owed, or unenforced in shadow and, beyond what
    was held once (`within`, for a late Commit), with CAP.
    """
    path = tree.path(account)
    draws, missing = draw_from_grants(path, credit_type, amount)
    if missing > 0:
        excess = min(missing, max(0, amount - within)) if overage is Overage.CAP else 0
        forgiven = missing if mode is Mode.SHADOW else excess
        if missing > forgiven:
            draws.append(Draw(_debtor(path, credit_type), DEBT, missing - forgiven))
        if forgiven:
            draws.append(Draw(account, UNENFORCED, forgiven))
    check_room(path, credit_type, draws)
    return Overflow(draws)


@dataclass(slots=True)
class LinePlan:
    """What a settlement does to one line."""

    line: HoldLine
    burned: list[Draw]
    returned: list[Draw]
    kept: list[Draw]
    overflow: Overflow


def plan_line(
    tree: Tree, account: str, line: HoldLine, amount: int, keep: bool, mode: Mode, overage: Overage
) -> LinePlan:
    """Burns the first `amount` of the draws; the rest is kept or goes back."""
    burned, rest = split_draws(line.draws, amount)
    excess = max(0, amount - line.held)
    overflow = (
        plan_overflow(tree, account, line.credit_type, excess, mode, overage)
        if excess
        else Overflow([])
    )
    return LinePlan(line, burned, [] if keep else rest, rest if keep else [], overflow)


def settle_line(
    journal: Journal, tree: Tree, account: str, plan: LinePlan, kind: EntryKind, now_ms: int
) -> SettledLine:
    """Books a plan; answers the receipt of the line."""
    line, shares = plan.line, Shares()
    for draw in plan.burned:
        _burn(journal, tree.accounts[draw.account], line.credit_type, draw, kind)
        shares.add(draw, "burned")
    for draw in reversed(plan.returned):
        shares.add(
            draw,
            _give_back(journal, tree.accounts[draw.account], line.credit_type, draw, kind, now_ms),
        )
    over_kind = EntryKind.OVERAGE if kind is EntryKind.COMMIT else kind
    apply_draws(journal, over_kind, tree.accounts, line.credit_type, plan.overflow.draws, "burned")
    for draw in plan.overflow.draws:
        shares.add(draw, "burned")
    line.draws = plan.kept
    return _receipt(plan, shares, tree.accounts[account])


def _receipt(plan: LinePlan, shares: Shares, state: AccountState) -> SettledLine:
    burned = sum(draw.amount for draw in plan.burned)
    overage = sum(draw.amount for draw in plan.overflow.draws)
    plan.line.captured += burned + overage
    return SettledLine(
        credit_type=plan.line.credit_type,
        burned=burned + overage,
        returned=sum(draw.amount for draw in plan.returned),
        overage=overage,
        debt=sum(draw.amount for draw in plan.burned if draw.source == DEBT)
        + plan.overflow.part(DEBT),
        unenforced=sum(draw.amount for draw in plan.burned if draw.source == UNENFORCED)
        + plan.overflow.part(UNENFORCED),
        held_after=plan.line.held,
        available_after=available(state, plan.line.credit_type),
        grants=shares.as_tuple(),
    )


def _burn(
    journal: Journal, state: AccountState, credit_type: str, draw: Draw, kind: EntryKind
) -> None:
    """Held credits become burned; debt and unenforced stay on the left side, now for good."""
    credit = state.credit(credit_type)
    if draw.source in (DEBT, UNENFORCED):
        journal.transfer(kind, state, credit_type, ("held", "burned"), draw.amount, None)
        credit.pledged[draw.source] -= draw.amount
    else:
        grant = grant_of(state, credit_type, draw)
        journal.transfer(kind, state, credit_type, ("held", "burned"), draw.amount, grant)
        credit.forget(grant)


def _give_back(
    journal: Journal,
    state: AccountState,
    credit_type: str,
    draw: Draw,
    kind: EntryKind,
    now_ms: int,
) -> str:
    """Where a held part goes that was not used: back, or where its grant went meanwhile."""
    if draw.source in (DEBT, UNENFORCED):
        journal.book(kind, state, credit_type, draw.source, "held", -draw.amount)
        state.credit(credit_type).pledged[draw.source] -= draw.amount
        return "returned"
    grant = grant_of(state, credit_type, draw)
    target = "revoked" if grant.revoked else "expired" if grant.expired(now_ms) else "available"
    journal.transfer(kind, state, credit_type, ("held", target), draw.amount, grant)
    state.credit(credit_type).forget(grant)
    return "returned" if target == "available" else target
