"""`holdfast mode` and `holdfast fleet`: how enforcement treats whom, and who has heard of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from holdfast import (
    Client,
    Mode,
    NotFound,
    Policy,
    PolicyChange,
    Process,
    Scope,
    ScopeKind,
    StoreUnavailable,
)
from holdfast_server.cli.connection import client_command
from holdfast_server.cli.options import limit_option
from holdfast_server.cli.output import (
    Column,
    console,
    newest,
    print_facts,
    print_json,
    print_rows,
    show_time,
)
from holdfast_server.cli.values import AMOUNT, DURATION

_MODES = [mode.name.lower() for mode in Mode if mode]


def _store_away_text(policy: Policy) -> str:
    rule = policy.store_unavailable
    bound = f", {policy.bound_amount} per account and minute" if policy.bound_amount else ""
    return rule.name.lower().replace("_", " ") + bound


_TERMS_COLUMNS = (
    Column[Policy]("scope", lambda each: _scope_text(each.scope)),
    Column[Policy]("mode", lambda each: each.mode.name),
    Column[Policy]("evaluate %", lambda each: str(each.evaluate_percent), figure=True),
    Column[Policy]("enforce %", lambda each: str(each.enforce_percent), figure=True),
    Column[Policy]("store away", _store_away_text),
    Column[Policy]("version", lambda each: str(each.version), figure=True),
)
_STORY_COLUMNS = (
    Column[Policy]("reverts", lambda each: show_time(each.expires_at_ms) or "never"),
    Column[Policy]("who", lambda each: each.changed_by),
    Column[Policy]("why", lambda each: each.reason),
)


def _of_policy(column: Column[Policy]) -> Column[PolicyChange]:
    """The same column of the policy as a change has set it."""
    return Column(column.heading, lambda each: column.text(each.policy), column.figure)


_CHANGE_COLUMNS = (
    Column[PolicyChange]("when", lambda each: show_time(each.policy.changed_at_ms)),
    Column[PolicyChange]("policies", lambda each: str(each.config_version), figure=True),
    *map(_of_policy, _TERMS_COLUMNS),
    Column[PolicyChange]("before", lambda each: str(each.version_before or "none"), figure=True),
    *map(_of_policy, _STORY_COLUMNS),
)
_PROCESS_COLUMNS = (
    Column[Process]("process", lambda each: each.process),
    Column[Process]("role", lambda each: each.role),
    Column[Process]("version", lambda each: each.version),
    Column[Process]("policies", lambda each: str(each.config_version), figure=True),
    Column[Process](
        "kill switch", lambda each: f"ON by {each.killed_by}" if each.killed else "off"
    ),
    Column[Process]("seen", lambda each: show_time(each.seen_at_ms)),
)


def _scope_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--account", help="One account, not those below it."),
        click.option("--feature", help="One feature of the tenant."),
        click.option("--credit-type", help="One credit type of the tenant."),
        click.option("--global", "everyone", is_flag=True, help="Every tenant."),
    ):
        command = option(command)
    return command


@click.group()
def mode() -> None:
    """Enforcement: off, shadow or enforce. The most specific scope that is set wins.

    Without an option the scope is the whole tenant.
    """


@mode.command("set")
@click.argument("mode", type=click.Choice(_MODES))
@_scope_options
@click.option("--reason", required=True, help="Why; kept in the audit table.")
@click.option("--evaluate-percent", type=int, help="Accounts outside this share are OFF.")
@click.option("--enforce-percent", type=int, help="Evaluated ones outside it are in SHADOW.")
@click.option(
    "--store-away",
    type=click.Choice([each.name.lower().replace("_", "-") for each in StoreUnavailable if each]),
    help="What happens while the hot store is away.",
)
@click.option("--bound", type=AMOUNT, help="For allow-bounded: per account and minute.")
@click.option("--expires-in", "expires_in_ms", type=DURATION, default=0, help="Then it reverts.")
@click.option("--force", is_flag=True, help="Let over 25 % of accounts move at once.")
@click.option("--expected-version", type=int, help="Refuse unless it is at this version.")
@client_command
def set_mode(client: Client, as_json: bool, mode: str, reason: str, **options: Any) -> None:
    """Set the mode of a scope. What is not given stays as it is, but for the time at which it
    reverts: without --expires-in, never."""
    scope = _scope(options)
    policy = _changed(_current(client, scope), Mode[mode.upper()], options)
    result = client.set_policy(
        policy, reason=reason, expires_in_ms=options["expires_in_ms"], force=options["force"]
    )
    _print_policy(result, as_json)


@mode.command("get")
@_scope_options
@client_command
def get_mode(client: Client, as_json: bool, **options: Any) -> None:
    """Show the policy that is set at a scope."""
    _print_policy(client.get_policy(_scope(options)), as_json)


@mode.command("list")
@client_command
def list_modes(client: Client, as_json: bool) -> None:
    """List every policy of the tenant, the most specific first."""
    print_rows(client.list_policies(), (*_TERMS_COLUMNS, *_STORY_COLUMNS), as_json=as_json)


@mode.command("changes")
@limit_option
@client_command
def list_changes(client: Client, as_json: bool, limit: int) -> None:
    """List who changed which policy, when and why, the newest first.

    Changes of the global policy are among them. "before" is the version that counted until then;
    "policies" is what `holdfast fleet` shows of each process that has applied the change.
    """
    print_rows(newest(client.list_policy_changes(), limit), _CHANGE_COLUMNS, as_json=as_json)


@click.command()
@client_command
def fleet(client: Client, as_json: bool) -> None:
    """Show every process of the service, on all hosts, and what it has applied."""
    found = client.get_fleet()
    if as_json:
        print_json(found)
        return
    print_rows(found.processes, _PROCESS_COLUMNS, as_json=False)
    console().print(
        f"\nThe newest policies are {found.config_version}; "
        f"{found.outbox_entries} entries wait for the ledger."
    )


def _scope(options: dict[str, Any]) -> Scope:
    chosen = [
        Scope(kind, value)
        for kind, value in (
            (ScopeKind.ACCOUNT, options["account"]),
            (ScopeKind.FEATURE, options["feature"]),
            (ScopeKind.CREDIT_TYPE, options["credit_type"]),
        )
        if value
    ]
    if options["everyone"]:
        chosen.append(Scope(ScopeKind.GLOBAL))
    if len(chosen) > 1:
        raise click.UsageError("give one scope: --account, --feature, --credit-type or --global")
    return chosen[0] if chosen else Scope(ScopeKind.TENANT)


def _current(client: Client, scope: Scope) -> Policy:
    try:
        return client.get_policy(scope)
    except NotFound:
        return Policy(scope, Mode.ENFORCE)


def _changed(policy: Policy, mode: Mode, options: dict[str, Any]) -> Policy:
    changes: dict[str, Any] = {
        "evaluate_percent": options["evaluate_percent"],
        "enforce_percent": options["enforce_percent"],
        "bound_amount": options["bound"],
        "version": options["expected_version"],
    }
    if options["store_away"]:
        name = options["store_away"].upper().replace("-", "_")
        changes["store_unavailable"] = rule = StoreUnavailable[name]
        if rule is not StoreUnavailable.ALLOW_BOUNDED and options["bound"] is None:
            # A bound is for that rule alone: it goes with it.
            changes["bound_amount"] = 0
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(policy, mode=mode, **given)


def _print_policy(policy: Policy, as_json: bool) -> None:
    facts = {
        "scope": _scope_text(policy.scope),
        "mode": policy.mode.name,
        "evaluate": f"{policy.evaluate_percent} %",
        "enforce": f"{policy.enforce_percent} %",
        "while the store is away": _store_away_text(policy),
        "version": policy.version,
        "reverts": show_time(policy.expires_at_ms) or "never",
        "who": policy.changed_by,
        "why": policy.reason,
        "when": show_time(policy.changed_at_ms),
    }
    print_facts(facts, policy, as_json=as_json)


def _scope_text(scope: Scope) -> str:
    return f"{scope.kind.name.lower().replace('_', ' ')} {scope.value}".strip()
