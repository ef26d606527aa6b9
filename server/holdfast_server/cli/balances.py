"""`holdfast balance`: what an account has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import click

from holdfast import BalanceResult, Client, CreditBalance, LimitUse
from holdfast_server.cli.connection import client_command
from holdfast_server.cli.output import Column, console, print_json, print_rows, show_time


@dataclass(frozen=True, slots=True)
class _GrantRow:
    """One grant of one credit type."""

    credit_type: str
    grant_id: str
    remaining: int
    held: int
    expires_at_ms: int


def _bucket(name: str) -> Column[CreditBalance]:
    return Column(name, lambda each: str(getattr(each.buckets, name)), figure=True)


_CREDIT_COLUMNS = (
    Column[CreditBalance]("type", lambda each: each.credit_type),
    Column[CreditBalance]("spendable", lambda each: str(each.spendable), figure=True),
    *map(_bucket, ("available", "held", "burned", "expired", "revoked")),
    *map(_bucket, ("granted", "debt", "unenforced")),
)
_GRANT_COLUMNS = (
    Column[_GrantRow]("grant, in burn order", lambda each: each.grant_id),
    Column[_GrantRow]("type", lambda each: each.credit_type),
    Column[_GrantRow]("remaining", lambda each: str(each.remaining), figure=True),
    Column[_GrantRow]("held", lambda each: str(each.held), figure=True),
    Column[_GrantRow]("expires", lambda each: show_time(each.expires_at_ms) or "never"),
)
_LIMIT_COLUMNS = (
    Column[LimitUse]("limit", lambda each: each.limit_id),
    Column[LimitUse]("of", lambda each: each.account),
    Column[LimitUse]("used", lambda each: str(each.used), figure=True),
    Column[LimitUse]("maximum", lambda each: str(each.maximum), figure=True),
    Column[LimitUse]("left", lambda each: str(each.remaining), figure=True),
    Column[LimitUse]("free again", lambda each: show_time(each.resets_at_ms)),
)


@click.command()
@click.argument("account")
@client_command
def balance(client: Client, as_json: bool, account: str) -> None:
    """Show what an account has, holds and has used, in the smallest unit."""
    result = client.balance(account)
    if as_json:
        print_json(result)
        return
    print_rows(result.credits, _CREDIT_COLUMNS, as_json=False)
    if grants := list(_grants(result)):
        click.echo()
        print_rows(grants, _GRANT_COLUMNS, as_json=False)
    if result.limits:
        click.echo()
        print_rows(result.limits, _LIMIT_COLUMNS, as_json=False)
    source = "by the ledger: the hot store is away" if result.stale else "by the store's clock"
    console().print(f"\n{result.open_holds} open holds at {show_time(result.as_of_ms)}, {source}.")


def _grants(result: BalanceResult) -> Iterator[_GrantRow]:
    for credit in result.credits:
        for each in credit.grants:
            yield _GrantRow(
                credit.credit_type, each.grant_id, each.remaining, each.held, each.expires_at_ms
            )
