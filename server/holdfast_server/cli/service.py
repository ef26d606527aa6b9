"""`holdfast serve`, `flush`, `sweep`, `migrate`, `settings`: what runs in production."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import click

from holdfast_server import failpoint
from holdfast_server.app.flush import flush as run_flush
from holdfast_server.app.problem import Problem
from holdfast_server.app.process import Parent, start_logging
from holdfast_server.app.supervisor import Serving
from holdfast_server.app.supervisor import serve as run_serve
from holdfast_server.app.sweep import sweep as run_sweep
from holdfast_server.app.worker import work as run_worker
from holdfast_server.cli.options import json_option, read_settings, settings_options
from holdfast_server.cli.output import Column, print_json, print_rows
from holdfast_server.engine.idle import IdleLoop
from holdfast_server.ledger.migrate import migrate as run_migrate
from holdfast_server.settings import Row, Settings, describe, strangers

log = logging.getLogger(__name__)

_SETTING_COLUMNS = (
    Column[Row]("setting", lambda each: each.name),
    Column[Row]("value", lambda each: f"{each.value} {each.unit}".strip()),
    Column[Row]("from", lambda each: each.origin),
    Column[Row]("variable", lambda each: each.variable),
    Column[Row]("allowed", lambda each: each.allowed, prose=True),
    Column[Row]("meaning", lambda each: each.meaning, prose=True),
)


def _child_options(command: Callable[..., None]) -> Callable[..., None]:
    """Hidden options by which a supervisor starts this command as its child."""
    process = click.option("--parent", "process_id", type=int, hidden=True)
    pipe = click.option("--ready-pipe", type=int, hidden=True)
    return process(pipe(command))


@click.command()
@click.option("--workers-only", is_flag=True, help="Flusher and sweeper run elsewhere.")
@settings_options
@json_option
def serve(workers_only: bool, as_json: bool, **flags: Any) -> None:
    """Serve until SIGTERM: workers on one port, a flusher and a sweeper.

    The schema must be current (`holdfast migrate`). Prints one line when it is ready.
    """
    settings = _started(flags, "supervisor")
    for stranger in strangers(os.environ):
        log.warning("%s: it is ignored", stranger)
    asyncio.run(
        run_serve(settings, lambda up: print_serving(up, as_json), workers_only=workers_only)
    )


@click.command(hidden=True)
@settings_options
@_child_options
def worker(process_id: int | None, ready_pipe: int | None, **flags: Any) -> None:
    """Serve in one process, which shares its port with others."""
    with asyncio.Runner(loop_factory=IdleLoop) as runner:
        runner.run(run_worker(_started(flags, "worker"), _parent(process_id, ready_pipe)))


@click.command()
@settings_options
@_child_options
def flush(process_id: int | None, ready_pipe: int | None, **flags: Any) -> None:
    """Bring the outbox into the ledger until SIGTERM. Several may run: one works."""
    asyncio.run(run_flush(_started(flags, "flusher"), _parent(process_id, ready_pipe)))


@click.command()
@settings_options
@_child_options
def sweep(process_id: int | None, ready_pipe: int | None, **flags: Any) -> None:
    """End holds and grants that are due, until SIGTERM. Several may run."""
    asyncio.run(run_sweep(_started(flags, "sweeper"), _parent(process_id, ready_pipe)))


@click.command()
@click.option("--postgres-url", help="Or HOLDFAST_POSTGRES_URL.")
@json_option
def migrate(postgres_url: str | None, as_json: bool) -> None:
    """Bring the ledger's schema up to date; safe to run at any time, from many places."""
    settings = read_settings({"postgres_url": postgres_url})
    if not settings.postgres_url:
        raise Problem("HOLDFAST_POSTGRES_URL is not set: give the URL of the ledger's database")
    applied: list[str] = []
    asyncio.run(run_migrate(settings.postgres_url, on_step=applied.append))
    if as_json:
        print_json({"applied": applied})
    else:
        click.echo("\n".join(f"applied {name}" for name in applied) or "The schema is current.")


@click.command()
@settings_options
@json_option
def settings(as_json: bool, **flags: Any) -> None:
    """Print every setting: value, where it comes from, what is allowed, what it means."""
    print_rows(describe(read_settings(flags)), _SETTING_COLUMNS, as_json=as_json)


def print_serving(serving: Serving, as_json: bool) -> None:
    """The line that says that callers are welcome."""
    if as_json:
        print_json(serving)
        return
    metrics = f"; metrics at {serving.metrics}" if serving.metrics else ""
    click.echo(f"holdfast serves {serving.target} with {serving.workers} workers{metrics}")


def _started(flags: dict[str, Any], role: str) -> Settings:
    failpoint.check_allowed()
    found = read_settings(flags)
    start_logging(found, role)
    return found


def _parent(process_id: int | None, ready_pipe: int | None) -> Parent | None:
    if process_id is None or ready_pipe is None:
        return None
    return Parent(process_id, ready_pipe)
