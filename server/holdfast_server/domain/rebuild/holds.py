"""Holds that are placed or extended, and burns in one step."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.bounds import HOLD_AGE_MS_MAX
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild.state import Rebuilt, detail_of, post
from holdfast_server.domain.twin import limits
from holdfast_server.domain.twin.state import (
    DEBT,
    UNENFORCED,
    AccountState,
    Count,
    Draw,
    HoldLine,
    HoldRecord,
)


def hold(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Reserve. Only what took all there was says in its detail what had been asked for."""
    tree, first, detail = rebuilt.tree, transaction[0], detail_of(transaction)
    now_ms, path = first.event_ms, tree.path(first.actor)
    asked = detail.get("asked", {})
    lines = [_line(path, name, transaction, asked) for name in credit_types(transaction)]
    for entry in transaction:
        post(tree, entry)
    for line in lines:
        pledge(rebuilt, line.credit_type, line.draws, 1)
    counts = _count(path, first, [(line.credit_type, line.held) for line in lines])
    assert first.mode is not None
    tree.holds[first.hold] = HoldRecord(
        first.hold,
        first.actor,
        first.context.feature,
        first.mode,
        now_ms,
        now_ms + detail["ttl_ms"],
        lines,
        counts,
    )
    tree.accounts[first.actor].open_holds += 1


def burn(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Burn in one step."""
    path = rebuilt.tree.path(transaction[0].actor)
    for entry in transaction:
        post(rebuilt.tree, entry)
    burned = [(name, burned_of(transaction, name)) for name in credit_types(transaction)]
    _count(path, transaction[0], burned)


def extend(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Extend: it moves nothing."""
    (entry,) = transaction
    post(rebuilt.tree, entry)
    found = rebuilt.tree.holds[entry.hold]
    found.expires_ms = extended(found, detail_of(transaction)["ttl_ms"], entry.event_ms)


def extended(found: HoldRecord, ttl_ms: int, now_ms: int) -> int:
    """The new end of a hold, within its maximum age."""
    return min(now_ms + ttl_ms, found.placed_ms + HOLD_AGE_MS_MAX)


def credit_types(transaction: Sequence[Entry]) -> list[str]:
    """The credit types of a transaction, in the order of its lines."""
    return list(dict.fromkeys(entry.credit_type for entry in transaction))


def burned_of(transaction: Sequence[Entry], credit_type: str) -> int:
    """How much of a credit type a transaction burned."""
    mine = (entry for entry in transaction if entry.credit_type == credit_type)
    return sum(entry.delta.burned for entry in mine)


def pledge(rebuilt: Rebuilt, credit_type: str, draws: Sequence[Draw], sign: int) -> None:
    """Pledges debt and unenforced use to a hold; -1 takes it back."""
    for draw in draws:
        if draw.source in (DEBT, UNENFORCED):
            credit = rebuilt.tree.accounts[draw.account].credit(credit_type)
            credit.pledged[draw.source] += sign * draw.amount


def _line(
    path: Sequence[AccountState],
    credit_type: str,
    transaction: Sequence[Entry],
    asked: dict[str, int],
) -> HoldLine:
    draws = list(_draws(path, [each for each in transaction if each.credit_type == credit_type]))
    held = sum(draw.amount for draw in draws)
    return HoldLine(credit_type, asked.get(credit_type, held), draws)


def _draws(path: Sequence[AccountState], entries: Sequence[Entry]) -> list[Draw]:
    """What was drawn, in order: from grants as the entries name them, then from overdrafts on the
    way up, then what shadow mode let pass.
    """
    draws = [
        Draw(entry.account, posting.grant_id, posting.held)
        for entry in entries
        for posting in entry.grants
    ]
    deltas = {entry.account: entry.delta for entry in entries}
    upwards = [state.account for state in path if state.account in deltas]
    draws += [Draw(name, DEBT, deltas[name].debt) for name in upwards]
    draws += [Draw(name, UNENFORCED, deltas[name].unenforced) for name in upwards]
    return [draw for draw in draws if draw.amount]


def _count(
    path: list[AccountState], first: Entry, amounts: Sequence[tuple[str, int]]
) -> list[Count]:
    """Counts a request, and what it took, under every limit."""
    limits.settle_counters(path, first.event_ms)
    counts: list[Count] = []
    for credit_type, amount in [("", 1), *amounts]:
        counts += limits.count_use(
            path, first.context.feature, credit_type, amount, first.event_ms
        )[0]
    return counts
