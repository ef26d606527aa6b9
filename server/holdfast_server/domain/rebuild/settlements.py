"""How holds are captured and end: committed, released, expired, and committed late."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.rebuild.holds import burned_of, extended, pledge
from holdfast_server.domain.rebuild.state import Rebuilt, detail_of, post
from holdfast_server.domain.twin import limits
from holdfast_server.domain.twin.draw import split_draws
from holdfast_server.domain.twin.memory import LateHold
from holdfast_server.domain.twin.state import AccountState, HoldLine, HoldRecord


def settle(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Commit and Release."""
    tree, first = rebuilt.tree, transaction[0]
    hold = tree.holds[first.hold]
    path, untouched = tree.path(hold.account), _untouched(hold)
    limits.settle_counters(path, first.event_ms)
    _post_all(rebuilt, transaction)
    for line in hold.lines:
        _settle_line(rebuilt, path, hold, line, transaction)
    if first.ends_hold is None:
        detail = detail_of(transaction)
        if detail["ttl_ms"]:
            hold.expires_ms = extended(hold, detail["ttl_ms"], first.event_ms)
        return
    if untouched and first.kind is EntryKind.RELEASE:
        limits.give_back(tree.accounts, hold.counts, "", 1, first.event_ms)
    _close(rebuilt, hold)


def expire(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """A hold whose time was over: it can be committed late from then on."""
    tree, first = rebuilt.tree, transaction[0]
    hold = tree.holds[first.hold]
    untouched = _untouched(hold)
    rebuilt.late[hold.hold] = LateHold(
        hold.account,
        hold.feature,
        hold.mode,
        [HoldLine(line.credit_type, line.held, [], line.captured) for line in hold.lines],
        hold.expires_ms + LATE_COMMIT_WINDOW_MS,
        not untouched,
    )
    _post_all(rebuilt, transaction)
    for line in hold.lines:
        pledge(rebuilt, line.credit_type, line.draws, -1)
        limits.give_back(tree.accounts, hold.counts, line.credit_type, line.held, first.event_ms)
    if untouched:
        limits.give_back(tree.accounts, hold.counts, "", 1, first.event_ms)
    _close(rebuilt, hold)


def commit_late(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Commit of an expired hold: all of it was drawn anew."""
    first, late = transaction[0], rebuilt.late[transaction[0].hold]
    path = rebuilt.tree.path(late.account)
    limits.settle_counters(path, first.event_ms)
    _post_all(rebuilt, transaction)
    amounts = {line.credit_type: burned_of(transaction, line.credit_type) for line in late.lines}
    for line in late.lines:
        line.requested = max(0, line.requested - amounts[line.credit_type])
        line.captured += amounts[line.credit_type]
    if not late.counted and any(amounts.values()):
        late.counted = True
        limits.count_use(path, late.feature, "", 1, first.event_ms)
    for credit_type, amount in amounts.items():
        if amount:
            limits.count_use(path, late.feature, credit_type, amount, first.event_ms)
    if detail_of(transaction).get("final", True):
        del rebuilt.late[first.hold]


def commit_lost(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Commit of a hold that was lost with the store: as if it had expired, by its token."""
    first = transaction[0]
    mode, feature, expires_ms, *held = detail_of(transaction)["lost"]
    lines = [HoldLine(name, amount, []) for name, amount in zip(held[::2], held[1::2], strict=True)]
    until_ms = max(expires_ms, first.event_ms) + LATE_COMMIT_WINDOW_MS
    rebuilt.late[first.hold] = LateHold(first.actor, feature, Mode(mode), lines, until_ms, False)
    commit_late(rebuilt, transaction)


def _post_all(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    for entry in transaction:
        post(rebuilt.tree, entry)


def _settle_line(
    rebuilt: Rebuilt,
    path: list[AccountState],
    hold: HoldRecord,
    line: HoldLine,
    transaction: Sequence[Entry],
) -> None:
    """The first draws were burned; the rest went back where the hold ended, and is kept else."""
    now_ms, name = transaction[0].event_ms, line.credit_type
    above = [entry for entry in transaction if entry.kind is EntryKind.OVERAGE]
    overage = burned_of(above, name)
    burned, rest = split_draws(line.draws, burned_of(transaction, name) - overage)
    ended = transaction[0].ends_hold is not None
    gone = line.draws if ended else burned
    pledge(rebuilt, name, gone, -1)
    line.draws = [] if ended else rest
    line.captured += overage + sum(draw.amount for draw in burned)
    returned = sum(draw.amount for draw in rest) if ended else 0
    limits.give_back(rebuilt.tree.accounts, hold.counts, name, returned, now_ms)
    if overage:
        limits.count_use(path, hold.feature, name, overage, now_ms)


def _untouched(hold: HoldRecord) -> bool:
    return not any(line.captured for line in hold.lines)


def _close(rebuilt: Rebuilt, hold: HoldRecord) -> None:
    del rebuilt.tree.holds[hold.hold]
    rebuilt.tree.accounts[hold.account].open_holds -= 1
