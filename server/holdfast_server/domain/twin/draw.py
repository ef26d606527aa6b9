"""Burn order: from which grants an amount is taken, and how the draw is booked."""

from __future__ import annotations

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.state import DEBT, UNENFORCED, AccountState, Credit, Draw, Grant
from holdfast_server.errors import HoldfastError, Reason


def spendable(path: list[AccountState], credit_type: str) -> int:
    """What a Reserve could hold: available on the whole path, then overdraft."""
    total = sum(available(state, credit_type) + state.overdraft_room(credit_type) for state in path)
    return min(AMOUNT_MAX, total)


def available(state: AccountState, credit_type: str) -> int:
    """The account's own available credits."""
    credit = state.credits.get(credit_type)
    return credit.buckets["available"] if credit else 0


def draw_from_grants(
    path: list[AccountState], credit_type: str, amount: int
) -> tuple[list[Draw], int]:
    """Takes from the own grants first, then from those above; answers the draws and what is
    missing.
    """
    draws = []
    for state in path:
        for grant in state.credits[credit_type].grants if credit_type in state.credits else ():
            part = min(amount, 0 if grant.revoked else grant.remaining)
            if part > 0:
                draws.append(Draw(state.account, grant.grant_id, part))
                amount -= part
    return draws, amount


def draw_from_overdraft(
    path: list[AccountState], credit_type: str, amount: int
) -> tuple[list[Draw], int]:
    """Takes from the own overdraft first, then from that of the accounts above."""
    draws = []
    for state in path:
        part = min(amount, state.overdraft_room(credit_type))
        if part > 0:
            draws.append(Draw(state.account, DEBT, part))
            amount -= part
    return draws, amount


def check_room(path: list[AccountState], credit_type: str, draws: list[Draw]) -> None:
    """Refuses draws whose booking would take a bucket past 2^53-1."""
    for state in path:
        credit = state.credits.get(credit_type, Credit())
        booked = sum(
            draw.amount
            for draw in draws
            if draw.account == state.account and draw.source in (DEBT, UNENFORCED)
        )
        if booked > credit.room():
            raise HoldfastError(
                Reason.BALANCE_LIMIT_EXCEEDED,
                "the account cannot hold amounts this large",
                credit_type=credit_type,
            )


def apply_draws(
    journal: Journal,
    kind: EntryKind,
    accounts: dict[str, AccountState],
    credit_type: str,
    draws: list[Draw],
    target: str,
) -> None:
    """Books draws into `held` or `burned`."""
    for draw in draws:
        state = accounts[draw.account]
        if draw.source in (DEBT, UNENFORCED):
            journal.book(kind, state, credit_type, draw.source, target, draw.amount)
            if target == "held":
                state.credit(credit_type).pledged[draw.source] += draw.amount
        else:
            grant = grant_of(state, credit_type, draw)
            journal.transfer(kind, state, credit_type, ("available", target), draw.amount, grant)
            state.credit(credit_type).forget(grant)


def grant_of(state: AccountState, credit_type: str, draw: Draw) -> Grant:
    """The grant that a draw came from. It exists as long as something of it is held."""
    grant = state.credit(credit_type).find(draw.source)
    assert grant is not None
    return grant


def split_draws(draws: list[Draw], amount: int) -> tuple[list[Draw], list[Draw]]:
    """The first `amount` of the draws, and the rest."""
    first, rest = [], []
    for draw in draws:
        part = min(amount, draw.amount)
        if part > 0:
            first.append(Draw(draw.account, draw.source, part))
        if draw.amount > part:
            rest.append(Draw(draw.account, draw.source, draw.amount - part))
        amount -= part
    return first, rest
