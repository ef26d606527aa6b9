"""Fixtures of these tests."""

from __future__ import annotations

import time

import pytest

from holdfast_server.control import hot_trees, snapshots
from holdfast_server.domain import operation as op
from holdfast_server.ledger import histories
from tests.hydration.snapshot_stage import TAIL, Stage
from tests.support.both import Both


@pytest.fixture
async def stage(both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A tree with a limit of each window, small pages, and snapshots of small trees."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_TAIL", TAIL)
    monkeypatch.setattr(hot_trees, "SNAPSHOT_TAIL", TAIL)
    monkeypatch.setattr(hot_trees, "ENTRIES_PER_SECOND", 1_000_000)
    monkeypatch.setattr(histories, "PAGE_ENTRIES", 3)
    # The engine computes the offsets of zones by the real clock.
    both.real.clock.now_ms = time.time_ns() // 1_000_000
    windows = [(each, 60_000) for each in (op.LimitWindow.SLIDING, op.LimitWindow.BURST)]
    windows += [(op.LimitWindow.CALENDAR_DAY, 0), (op.LimitWindow.CALENDAR_MONTH, 0)]
    limits = tuple(
        op.Limit(f"l{n}", op.LimitUnit.AMOUNT, window, 500, op.LimitEnforcement.HARD, ms, "ai")
        for n, (window, ms) in enumerate(windows)
    )
    await both.account("root", limits=limits, zone="Europe/Berlin", overdraft_limits={"ai": 50})
    await both.account("child", parent="root", labels={"plan": "gold"})
    await both.grant("root", 1_000)
    return Stage(both, migrated_postgres_url)
