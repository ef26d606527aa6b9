"""`holdfast recovery`: which partitions are fenced, what was lost, and doing something about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import click

from holdfast_server import failpoint
from holdfast_server.app.recovery import recovering
from holdfast_server.app.stores import known_partitions, open_ledger
from holdfast_server.cli.options import json_option, read_settings
from holdfast_server.cli.output import Column, console, print_json, print_rows, show_time
from holdfast_server.cli.reconcile import tenant_option
from holdfast_server.cli.values import TEXT
from holdfast_server.ledger.recovery import Loss, Standing
from holdfast_server.recovery.case import Recovered
from holdfast_server.settings import Settings

_STANDING_COLUMNS = (
    Column[Standing]("partition", lambda each: str(each.partition), figure=True),
    Column[Standing]("state", lambda each: "FENCED" if each.fencing else "decides"),
    Column[Standing]("epoch", lambda each: str(each.epoch), figure=True),
    Column[Standing]("since", lambda each: show_time(each.fenced_at_ms or each.opened_at_ms)),
    Column[Standing]("ledger at", lambda each: str(each.seq), figure=True),
    Column[Standing]("last recovery", lambda each: each.reason),
    Column[Standing]("why", lambda each: each.why, prose=True),
)
_LOSS_COLUMNS = (
    Column[Loss]("reported", lambda each: show_time(each.reported_at_ms)),
    Column[Loss]("partition", lambda each: str(each.partition), figure=True),
    Column[Loss]("epoch", lambda each: str(each.epoch), figure=True),
    Column[Loss]("first lost", lambda each: str(each.first_seq), figure=True),
    Column[Loss]("last lost", lambda each: str(each.last_seq), figure=True),
    Column[Loss]("entries", lambda each: str(each.entries), figure=True),
)
_RECOVERED_COLUMNS = (
    Column[Recovered]("partition", lambda each: str(each.partition), figure=True),
    Column[Recovered]("what became of it", lambda each: each.verdict.value),
    Column[Recovered]("state", lambda each: "decides" if each.armed else "FENCED"),
    Column[Recovered]("epoch", lambda each: str(each.epoch), figure=True),
    Column[Recovered]("ledger at", lambda each: str(each.ledger_seq), figure=True),
    Column[Recovered]("hot store at", lambda each: str(each.hot_seq), figure=True),
    Column[Recovered]("acknowledged", lambda each: str(each.acknowledged_seq), figure=True),
    Column[Recovered]("in quarantine", lambda each: str(each.quarantined), figure=True),
    Column[Recovered]("why", lambda each: each.explanation or each.why, prose=True),
)


def _url_options(command: Callable[..., None]) -> Callable[..., None]:
    redis = click.option("--redis-url", help="Or HOLDFAST_REDIS_URL.")
    postgres = click.option("--postgres-url", help="Or HOLDFAST_POSTGRES_URL.")
    return redis(postgres(json_option(command)))


@click.group()
def recovery() -> None:
    """Partitions that are fenced because the hot store may have lost something.

    The service recovers them by itself. These commands ask both stores directly.
    """


@recovery.command()
@click.option("--all", "everything", is_flag=True, help="Also partitions that decide.")
@_url_options
def status(everything: bool, as_json: bool, **flags: Any) -> None:
    """Show fenced partitions; status 1 if there are any."""
    found = asyncio.run(_standings(read_settings(flags)))
    fenced = [each for each in found if each.fencing]
    print_rows(found if everything else fenced, _STANDING_COLUMNS, as_json=as_json)
    if fenced:
        raise click.exceptions.Exit(1)


@recovery.command()
@_url_options
def report(as_json: bool, **flags: Any) -> None:
    """Show acknowledged entries that are lost, by place; their content nobody has."""
    print_rows(asyncio.run(_losses(read_settings(flags))), _LOSS_COLUMNS, as_json=as_json)


@recovery.command()
@click.option(
    "--rebuild",
    type=int,
    multiple=True,
    metavar="PARTITION",
    help="Begin this partition anew from the ledger, whatever the hot store has. Repeatable.",
)
@_url_options
def run(rebuild: Sequence[int], as_json: bool, **flags: Any) -> None:
    """Recover now what is fenced; status 1 if something stays fenced."""
    failpoint.check_allowed()
    done = asyncio.run(_run(read_settings(flags), rebuild))
    print_rows(done, _RECOVERED_COLUMNS, as_json=as_json)
    if not all(each.armed for each in done):
        raise click.exceptions.Exit(1)


@recovery.command()
@click.argument("account", type=TEXT)
@tenant_option
@_url_options
def account(account: str, tenant: str, as_json: bool, **flags: Any) -> None:
    """Bring back an account that somebody removed from the hot store by hand.

    All accounts of its tree come back, as the ledger has them.
    """
    root = asyncio.run(_bring_back(read_settings(flags), tenant, account))
    if as_json:
        print_json({"tenant": tenant, "root": root})
    else:
        console().print(f"The tree of {root} is back in the hot store.")


async def _standings(settings: Settings) -> list[Standing]:
    async with open_ledger(settings) as ledger:
        return await ledger.standings()


async def _losses(settings: Settings) -> list[Loss]:
    async with open_ledger(settings) as ledger:
        return await ledger.losses()


async def _bring_back(settings: Settings, tenant: str, account: str) -> str:
    async with recovering(settings) as stores:
        return await stores.bring_back(tenant, account)


async def _run(settings: Settings, rebuild: Sequence[int]) -> list[Recovered]:
    async with recovering(settings) as stores:
        chosen = known_partitions(rebuild, stores.keys.partitions)
        return await stores.coordinator.recover(frozenset(chosen))
