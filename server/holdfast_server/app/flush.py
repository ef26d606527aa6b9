"""The flusher process: brings the outbox into the ledger, says how much waits, and lets a second
place vouch for what the ledger has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from holdfast_server.app.backlog import Backlog
from holdfast_server.app.evidence import build_checkpointer
from holdfast_server.app.process import (
    Parent,
    Process,
    collect_seldom,
    run_process,
    run_until,
)
from holdfast_server.background import background
from holdfast_server.control.looking import keep_looking
from holdfast_server.engine.backlog import entries_waiting
from holdfast_server.engine.outbox import Outbox
from holdfast_server.flusher.events import FlusherHooks
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.settings import Settings

#: Pause between two looks at how much waits.
WATCH_PAUSE_SECONDS = 1.0


async def flush(settings: Settings, parent: Parent | None) -> None:
    """Flushes until told to stop; see `run_process`."""
    await run_process(settings, "flusher", _flush, parent)


async def _flush(
    process: Process, ready: Callable[[], Awaitable[None]], stopping: asyncio.Event
) -> None:
    outbox = Outbox(process.store.client, process.keys)
    backlog = Backlog(process.metrics, process.settings.outbox_entries_soft)
    flusher = Flusher(
        outbox,
        Appender(process.settings.postgres_url),
        hooks=FlusherHooks(
            on_flushed=backlog.reached,
            on_batch=backlog.flushed,
            on_halted=backlog.halted,
            on_standby=backlog.stand_by,
            span=process.tracing.flush,
            recovery=Coordinator(_stores(process), process.metrics),
        ),
        batch_entries_max=process.settings.flush_batch_entries_max,
        retention=Retention(
            process.settings.outbox_retention_ms, process.settings.outbox_retention_entries
        ),
    )
    collect_seldom()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background(_watch(process, backlog)))
        checkpointer = build_checkpointer(process)
        if checkpointer:
            # Behind the flusher: the last checkpoint has what the flusher wrote last.
            stack.push_async_callback(checkpointer.finish)
            await stack.enter_async_context(background(checkpointer.run()))
        await run_until(stopping, flusher, ready)


def _stores(process: Process) -> Stores:
    return Stores(
        process.ledger,
        process.store,
        process.keys,
        process.settings.postgres_url,
        process.facts.name,
    )


async def _watch(process: Process, backlog: Backlog) -> None:
    async def look() -> None:
        # While the store is away, what was known stays.
        if backlog.positions:
            backlog.waiting(await entries_waiting(process.store, process.keys))
            backlog.timed(is_suspect=process.store.clock.is_suspect)

    await keep_looking("how much waits", look, pause_seconds=WATCH_PAUSE_SECONDS)
