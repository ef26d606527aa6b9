"""`holdfast hold`, `burn` and `refund`: what a service does, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from holdfast import Client, Decision, HeldLine, OpenHold, Overage, RefundedLine, SettledLine
from holdfast_server.app.problem import Problem
from holdfast_server.cli.connection import client_command
from holdfast_server.cli.output import (
    Column,
    console,
    print_facts,
    print_json,
    print_rows,
    show_time,
)
from holdfast_server.cli.values import DURATION, LINE, PAIR, USED, amounts_of

_HOLD_COLUMNS = (
    Column[OpenHold]("account", lambda each: each.account),
    Column[OpenHold](
        "holds", lambda each: ", ".join(f"{line.credit_type}={line.held}" for line in each.lines)
    ),
    Column[OpenHold]("feature", lambda each: each.feature),
    Column[OpenHold]("mode", lambda each: each.mode.name),
    Column[OpenHold]("placed", lambda each: show_time(each.placed_at_ms)),
    Column[OpenHold]("expires", lambda each: show_time(each.expires_at_ms)),
    Column[OpenHold]("hold", lambda each: each.hold_id),
)
_HELD_COLUMNS = (
    Column[HeldLine]("type", lambda each: each.credit_type),
    Column[HeldLine]("held", lambda each: str(each.held), figure=True),
    Column[HeldLine]("of it debt", lambda each: str(each.debt), figure=True),
    Column[HeldLine]("of it unenforced", lambda each: str(each.unenforced), figure=True),
    Column[HeldLine]("available now", lambda each: str(each.available_after), figure=True),
)
_SETTLED_COLUMNS = (
    Column[SettledLine]("type", lambda each: each.credit_type),
    Column[SettledLine]("burned", lambda each: str(each.burned), figure=True),
    Column[SettledLine]("returned", lambda each: str(each.returned), figure=True),
    Column[SettledLine]("overage", lambda each: str(each.overage), figure=True),
    Column[SettledLine]("debt", lambda each: str(each.debt), figure=True),
    Column[SettledLine]("unenforced", lambda each: str(each.unenforced), figure=True),
    Column[SettledLine]("still held", lambda each: str(each.held_after), figure=True),
    Column[SettledLine]("available now", lambda each: str(each.available_after), figure=True),
)
_REFUNDED_COLUMNS = (
    Column[RefundedLine]("type", lambda each: each.credit_type),
    Column[RefundedLine]("refunded", lambda each: str(each.refunded), figure=True),
    Column[RefundedLine]("of it debt", lambda each: str(each.debt), figure=True),
    Column[RefundedLine]("of it unenforced", lambda each: str(each.unenforced), figure=True),
    Column[RefundedLine]("available now", lambda each: str(each.available_after), figure=True),
)

_credit_type = click.option("--credit-type", default="credits", show_default=True)
_labels = click.option(
    "--label", "labels", type=PAIR, multiple=True, help="NAME=VALUE. Repeatable."
)
_key = click.option("--key", help="Idempotency key; a new one by default.")


@click.group()
def hold() -> None:
    """Holds: credits set aside until they are settled.

    An AMOUNT is in the smallest unit: 100, or TYPE=100; several make one hold of all of them.
    """


@hold.command()
@click.argument("account")
@click.argument("amounts", type=LINE, nargs=-1, required=True)
@_credit_type
@click.option("--minimum", type=LINE, multiple=True, help="The least that is of use. Repeatable.")
@click.option("--ttl", "ttl_ms", type=DURATION, default="60s", show_default=True)
@click.option("--feature", default="")
@_labels
@_key
@client_command
def place(client: Client, as_json: bool, account: str, **options: Any) -> None:
    """Set credits aside. A denial is printed, with status 1."""
    credit_type = options.pop("credit_type")
    amounts = amounts_of(options.pop("amounts"), credit_type)
    minimum = amounts_of(options.pop("minimum"), credit_type) or None
    options["labels"] = dict(options["labels"])
    result = client.reserve(account, amounts, minimum=minimum, **options)
    _print_answer(result, result.decision, _HELD_COLUMNS, as_json)
    if not as_json:
        facts = {"hold": result.hold_id, "expires": show_time(result.expires_at_ms)}
        print_facts(facts, result, as_json=False)
    _raise_if_denied(result.decision)


@hold.command()
@click.argument("hold_id")
@click.argument("amounts", type=USED, nargs=-1)
@_credit_type
@click.option("--keep-open", is_flag=True, help="Burn this part, and keep the rest held.")
@click.option("--ttl", "ttl_ms", type=DURATION, default=0, help="With --keep-open: from now.")
@click.option(
    "--overage",
    type=click.Choice(["charge", "cap", "reject"]),
    default="charge",
    show_default=True,
    help="What to do with an amount above the hold.",
)
@_labels
@_key
@client_command
def commit(client: Client, as_json: bool, hold_id: str, **options: Any) -> None:
    """Burn what was used of a hold (by default what is held) and give the rest back."""
    amounts = amounts_of(options.pop("amounts"), options.pop("credit_type"))
    options["final"] = not options.pop("keep_open")
    options["overage"] = Overage[options["overage"].upper()]
    options["labels"] = dict(options["labels"])
    result = client.commit(hold_id, amounts or None, **options)
    _print_answer(result, result.decision, _SETTLED_COLUMNS, as_json)
    _raise_if_denied(result.decision)


@hold.command()
@click.argument("hold_id")
@click.option("--reason", default="", help="Why, for the ledger.")
@_key
@client_command
def release(client: Client, as_json: bool, hold_id: str, **options: Any) -> None:
    """Give all of a hold back."""
    result = client.release(hold_id, **options)
    _print_answer(result, result.decision, _SETTLED_COLUMNS, as_json)


@hold.command()
@click.argument("hold_id")
@click.option("--ttl", "ttl_ms", type=DURATION, required=True, help="Measured from now.")
@_key
@client_command
def extend(client: Client, as_json: bool, hold_id: str, **options: Any) -> None:
    """Give a hold more time."""
    result = client.extend(hold_id, **options)
    print_facts({"expires": show_time(result.expires_at_ms)}, result, as_json=as_json)


@hold.command("list")
@click.argument("account")
@click.option("--descendants", is_flag=True, help="Also of every account below.")
@client_command
def list_holds(client: Client, as_json: bool, account: str, descendants: bool) -> None:
    """List open holds, sooner expiry first."""
    holds = client.list_holds(account, include_descendants=descendants)
    print_rows(holds, _HOLD_COLUMNS, as_json=as_json)


@click.command()
@click.argument("account")
@click.argument("amounts", type=LINE, nargs=-1, required=True)
@_credit_type
@click.option("--feature", default="")
@_labels
@_key
@client_command
def burn(client: Client, as_json: bool, account: str, **options: Any) -> None:
    """Consume credits in one step, without a hold. A denial is printed, with status 1."""
    amounts = amounts_of(options.pop("amounts"), options.pop("credit_type"))
    options["labels"] = dict(options["labels"])
    result = client.burn(account, amounts, **options)
    _print_answer(result, result.decision, _SETTLED_COLUMNS, as_json)
    if not as_json:
        print_facts({"transaction": result.applied.transaction_id}, result, as_json=False)
    _raise_if_denied(result.decision)


@click.command()
@click.argument("transaction_id")
@click.argument("amounts", type=LINE, nargs=-1)
@_credit_type
@click.option("--reason", "reason_code", required=True, help="A code, such as quality.")
@click.option(
    "--goodwill-ttl",
    "goodwill_ttl_ms",
    type=DURATION,
    default=0,
    help="What belonged to expired grants comes back as a new grant that lives this long.",
)
@_key
@client_command
def refund(client: Client, as_json: bool, transaction_id: str, **options: Any) -> None:
    """Give burned credits back, by default all that is left to refund."""
    amounts = amounts_of(options.pop("amounts"), options.pop("credit_type"))
    result = client.refund(transaction_id, amounts or None, **options)
    print_rows(result.lines, _REFUNDED_COLUMNS, as_json=False) if not as_json else print_json(
        result
    )


def _print_answer(
    result: Any, decision: Decision, columns: Sequence[Column[Any]], as_json: bool
) -> None:
    if as_json:
        print_json(result)
        return
    console().print(f"{decision.outcome.name} {decision.reason}".strip())
    if result.lines:
        print_rows(result.lines, columns, as_json=False)


def _raise_if_denied(decision: Decision) -> None:
    if not decision.allowed:
        raise Problem(f"denied: {decision.message or decision.reason}")
