"""`holdfast bench`: how fast, and what it costs, beside a floor in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from holdfast_server.app.profile import profiled
from holdfast_server.bench.benches import BENCHES, WITHOUT_FLUSHER, steps
from holdfast_server.bench.profile import Share, commands, functions, profiles
from holdfast_server.bench.report import Found
from holdfast_server.bench.stage import Options, Stage
from holdfast_server.cli.local import LocalService, run_locally
from holdfast_server.cli.options import json_option, settings_options
from holdfast_server.cli.output import Column, print_facts, print_json, print_rows

#: Options that say how much is done.
AMOUNTS = ("accounts", "operations", "rounds", "in_flight", "hot_percent")


@click.command()
@click.argument("name", type=click.Choice(list(BENCHES)))
@click.option(
    "--accounts",
    default=1_000,
    type=click.IntRange(1, 1_000_000),
    show_default=True,
    help="Accounts, with 3 grants each.",
)
@click.option(
    "--operations",
    default=20_000,
    type=click.IntRange(2),
    show_default=True,
    help="Operations in one round.",
)
@click.option(
    "--rounds",
    default=3,
    type=click.IntRange(1, 100),
    show_default=True,
    help="Rounds of it, and of its floor.",
)
@click.option(
    "--in-flight",
    default=128,
    type=click.IntRange(1, 10_000),
    show_default=True,
    help="Callers at one time.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1_000),
    help="Operations in one batch [default: 500; engine and growth: 100].",
)
@click.option(
    "--hot-percent",
    default=0,
    type=click.IntRange(0, 100),
    show_default=True,
    help="Share of one account.",
)
@click.option("--profile", is_flag=True, help="Show where the time goes; figures then mean little.")
@settings_options
@json_option
def bench(name: str, batch: int | None, profile: bool, as_json: bool, **flags: Any) -> None:
    """Measure one thing beside its floor, in turn, on a service of its own.

    Settings are those of the flags alone: variables may lead to stores that others use.

    \b
    session   callers that share one stream; the floor is a bare gRPC server
    unary     CPU of the server for a call of its own; the floor is a bare call
    batch     batches through the whole service; the floor is a bare script
    lease     decisions in one process; the floor is the session
    engine    CPU of the store for one Reserve; the floor is a bare script
    flush     rows a second into the ledger, and its lag; the floor is a plain COPY
    memory    bytes of an idle account with one grant; the floor is what it may take
    growth    a Reserve among many accounts; the floor is one among few
    hydrate   trees a second into a store that lost all; the floor reads their rows
    """
    size = batch or (100 if name in {"engine", "growth"} else 500)
    amounts = {each: flags.pop(each) for each in AMOUNTS}
    options = Options(batch=size, **amounts)
    only = name in WITHOUT_FLUSHER
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(name, total=steps(name, options))

        async def measure(service: LocalService) -> tuple[Found, list[Share]]:
            # Not how stores are made and removed, which takes longer than a short run.
            with profiled("client"):
                stage = _stage(service, lambda: progress.advance(task))
                found = await BENCHES[name](stage, options)
            return found, await commands(service.settings.redis_url) if profile else []

        if not profile:
            found, _ = run_locally(flags, measure, workers_only=only)
            _show(found, as_json)
            return
        with profiles() as folder:
            found, shares = run_locally(flags, measure, workers_only=only)
            _show_shares([*functions(folder), *shares])
    _show(found, as_json)


def _stage(service: LocalService, on_round: Callable[[], None]) -> Stage:
    settings = service.settings
    return Stage(
        service.serving.target,
        settings.redis_url,
        settings.postgres_url,
        settings.partitions,
        service.serving.processes,
        on_round,
    )


def _show_shares(shares: list[Share]) -> None:
    """To standard error: standard output is the benchmark's."""
    table = Table("process", "what", box=None)
    for heading in ("calls", "seconds", "%"):
        table.add_column(heading, justify="right")
    for each in shares:
        figures = (f"{each.calls:,}", f"{each.seconds:.3f}", f"{each.percent:.1f}")
        table.add_row(each.process, each.what, *figures)
    Console(stderr=True, width=120).print(table)


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json())
        return
    facts = {f"{found.bench}, {found.unit}": f"{found.measure:,.2f}"}
    ratio = "too few operations" if found.ratio is None else f"{found.ratio:.2f}"
    facts |= {"floor": f"{found.floor:,.2f}", "ratio": ratio}
    tables = {name: value for name, value in found.facts.items() if isinstance(value, list)}
    facts |= {name: str(value) for name, value in found.facts.items() if name not in tables}
    print_facts(facts, found.as_json(), as_json=False)
    click.echo()
    for rows in tables.values():
        _show_rows(rows)
        click.echo()
    names = sorted({*found.cpu_us, *found.floor_cpu_us})
    columns = [
        Column[str]("CPU us per operation", lambda each: each),
        Column[str]("measure", lambda each: f"{found.cpu_us.get(each, 0):.1f}", figure=True),
        Column[str]("floor", lambda each: f"{found.floor_cpu_us.get(each, 0):.1f}", figure=True),
    ]
    print_rows(names, columns, as_json=False)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    headings = dict.fromkeys(name for row in rows for name in row)
    columns = [Column[dict[str, Any]](name, _figure_of(name), figure=True) for name in headings]
    print_rows(rows, columns, as_json=False)


def _figure_of(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"{row[name]:,}" if name in row else ""
