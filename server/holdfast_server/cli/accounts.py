"""`holdfast account` and `holdfast credit-type`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from holdfast import Account, AccountStatus, Client, CreditType, Limit, LimitEnforcement
from holdfast_server.cli.connection import client_command
from holdfast_server.cli.output import (
    Column,
    print_facts,
    print_json,
    print_rows,
    show_duration,
    show_time,
)
from holdfast_server.cli.values import LIMIT, LIMIT_HELP, LINE, PAIR, or_none

_ACCOUNT_COLUMNS = (
    Column[Account]("account", lambda each: each.account),
    Column[Account]("parent", lambda each: each.parent),
    Column[Account]("status", lambda each: each.status.name),
    Column[Account]("name", lambda each: each.display_name),
    Column[Account]("limits", lambda each: str(len(each.limits)), figure=True),
    Column[Account]("created", lambda each: show_time(each.created_at_ms)),
)
_CREDIT_TYPE_COLUMNS = (
    Column[CreditType]("credit type", lambda each: each.credit_type),
    Column[CreditType]("name", lambda each: each.display_name),
    Column[CreditType]("scale", lambda each: str(each.scale), figure=True),
)
_TERMS: tuple[Callable[[Any], Any], ...] = (
    click.option("--parent", help="The account above. At most 5 levels."),
    click.option("--name", "display_name", help="For people."),
    click.option("--zone", help="IANA time zone of calendar limits; UTC by default."),
    click.option(
        "--overdraft",
        "overdraft",
        type=or_none(LINE),
        multiple=True,
        help="TYPE=AMOUNT that may be held beyond what is available, or none. Repeatable.",
    ),
    click.option("--limit", "limits", type=or_none(LIMIT), multiple=True, help=LIMIT_HELP),
    click.option(
        "--label", "labels", type=or_none(PAIR), multiple=True, help="NAME=VALUE, or none."
    ),
)


def _terms_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_TERMS):
        command = option(command)
    return command


@click.group()
def account() -> None:
    """Accounts: who holds credits."""


@account.command()
@click.argument("account")
@_terms_options
@click.option("--key", help="Idempotency key; a new one by default.")
@client_command
def create(client: Client, as_json: bool, account: str, key: str | None, **terms: Any) -> None:
    """Create an account, alone or below a parent."""
    result = client.create_account(account, key=key, **_given(terms))
    _print_account(result.account, as_json)


@account.command()
@click.argument("account")
@_terms_options
@click.option("--expected-version", default=0, help="Refuse unless it is at this version.")
@click.option("--key", help="Idempotency key; a new one by default.")
@client_command
def update(
    client: Client,
    as_json: bool,
    account: str,
    expected_version: int,
    key: str | None,
    **terms: Any,
) -> None:
    """Replace the terms that are given; each is replaced whole."""
    result = client.update_account(
        account, expected_version=expected_version, key=key, **_given(terms)
    )
    _print_account(result.account, as_json)


@account.command()
@click.argument("account")
@client_command
def freeze(client: Client, as_json: bool, account: str) -> None:
    """Deny new holds and burns, here and below. What is open can be settled."""
    _set_status(client, as_json, account, AccountStatus.FROZEN)


@account.command()
@click.argument("account")
@client_command
def unfreeze(client: Client, as_json: bool, account: str) -> None:
    """Allow everything again."""
    _set_status(client, as_json, account, AccountStatus.ACTIVE)


@account.command()
@click.argument("account")
@client_command
def close(client: Client, as_json: bool, account: str) -> None:
    """Deny new holds, burns and grants, here and below. What is open can be settled."""
    _set_status(client, as_json, account, AccountStatus.CLOSED)


@account.command("get")
@click.argument("account")
@client_command
def get_account(client: Client, as_json: bool, account: str) -> None:
    """Show one account."""
    _print_account(client.get_account(account), as_json)


@account.command("list")
@click.option("--parent", default="", help="Only those directly below this one.")
@client_command
def list_accounts(client: Client, as_json: bool, parent: str) -> None:
    """List the tenant's accounts by id, as the ledger knows them."""
    print_rows(client.list_accounts(parent=parent), _ACCOUNT_COLUMNS, as_json=as_json)


@click.group()
def credit_type() -> None:
    """Credit types: units of account."""


@credit_type.command("create")
@click.argument("code")
@click.option("--name", "display_name", default="", help="For people.")
@click.option("--scale", default=0, help="Decimal digits of the unit that people read, 0 to 9.")
@client_command
def create_credit_type(
    client: Client, as_json: bool, code: str, display_name: str, scale: int
) -> None:
    """Define a credit type. It never changes afterwards."""
    created = client.create_credit_type(code, display_name=display_name, scale=scale)
    if as_json:
        print_json(created)
    else:
        click.echo(f"{created.credit_type} is defined, with {created.scale} decimal digits.")


@credit_type.command("list")
@client_command
def list_credit_types(client: Client, as_json: bool) -> None:
    """List the tenant's credit types by code."""
    print_rows(client.list_credit_types(), _CREDIT_TYPE_COLUMNS, as_json=as_json)


def _given(terms: dict[str, Any]) -> dict[str, Any]:
    """The terms that were given, as the client takes them."""
    given = {name: value for name, value in terms.items() if value not in (None, ())}
    for name, kind in (("overdraft", dict), ("labels", dict), ("limits", list)):
        if name in given:
            given[name] = kind(each for each in given[name] if each is not None)
    if "overdraft" in given:
        given["overdraft_limits"] = given.pop("overdraft")
    return given


def _set_status(client: Client, as_json: bool, account: str, status: AccountStatus) -> None:
    _print_account(client.update_account(account, status=status).account, as_json)


def _print_account(account: Account, as_json: bool) -> None:
    facts = {
        "account": account.account,
        "parent": account.parent,
        "name": account.display_name,
        "status": account.status.name,
        "overdraft": ", ".join(f"{name}={most}" for name, most in account.overdraft_limits.items()),
        "limits": "\n".join(_describe(limit) for limit in account.limits),
        "zone": account.zone,
        "labels": ", ".join(f"{name}={value}" for name, value in account.labels.items()),
        "version": account.version,
        "created": show_time(account.created_at_ms),
    }
    print_facts(facts, account, as_json=as_json)


def _describe(limit: Limit) -> str:
    unit = limit.credit_type or "requests"
    window = limit.window.name.lower().replace("_", " ")
    length = f" of {show_duration(limit.window_ms)}" if limit.window_ms else ""
    feature = f", {limit.feature} only" if limit.feature else ""
    effect = "warns only" if limit.enforcement is LimitEnforcement.SOFT else "denies"
    return f"{limit.limit_id}: {limit.maximum} {unit} per {window}{length}{feature}, {effect}"
