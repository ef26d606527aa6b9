"""The sweeper process: ends holds and grants whose time has come without anybody asking, compares
the hot store with the ledger, removes from it what nobody uses, brings back what it lost, and keeps
snapshots of what is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from holdfast_server.app.compose import (
    build_auditor,
    build_decider,
    build_due_search,
    build_evictor,
    build_former_homes,
    build_hot_trees,
    build_snapshot_audit,
    build_warm_up,
)
from holdfast_server.app.process import Parent, Process, run_process, run_until
from holdfast_server.background import background
from holdfast_server.control.sweeper import Sweeper
from holdfast_server.engine.due import DueIndex
from holdfast_server.settings import Settings


async def sweep(settings: Settings, parent: Parent | None) -> None:
    """Sweeps until told to stop; see `run_process`."""
    await run_process(settings, "sweeper", _sweep, parent)


async def _sweep(
    process: Process, ready: Callable[[], Awaitable[None]], stopping: asyncio.Event
) -> None:
    decider = build_decider(process)
    index = DueIndex(process.store, process.keys, clock_ms=process.store.clock.expected_ms)
    interval_s = process.settings.sweep_interval_ms / 1000
    sweeper = Sweeper(index, decider.engine, interval_s, process.metrics)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background(build_due_search(process).run()))
        await stack.enter_async_context(background(build_former_homes(process).run()))
        await stack.enter_async_context(background(build_warm_up(process, decider).run()))
        await stack.enter_async_context(background(build_hot_trees(process).run()))
        if process.settings.audit_trees_per_second:
            await stack.enter_async_context(background(build_auditor(process).run()))
            await stack.enter_async_context(background(build_snapshot_audit(process).run()))
        if process.settings.evict_idle_ms:
            await stack.enter_async_context(background(build_evictor(process).run()))
        await run_until(stopping, sweeper, ready)
    await decider.batcher.close()
