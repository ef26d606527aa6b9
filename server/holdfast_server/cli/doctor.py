"""`holdfast doctor`: whether stores and machine are as they must be, and what to do if not."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from holdfast_server.app.doctor import Check, Health, examine
from holdfast_server.cli.options import json_option, read_settings, settings_options
from holdfast_server.cli.output import Column, print_rows

_MARKS = {Health.OK: "ok", Health.WARNING: "look", Health.BAD: "BAD"}
_COLUMNS = (
    Column[Check]("", lambda each: _MARKS[each.health]),
    Column[Check]("check", lambda each: each.name),
    Column[Check]("found", lambda each: each.found, prose=True),
    Column[Check]("what to do", lambda each: each.advice, prose=True),
)


@click.command()
@settings_options
@json_option
def doctor(as_json: bool, **flags: Any) -> None:
    """Check settings, stores and machine, and say what to do; status 1 if something is wrong."""
    checks = asyncio.run(examine(read_settings(flags)))
    print_rows(checks, _COLUMNS, as_json=as_json)
    if any(check.health is Health.BAD for check in checks):
        raise click.exceptions.Exit(1)
