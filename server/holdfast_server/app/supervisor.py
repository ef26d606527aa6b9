"""`holdfast serve`: workers on one port, a flusher and a sweeper, kept running until the stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_server.app.address import HeldAddress, hold_address
from holdfast_server.app.child import Child, Program
from holdfast_server.app.exposition import Source, collect_pages, serve_http
from holdfast_server.app.lifeline import stop_event
from holdfast_server.app.problem import Problem
from holdfast_server.app.start import check_state_dir, check_stores, warn_of_certificates
from holdfast_server.control.admin_socket import socket_path
from holdfast_server.settings import Settings, check_serving, variable_of

log = logging.getLogger(__name__)

#: Most time from the start of a process until it does its work; stores may be slow to answer.
READY_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What was started, for whoever waits for it."""

    target: str
    #: URL of the metrics page, or empty.
    metrics: str
    workers: int
    #: Process ids by name: "worker-0", "flusher", …
    processes: Mapping[str, int]


@asynccontextmanager
async def running(
    settings: Settings, stopping: asyncio.Event, *, workers_only: bool = False
) -> AsyncIterator[Serving]:
    """A service that answers for as long as the block lasts, and then finishes what is running.

    The block begins once every process does its work, or `stopping` is set. Raises `Problem`,
    `SettingsError` and `HoldfastError` when it cannot start; then nothing is left running.
    """
    check_serving(settings)
    check_state_dir(settings)
    warn_of_certificates(settings)
    with hold_address(settings.host, settings.port) as address:
        await check_stores(settings)
        fleet = _Fleet(settings, _programs(settings, address, workers_only))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(fleet.stop)
            metrics = await stack.enter_async_context(_metrics_page(settings, fleet))
            stack.callback(fleet.refuse)
            fleet.start()
            await fleet.wait_until_ready(stopping)
            yield fleet.serving(address, metrics)
    log.info("stopped")


async def serve(
    settings: Settings, announce: Callable[[Serving], None], *, workers_only: bool = False
) -> None:
    """Serves until SIGTERM or SIGINT. `announce` is called once, when callers are welcome.

    Raises as `running` does.
    """
    stopping = stop_event()
    async with running(settings, stopping, workers_only=workers_only) as serving:
        if not stopping.is_set():
            announce(serving)
        await stopping.wait()


def child_environment(
    settings: Settings, base: Mapping[str, str], **changes: object
) -> dict[str, str]:
    """The environment from which a child reads the same settings, but for `changes`."""
    environment = dict(base)
    for name, origin in settings.origins.items():
        if origin == "flag":
            environment[variable_of(name)] = _text(getattr(settings, name))
    environment.update({variable_of(name): _text(value) for name, value in changes.items()})
    return environment


class _Fleet:
    """The processes of one service, and the order in which they end."""

    def __init__(self, settings: Settings, programs: Sequence[Program]) -> None:
        self._settings = settings
        self._children = [Child(program) for program in programs]
        self._runs: dict[asyncio.Task[int], Child] = {}
        self._leaving = False

    @property
    def ready(self) -> bool:
        """Whether callers are welcome: some worker answers, and nobody asked for an end."""
        workers = (child for child in self._children if child.program.role == "worker")
        return not self._leaving and any(child.ready.is_set() and child.pid for child in workers)

    def start(self) -> None:
        """Starts every process."""
        for child in self._children:
            self._runs[asyncio.create_task(child.run())] = child

    def sockets(self) -> dict[str, Path]:
        """The admin sockets of the processes that live, by name."""
        return {
            child.program.name: socket_path(self._settings.state_dir, child.program.role, child.pid)
            for child in self._children
            if child.pid
        }

    def serving(self, address: HeldAddress, metrics: str) -> Serving:
        """What runs now."""
        processes = {child.program.name: child.pid for child in self._children if child.pid}
        return Serving(address.target(), metrics, self._settings.worker_count, processes)

    async def wait_until_ready(self, stopping: asyncio.Event) -> None:
        """Returns when all are ready or a stop was asked for; raises when one cannot start."""
        watches = [asyncio.create_task(self._all_ready()), asyncio.create_task(stopping.wait())]
        waited: list[asyncio.Task[Any]] = [*watches, *self._runs]
        done, _ = await asyncio.wait(
            waited, timeout=READY_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
        )
        for watch in watches:
            watch.cancel()
        ended = [child.program.name for run, child in self._runs.items() if run in done]
        if ended:
            raise Problem(f"{', '.join(ended)} could not start: the lines above say why")
        if not done:
            raise Problem(f"not every process was ready within {READY_SECONDS_MAX:.0f} s")

    async def _all_ready(self) -> None:
        for child in self._children:
            await child.ready.wait()

    def refuse(self) -> None:
        """From now on callers are not welcome."""
        self._leaving = True

    async def stop(self) -> None:
        """Ends workers first, so that the flusher sees the last entry, and the flusher last."""
        grace_seconds = self._settings.drain_grace_ms / 1000
        for role in ("worker", "sweeper", "flusher"):
            ending = [child for child in self._children if child.program.role == role]
            await asyncio.gather(*(child.stop(grace_seconds) for child in ending))
        await asyncio.gather(*self._runs)


def _programs(settings: Settings, address: HeldAddress, workers_only: bool) -> list[Program]:
    environment = child_environment(
        settings, os.environ, port=address.port, state_dir=settings.state_dir, metrics_port=0
    )
    programs = [
        Program(f"worker-{index}", "worker", ("worker",), environment)
        for index in range(settings.worker_count)
    ]
    if not workers_only:
        programs.append(Program("flusher", "flusher", ("flush",), environment))
        programs.append(Program("sweeper", "sweeper", ("sweep",), environment))
    return programs


@asynccontextmanager
async def _metrics_page(settings: Settings, fleet: _Fleet) -> AsyncIterator[str]:
    """The metrics page while the service runs; yields its URL, or empty where there is none."""
    if not settings.metrics_port:
        yield ""
        return
    source = Source(lambda: collect_pages(fleet.sockets()), lambda: fleet.ready)
    server = await serve_http(settings.metrics_host, settings.metrics_port, source)
    try:
        yield f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"
    finally:
        server.close()


def _text(value: object) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
