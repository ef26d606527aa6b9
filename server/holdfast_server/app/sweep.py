"""The sweeper process: ends holds and grants whose time has come without anybody asking."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast_server.app.compose import FIRST_EPOCH, build_decider
from holdfast_server.app.process import Parent, Process, run_process
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
    index = DueIndex(process.store, process.keys, FIRST_EPOCH)
    interval_s = process.settings.sweep_interval_ms / 1000
    sweeper = Sweeper(index, decider.engine, interval_s, process.metrics.holds_open)
    running = asyncio.create_task(sweeper.run())
    await ready()
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    sweeper.stop()
    await running
    await decider.batcher.close()
