"""`holdfast grant`: credits given and taken back."""

from __future__ import annotations

import time
from typing import Any

import click

from holdfast import Client, Grant, GrantSource
from holdfast_server.cli.connection import client_command
from holdfast_server.cli.output import Column, print_facts, print_rows, show_time
from holdfast_server.cli.values import AMOUNT, DURATION, INSTANT, LINE, PAIR

_SOURCES = [source.name.lower() for source in GrantSource if source]
_COLUMNS = (
    Column[Grant]("grant", lambda each: each.grant_id),
    Column[Grant]("type", lambda each: each.terms.credit_type),
    Column[Grant]("source", lambda each: each.terms.source.name.lower()),
    Column[Grant]("amount", lambda each: str(each.terms.amount), figure=True),
    Column[Grant]("remaining", lambda each: str(each.remaining), figure=True),
    Column[Grant]("held", lambda each: str(each.held), figure=True),
    Column[Grant]("burned", lambda each: str(each.burned), figure=True),
    Column[Grant]("expired", lambda each: str(each.expired), figure=True),
    Column[Grant]("revoked", lambda each: str(each.revoked), figure=True),
    Column[Grant]("expires", lambda each: show_time(each.terms.expires_at_ms) or "never"),
    Column[Grant]("granted", lambda each: show_time(each.granted_at_ms)),
)


@click.group()
def grant() -> None:
    """Grants: credits given."""


@grant.command()
@click.argument("account")
@click.argument("amount", type=LINE)
@click.option("--source", type=click.Choice(_SOURCES), default="support", show_default=True)
@click.option("--priority", default=0, help="Lower burns first, -1,000 to 1,000.")
@click.option("--effective-at", "effective_at_ms", type=INSTANT, default=0, help="Default: now.")
@click.option("--expires-at", "expires_at_ms", type=INSTANT, default=0, help="Default: never.")
@click.option("--expires-in", type=DURATION, help="The same as a time from now, such as 30d.")
@click.option("--cost", "cost_amount", type=AMOUNT, default=0, help="Paid, in minor units.")
@click.option("--currency", "cost_currency", default="", help="ISO 4217, with --cost.")
@click.option("--reason", "reason_code", default="", help="A code for reports.")
@click.option("--repay-debt/--keep-debt", default=True, help="Whether debt is repaid first.")
@click.option("--label", "labels", type=PAIR, multiple=True, help="NAME=VALUE. Repeatable.")
@click.option("--key", help="Idempotency key; a new one by default.")
@client_command
def give(
    client: Client,
    as_json: bool,
    account: str,
    amount: tuple[str, int],
    **terms: Any,
) -> None:
    """Give AMOUNT (or TYPE=AMOUNT) in the smallest unit; answered once the ledger has it."""
    if (expires_in := terms.pop("expires_in")) is not None:
        terms["expires_at_ms"] = time.time_ns() // 1_000_000 + expires_in
    terms["labels"] = dict(terms["labels"])
    terms["source"] = GrantSource[terms["source"].upper()]
    result = client.grant(account, amount[1], credit_type=amount[0] or None, **terms)
    facts = {
        "grant": result.grant_id,
        "debt repaid": result.debt_repaid or None,
        "available": result.buckets.available,
        "transaction": result.applied.transaction_id,
    }
    print_facts(facts, result, as_json=as_json)


@grant.command()
@click.argument("account")
@click.argument("grant_id")
@click.option("--reason", "reason_code", default="", help="A code, such as chargeback.")
@click.option("--key", help="Idempotency key; a new one by default.")
@client_command
def revoke(client: Client, as_json: bool, account: str, grant_id: str, **options: Any) -> None:
    """Take back what a grant has left; held parts follow when they come back."""
    result = client.revoke(account, grant_id, **options)
    facts = {
        "revoked": result.revoked,
        "still held": result.still_held,
        "available": result.buckets.available,
        "transaction": result.applied.transaction_id,
    }
    print_facts(facts, result, as_json=as_json)


@grant.command("list")
@click.argument("account")
@click.option("--credit-type", default="", help="Only this one.")
@client_command
def list_grants(client: Client, as_json: bool, account: str, credit_type: str) -> None:
    """List an account's grants, newest first, spent ones included."""
    print_rows(client.list_grants(account, credit_type=credit_type), _COLUMNS, as_json=as_json)
