"""What entries say of grants and of limits, told plainly: an oracle that shares no rule with the
twin, nor with the scripts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.twin.state import AccountState, Tree
from holdfast_server.domain.twin.windows import settle_counter, used_of, window_at

CALENDAR = frozenset({op.LimitWindow.CALENDAR_DAY, op.LimitWindow.CALENDAR_MONTH})


def check_grants(entries: Iterable[Entry]) -> None:
    """What remains of a grant, is held, burned, expired and revoked, is together what was given,
    and none of it is ever negative.
    """
    given, parts = Counter[str](), defaultdict[str, list[int]](lambda: [0] * 5)
    for entry in entries:
        detail: dict[str, Any] = dict(entry.context.detail)
        if entry.kind is EntryKind.GRANT:
            given[detail["grant_id"]] = detail["amount"]
        made = {each["grant_id"] for each in detail.get("goodwill", ())}
        for posting in entry.grants:
            pairs = zip(parts[posting.grant_id], posting.changes, strict=True)
            parts[posting.grant_id] = [before + change for before, change in pairs]
            assert min(parts[posting.grant_id]) >= 0, entry
            if posting.grant_id in made:
                given[posting.grant_id] += sum(posting.changes)
    assert {name: sum(each) for name, each in parts.items()} == {
        name: given[name] for name in parts
    }


def check_use(entries: Sequence[Entry], tree: Tree, now_ms: int) -> None:
    """Calendar limits that nobody has changed count what holds, burns and Commits say."""
    if _has_moved(entries):
        return
    for state in tree.accounts.values():
        for counter in state.counters if state.version == 1 else ():
            if counter.limit.window in CALENDAR:
                below = {name for name in tree.accounts if _is_on(tree.path(name), state)}
                mine = [entry for entry in entries if entry.actor in below and entry.credit_type]
                expected = _use(mine, counter.limit, state, now_ms)
                settle_counter(counter, state.offsets, now_ms)
                assert expected in (used_of(counter), None), (state.account, counter)


def _is_on(path: Iterable[AccountState], state: AccountState) -> bool:
    return any(above is state for above in path)


def _has_moved(entries: Iterable[Entry]) -> bool:
    places = {
        (entry.account, entry.context.detail["parent"])
        for entry in entries
        if entry.kind is EntryKind.ACCOUNT
    }
    return len(places) > len({account for account, _ in places})


@dataclass(slots=True)
class _Story:
    """A hold, or a burn in one step: when it was counted, and what came of it."""

    window: int
    feature: str
    burned: int = 0


def _use(entries: Sequence[Entry], limit: op.Limit, state: AccountState, now_ms: int) -> int | None:
    """What counts now; None where it was more than can be counted."""
    stories: dict[str, _Story] = {}
    counts, most = Counter[int](), 0
    for first_seq, group in groupby(entries, lambda entry: entry.first_seq):
        transaction = list(group)
        first = transaction[0]
        window = window_at(limit, state.offsets, first.event_ms)
        name = first.hold or str(first_seq)
        story = stories.setdefault(name, _Story(window, first.context.feature))
        if limit.feature in ("", story.feature):
            if limit.unit is op.LimitUnit.REQUESTS:
                _count_request(counts, story, transaction, window)
            else:
                mine = [each for each in transaction if each.credit_type == limit.credit_type]
                _count_amounts(counts, story, mine, window)
        story.burned += sum(each.delta.burned for each in transaction)
        most = max(most, *counts.values(), 0)
    return counts[window_at(limit, state.offsets, now_ms)] if most < AMOUNT_MAX else None


def _count_request(
    counts: Counter[int], story: _Story, transaction: Sequence[Entry], window: int
) -> None:
    """One of which nothing was burned counts no longer, until something of it is burned late."""
    kind = transaction[0].kind
    if kind in (EntryKind.HOLD, EntryKind.BURN):
        counts[window] += 1
    elif kind in (EntryKind.RELEASE, EntryKind.HOLD_EXPIRED) and not story.burned:
        counts[story.window] -= 1
    elif kind is EntryKind.LATE_COMMIT and not story.burned:
        counts[window] += any(entry.delta.burned for entry in transaction)


def _count_amounts(
    counts: Counter[int], story: _Story, entries: Iterable[Entry], window: int
) -> None:
    """What was held counts when it was; what it did not cover when it was burned."""
    for entry in entries:
        if entry.kind is EntryKind.HOLD:
            counts[window] += entry.delta.held
        elif entry.kind in (EntryKind.BURN, EntryKind.OVERAGE, EntryKind.LATE_COMMIT):
            counts[window] += entry.delta.burned
        elif entry.kind in (EntryKind.COMMIT, EntryKind.RELEASE, EntryKind.HOLD_EXPIRED):
            counts[story.window] += entry.delta.held + entry.delta.burned
