"""Trees that are read together: one that cannot be brought fails alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild import Folding
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger import histories
from holdfast_server.ledger.sql import QUERIES
from tests.support.both import Both
from tests.support.due import sweeper_of
from tests.support.eviction import evict

NAMES = [f"a{number}" for number in range(12)]
BAD = NAMES[5]
LIFE_MS = 1_000


async def evicted(both: Both) -> None:
    """Trees in the ledger alone in which a grant is due, one of them with a long history."""
    for name in NAMES:
        await both.account(name)
        expires_at_ms = both.real.clock.now_ms + LIFE_MS
        for _ in range(20 if name == BAD else 1):
            await both.grant(name, 1, expires_at_ms=expires_at_ms)
    await both.flushed()
    for name in NAMES:
        await evict(both.real, "t", name)
    both.real.clock.now_ms += LIFE_MS


async def check_that_one_fails(both: Both, reason: Reason) -> None:
    assert await sweeper_of(both.real).sweep() == (0, len(NAMES) - 1)
    outcomes = await both.real.decide([op.GetBalance("t", name) for name in NAMES])
    failed = {
        name: each.reason
        for name, each in zip(NAMES, outcomes, strict=True)
        if isinstance(each, HoldfastError)
    }
    assert failed == {BAD: reason}


async def test_a_history_that_does_not_come_in_time(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of it is waited for no longer than a page may take, and the others come without it."""
    await evicted(both)
    read = QUERIES["entries_of_trees"].replace(
        "entry.account = a.account",
        "entry.account = a.account AND (a.account <> '" + BAD + "' OR pg_sleep(30) IS NULL)",
    )
    assert BAD in read
    monkeypatch.setattr(histories, "QUERIES", {**QUERIES, "entries_of_trees": read})
    monkeypatch.setattr(histories, "PAGE_MS_MAX", 300)
    await check_that_one_fails(both, Reason.LEDGER_UNAVAILABLE)


async def test_a_history_that_makes_no_tree(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Folding):
        def add(self, entries: Sequence[Entry]) -> None:
            if entries[0].account == BAD:
                self.fault = ValueError("no tree comes of it")
            super().add(entries)

    await evicted(both)
    monkeypatch.setattr(histories, "Folding", Fails)
    await check_that_one_fails(both, Reason.INTERNAL)
