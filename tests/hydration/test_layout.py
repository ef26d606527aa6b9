"""A snapshot is worth as much as the entries it stands for, wherever it was taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby

import pytest

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.operation import AccountTerms, Limit
from holdfast_server.domain.rebuild import (
    SNAPSHOT_LAYOUT,
    MissingEntries,
    Rebuilt,
    Snapshot,
    UnusableSnapshot,
    rebuild,
    restore,
    take,
    tell,
)
from holdfast_server.domain.twin.memory import LateHold
from holdfast_server.domain.twin.state import (
    AccountState,
    Count,
    Counter,
    Credit,
    Draw,
    Grant,
    HoldLine,
    HoldRecord,
    Tree,
)
from holdfast_server.engine.image import draw_image
from tests.hydration.test_rebuild import ROOTS, entries_of, offsets_now
from tests.property.test_oracle import TENANT, Oracle, find_fault, run_histories

EXAMPLES = 40

#: What a snapshot of this layout says. A test cannot know whether the fold still means the same.
SAID = {
    Tree: "tenant root accounts holds",
    AccountState: "account parent terms created_ms offsets version credits counters open_holds "
    "last_refund_seq height",
    AccountTerms: "parent display_name status overdraft_limits limits zone labels",
    Limit: "limit_id unit window maximum enforcement window_ms credit_type feature warn_percents",
    Counter: "limit number used level level_ms",
    Credit: "version buckets grants pending topped pledged",
    Grant: "grant_id remaining priority expires_ms paid effective_ms repay held revoked",
    HoldRecord: "hold account feature mode placed_ms expires_ms lines counts",
    HoldLine: "credit_type requested draws captured",
    Draw: "account source amount",
    Count: "account counter window amount credit_type",
    LateHold: "account feature mode lines until_ms counted",
    Rebuilt: "tree offsets_at late entries partition epoch seq event_ms",
}


def reread(told: Rebuilt) -> Rebuilt:
    """What is left of it when only its snapshot is."""
    snapshot = take(told)
    return restore(snapshot, snapshot.digest, offsets_now)


def resumed(entries: Sequence[Entry], ends: Sequence[int], root: str) -> Iterator[Rebuilt]:
    """The tree of all entries, by a snapshot that was taken at each of these places."""
    for end in ends:
        again = reread(rebuild(TENANT, root, entries[:end], offsets_now))
        tell(again, entries[end:])
        yield again


def boundaries(entries: Sequence[Entry]) -> list[int]:
    """Behind each transaction."""
    ends, end = [], 0
    for _, group in groupby(entries, key=lambda entry: entry.first_seq):
        end += len(list(group))
        ends.append(end)
    return ends


class Resumed(Oracle):
    """Snapshots of every tree at every transaction of its history."""

    def balances_agree(self) -> None:
        return None

    def ends(self, entries: Sequence[Entry]) -> Sequence[int]:
        return boundaries(entries)

    def teardown(self) -> None:
        entries = self.loop.run_until_complete(self.real.entries())
        try:
            for root in ROOTS:
                self.check(entries_of(entries, root), root)
        finally:
            self.loop.run_until_complete(self.real.store.close())

    def check(self, entries: Sequence[Entry], root: str) -> None:
        whole = rebuild(TENANT, root, entries, offsets_now)
        expected, image = take(whole), draw_image(reread(whole))
        for again in resumed(entries, self.ends(entries), root):
            assert take(again) == expected
            assert draw_image(reread(again)) == image
            assert draw_image(again).fields == draw_image(whole).fields
            assert draw_image(again).due == draw_image(whole).due


class ResumedAnywhere(Resumed):
    """The naive one: it cuts transactions in two."""

    def ends(self, entries: Sequence[Entry]) -> Sequence[int]:
        return range(1, len(entries))


@pytest.mark.timeout(0)
def test_a_tree_goes_on_from_every_snapshot_as_if_there_were_none(valkey_url: str) -> None:
    run_histories(Resumed, valkey_url, EXAMPLES)


@pytest.mark.timeout(0)
def test_the_check_sees_a_snapshot_of_half_a_transaction(valkey_url: str) -> None:
    others = (KeyError, StopIteration, MissingEntries, ValueError)
    find_fault(ResumedAnywhere, valkey_url, *others)


def test_a_change_of_what_is_kept_is_a_new_layout() -> None:
    found = {kind: " ".join(each.name for each in fields(kind)) for kind in SAID}
    assert (SNAPSHOT_LAYOUT, found) == (2, SAID)


def some_snapshot() -> Snapshot:
    return Snapshot("t", "r", 3, 1, 9, 1_000, 4, SNAPSHOT_LAYOUT, b"[[],[],[]]")


def test_a_snapshot_of_another_layout_is_not_read() -> None:
    other = replace(some_snapshot(), layout=SNAPSHOT_LAYOUT + 1)
    with pytest.raises(UnusableSnapshot, match="layout"):
        restore(other, other.digest)


def test_a_snapshot_that_changed_is_not_read() -> None:
    snapshot = some_snapshot()
    assert restore(snapshot, snapshot.digest).seq == 9
    for changed in (
        replace(snapshot, state=b"[[],[],[] ]"),
        replace(snapshot, seq=8),
        replace(snapshot, root="s"),
        replace(snapshot, event_ms=1),
    ):
        with pytest.raises(UnusableSnapshot, match="not what it was"):
            restore(changed, snapshot.digest)


@pytest.mark.parametrize("state", [b"", b"{}", b"[[],[]]", b"[[1],[],[]]", b"[[],[[]],[]]"])
def test_a_snapshot_that_makes_no_tree_is_not_used(state: bytes) -> None:
    snapshot = replace(some_snapshot(), state=state)
    with pytest.raises(UnusableSnapshot, match="cannot be read"):
        restore(snapshot, snapshot.digest)
