"""A tree with everything, and a ledger that is read by a second process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from holdfast_server.control.hydration import HydrationLimits, Hydrator
from holdfast_server.domain import operation as op
from holdfast_server.engine.cold import Name
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.ledger.histories import TreesRead
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both

DAILY = op.Limit(
    "daily",
    op.LimitUnit.AMOUNT,
    op.LimitWindow.CALENDAR_DAY,
    500,
    op.LimitEnforcement.HARD,
    credit_type="ai",
)


class Between:
    """The real ledger, with something that happens after each of its readings."""

    def __init__(self, both: Both, then: Callable[[], Any] | None = None) -> None:
        self._both, self._then = both, then
        self.reads: list[Sequence[Name]] = []

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        self.reads.append(names)
        read = await self._both.ledger.read_trees(names)
        if self._then is not None:
            then, self._then = self._then, None
            await then()
        return read


def hydrator(both: Both, ledger: Between, **limits: int) -> Hydrator:
    """A second process's, so to speak."""
    trees = TreeStore(both.real.store, both.real.keys)
    return Hydrator(ledger, trees, Recorder(), HydrationLimits(**limits))


async def start(both: Both) -> None:
    """An account with everything that an account can have, and one below it.

    Now, since the engine computes the offsets of zones by the real clock.
    """
    both.real.clock.now_ms = time.time_ns() // 1_000_000
    await both.account(
        "root",
        limits=(DAILY,),
        zone="Europe/Berlin",
        overdraft_limits={"ai": 50},
        display_name="Root",
        labels={"plan": "gold"},
    )
    await both.account("child", parent="root")
    now_ms = both.real.clock.now_ms
    await both.grant("root", 100)
    await both.grant("child", 30, expires_at_ms=now_ms + 86_400_000)
    await both.grant("child", 10, effective_at_ms=now_ms + 3_600_000)
    burned = await both.do(op.Burn("t", "child", (op.Line("ai", 12),), both.key()))
    assert burned.applied.seq
    await both.do(
        op.Refund("t", burned.applied.transaction_id, both.key(), (op.RefundLine("ai", 5),), "test")
    )
    await both.flushed()
