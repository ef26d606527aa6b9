"""One worker process: gRPC in, decisions out. Several share one port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from holdfast_server.app.compose import (
    Decider,
    build_decider,
    build_gate,
    build_operations,
    build_server,
    build_waiting,
    open_spool,
)
from holdfast_server.app.durability import LevelsWatch
from holdfast_server.app.process import (
    Parent,
    Process,
    collect_seldom,
    run_process,
)
from holdfast_server.background import background
from holdfast_server.control.looking import keep_looking
from holdfast_server.control.replay import Replayer
from holdfast_server.engine.backlog import entries_waiting
from holdfast_server.settings import Settings

#: Pause between two looks at how much waits for a batch, and how much for the ledger.
WATCH_SECONDS = 1.0


async def work(settings: Settings, parent: Parent | None) -> None:
    """Serves until told to stop, then finishes what is running; see `run_process`."""
    await run_process(settings, "worker", _work, parent)


async def _work(
    process: Process, ready: Callable[[], Awaitable[None]], stopping: asyncio.Event
) -> None:
    settings = process.settings
    async with AsyncExitStack() as stack:
        spool = open_spool(process)
        stack.push_async_callback(spool.close)
        decider = build_decider(process)
        # It ends before the spool does: what the last batches could not decide may still pass.
        stack.push_async_callback(decider.batcher.close)
        operations = build_operations(process, decider)
        waiting = build_waiting(process, decider, operations)
        stack.push_async_callback(waiting.close)
        gate = build_gate(process, decider, waiting.durable, spool)
        server = await build_server(process, decider, gate, waiting.durable)
        # What passed long ago waits for nothing, and is never refused for want of a replica.
        replayer = Replayer(spool, operations, process.kill, decider.signer, process.metrics)
        watch = LevelsWatch(waiting.levels, settings, process.metrics)
        await watch.begin()
        for task in (replayer.run(), _watch_queues(process, decider), watch.run()):
            await stack.enter_async_context(background(task))
        await server.start()
        stack.push_async_callback(server.drain, settings.drain_grace_ms / 1000)
        await server.set_ready(True)
        collect_seldom()
        await ready()
        await stopping.wait()


async def _watch_queues(process: Process, decider: Decider) -> None:
    async def look() -> None:
        process.metrics.queued(decider.batcher.depth)
        # While the store is away, what was known stays.
        waiting = await entries_waiting(process.store, process.keys)
        decider.batcher.is_backlogged = waiting >= process.settings.outbox_entries_hard

    await keep_looking("how much waits", look, pause_seconds=WATCH_SECONDS)
