"""`holdfast reconcile`: whether the hot store and the ledger say the same."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from holdfast_server.app.problem import Problem
from holdfast_server.app.reconcile import Comparing, Reconciliation, comparing
from holdfast_server.app.stores import open_ledger
from holdfast_server.cli.options import json_option, read_settings
from holdfast_server.cli.output import Column, console, print_json, print_rows, show_time
from holdfast_server.cli.values import TEXT
from holdfast_server.ledger.records import Finding
from holdfast_server.settings import Settings

#: The tenant of a service in development mode.
TENANT_DEFAULT = "default"

tenant_option = click.option(
    "--tenant", envvar="HOLDFAST_TENANT", type=TEXT, default=TENANT_DEFAULT, show_default=True
)

_COLUMNS = (
    Column[Finding]("found", lambda each: show_time(each.found_at_ms)),
    Column[Finding]("partition", lambda each: str(each.partition), figure=True),
    Column[Finding]("seq", lambda each: str(each.seq), figure=True),
    Column[Finding]("tenant", lambda each: each.tenant),
    Column[Finding]("account", lambda each: each.difference.figure.account),
    Column[Finding]("type", lambda each: each.difference.figure.credit_type),
    Column[Finding]("version", lambda each: str(each.difference.version), figure=True),
    Column[Finding]("figure", lambda each: each.difference.figure.what),
    Column[Finding]("hot store", lambda each: str(each.difference.hot), figure=True),
    Column[Finding]("ledger", lambda each: str(each.difference.ledger), figure=True),
)


@click.command()
@click.option("--account", type=TEXT, help="Only the tree of this account.")
@tenant_option
@click.option("--all", "everything", is_flag=True, help="Every tree; this is the default.")
@click.option("--findings", is_flag=True, help="Show what the service has found so far.")
@click.option("--redis-url", help="Or HOLDFAST_REDIS_URL.")
@click.option("--postgres-url", help="Or HOLDFAST_POSTGRES_URL.")
@json_option
def reconcile(
    account: str | None,
    tenant: str,
    everything: bool,
    findings: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Compare the hot store with the ledger, figure by figure; status 1 where they differ.

    It asks both stores itself, while the service goes on. `ledger` of a sum is what the figures of
    the hot store add up to.
    """
    if everything + findings + bool(account) > 1:
        raise click.UsageError("give one of --account, --all and --findings")
    settings = read_settings(flags)
    if findings:
        print_rows(asyncio.run(_findings(settings)), _COLUMNS, as_json=as_json)
        return
    found = asyncio.run(_reconcile(settings, tenant, account))
    _print(found, as_json)
    if not found.ok:
        raise Problem(_advice(found))


async def _findings(settings: Settings) -> list[Finding]:
    async with open_ledger(settings) as ledger:
        return await ledger.list_findings()


async def _reconcile(settings: Settings, tenant: str, account: str | None) -> Reconciliation:
    found = Reconciliation()
    async with comparing(settings) as stores:
        if account:
            found.add(await stores.reconciler.compare(await stores.root_of(tenant, account)))
        else:
            await _reconcile_all(stores, found)
    return found


async def _reconcile_all(stores: Comparing, found: Reconciliation) -> None:
    for behind in await stores.reconciler.compare_positions():
        found.add(behind)
    total = await stores.ledger.count_roots()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("trees", total=total)
        async for tree in stores.trees():
            found.add(await stores.reconciler.compare(tree))
            progress.advance(task)


def _print(found: Reconciliation, as_json: bool) -> None:
    if as_json:
        print_json({"ok": found.ok, **_counts(found), "findings": found.findings})
        return
    if found.findings:
        print_rows(found.findings, _COLUMNS[1:], as_json=False)
    counts = ", ".join(f"{count} {name}" for name, count in _counts(found).items() if count)
    console().print(f"{counts or 'no trees'}.")


def _counts(found: Reconciliation) -> dict[str, int]:
    return {
        "agree": found.agree,
        "drift": found.drift,
        "behind": found.behind,
        "too_large": found.too_large,
        "cold": found.cold,
    }


def _advice(found: Reconciliation) -> str:
    if found.drift:
        return "hot store and ledger do not agree: keep both as they are, see the runbook on drift"
    if found.behind:
        return "the ledger is behind the hot store, so not all was compared: look at the flusher"
    return "some trees are too large to be read in one step, so not all was compared"
