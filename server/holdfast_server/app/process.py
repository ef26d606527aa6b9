"""What every process of a service has, whatever its role: metrics, traces, the kill switch, an
admin socket, both stores, the policies, and a word to the fleet now and then."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

from holdfast_server.app.deployment import learn_facts
from holdfast_server.app.exposition import Source, serve_http
from holdfast_server.app.heartbeat import say_alive, say_ready
from holdfast_server.app.lifeline import die_with_parent, stop_event
from holdfast_server.app.profile import profiled
from holdfast_server.app.stores import open_ledger
from holdfast_server.background import background
from holdfast_server.control.admin_socket import AdminSocket, socket_path
from holdfast_server.control.config import ConfigCache
from holdfast_server.control.epochs import EpochKeeper
from holdfast_server.control.fleet import Heartbeat
from holdfast_server.control.kill import KillSwitch
from holdfast_server.domain.epoch import Acknowledged
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import Store
from holdfast_server.engine.stores import open_store
from holdfast_server.ledger.records import DeploymentFacts, ProcessReport
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings
from holdfast_server.telemetry.logs import configure
from holdfast_server.telemetry.metrics import Metrics
from holdfast_server.telemetry.tracing import Tracing, open_tracing

#: Objects between two searches for cycles, in a process that makes thousands with each batch.
COLLECT_AFTER = 50_000


@dataclass(frozen=True, slots=True)
class Parent:
    """Who started this process and waits for it to be ready. A process may also stand alone."""

    process_id: int
    ready_pipe: int


@dataclass(frozen=True, slots=True)
class Process:
    """One process, with all it has whatever its role."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    kill: KillSwitch
    ledger: Ledger
    store: Store
    facts: DeploymentFacts
    keys: Keys
    config: ConfigCache
    epochs: EpochKeeper


#: Does the work of a role until it is told to stop. It MUST call the first argument once it works.
Body = Callable[[Process, Callable[[], Awaitable[None]], asyncio.Event], Awaitable[None]]


async def run_process(
    settings: Settings,
    role: str,
    body: Body,
    parent: Parent | None,
) -> None:
    """Runs one role until SIGTERM or SIGINT, or until the parent ends.

    Raises `Problem` and `HoldfastError` when it cannot start.
    """
    stopping = stop_event()
    async with AsyncExitStack() as stack:
        if parent is not None:
            die_with_parent(parent.process_id)
            await stack.enter_async_context(background(say_alive(parent.ready_pipe)))
        process = await stack.enter_async_context(_open_process(settings, role))
        report = _report(role)
        is_ready = asyncio.Event()
        admin = _admin_socket(process, report)
        await admin.start()
        stack.push_async_callback(admin.close)
        heartbeat = Heartbeat(process.ledger, report, process.kill, lambda: process.config.version)
        await process.config.refresh()
        await process.epochs.start()
        tasks = (process.config.run(settings.config_poll_ms), heartbeat.run(), process.epochs.run())
        for task in tasks:
            await stack.enter_async_context(background(task))
        if parent is None and settings.metrics_port:
            await stack.enter_async_context(_own_page(process, is_ready))

        async def ready() -> None:
            is_ready.set()
            if parent is not None:
                say_ready(parent.ready_pipe)

        with profiled(role):
            await body(process, ready, stopping)


class Stoppable(Protocol):
    """Works until it is told to stop, and then finishes what it has begun."""

    async def run(self) -> None:
        """Works."""
        ...

    def stop(self) -> None:
        """Asks `run` to return."""
        ...


async def run_until(
    stopping: asyncio.Event, work: Stoppable, ready: Callable[[], Awaitable[None]]
) -> None:
    """Lets `work` run until `stopping`, says once that it does, and raises what ends it before."""
    running = asyncio.create_task(work.run())
    await ready()
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    work.stop()
    await running


def collect_seldom() -> None:
    """For a process that is built, and makes many values of which hardly any is in a cycle."""
    # What is there by now stays for good: the collector need not look at it again and again.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


@asynccontextmanager
async def _open_process(settings: Settings, role: str) -> AsyncIterator[Process]:
    async with AsyncExitStack() as stack:
        resource = {
            "service.name": "holdfast",
            "service.instance.id": name(),
            "holdfast.role": role,
        }
        metrics = Metrics(resource, settings.otlp_endpoint)
        stack.callback(metrics.close)
        tracing = open_tracing(resource, settings.trace_sample_ratio, settings.otlp_endpoint)
        stack.callback(tracing.close)
        kill = KillSwitch(settings.kill, settings.kill_file, settings.state_dir, metrics)
        # The switch reports changes; an alert needs a figure before the first one.
        metrics.killed(kill.on)
        kill.watch()
        stack.callback(kill.close)
        ledger = await stack.enter_async_context(open_ledger(settings))
        facts = await learn_facts(settings, ledger)
        store = open_store(settings.redis_url)
        if facts.read_at_ms:
            store.clock.hear(facts.read_at_ms)
        stack.push_async_callback(store.close)
        config = ConfigCache(ledger, settings.state_dir, metrics)
        keys = Keys(facts.partitions)
        epochs = EpochKeeper(
            ledger, keys.epochs, Acknowledged(), name(), role, metrics, settings.state_dir
        )
        yield Process(
            settings,
            metrics,
            tracing,
            kill,
            ledger,
            store,
            facts,
            keys,
            config,
            epochs,
        )


def name() -> str:
    """What this process is called in the fleet: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def start_logging(settings: Settings, role: str) -> None:
    """Writes log lines as the settings say, under the role of this process."""
    configure(settings.log_level, settings.log_format, role)


def _report(role: str) -> ProcessReport:
    return ProcessReport(
        process=name(),
        role=role,
        version=version("holdfast"),
        started_at_ms=time.time_ns() // 1_000_000,
        config_version=0,
    )


def _admin_socket(process: Process, report: ProcessReport) -> AdminSocket:
    def health() -> dict[str, object]:
        return {
            "process": report.process,
            "role": report.role,
            "version": report.version,
            "config_version": process.config.version,
        }

    path = socket_path(process.settings.state_dir, report.role, os.getpid())
    return AdminSocket(path, process.kill, lambda: process.metrics.page().decode(), health)


@asynccontextmanager
async def _own_page(process: Process, is_ready: asyncio.Event) -> AsyncIterator[None]:
    """The metrics page of a process that stands alone."""

    async def page() -> bytes:
        return process.metrics.page()

    settings = process.settings
    source = Source(page, is_ready.is_set)
    server = await serve_http(settings.metrics_host, settings.metrics_port, source)
    try:
        yield
    finally:
        server.close()
