"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from holdfast_server.settings import RULES, Rule, Settings, read, variable_of

Command = TypeVar("Command", bound=Callable[..., Any])

#: For machines: one JSON object per line on standard output, and nothing else.
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
#: For lists that begin with the newest and have no end.
limit_option = click.option(
    "--limit",
    default=100,
    type=click.IntRange(0),
    show_default=True,
    help="The newest so many; 0 for all.",
)


def settings_options(command: Command) -> Command:
    """Adds a flag for every setting; the command gets them by name, None where not given."""
    for name in reversed(list(RULES)):
        command = _setting(name, RULES[name])(command)
    return command


def read_settings(flags: dict[str, Any], **given: object) -> Settings:
    """The settings of this command; `given` are those that it decides itself."""
    return read(os.environ, {**flags, **given})


def _setting(name: str, rule: Rule) -> Callable[[Command], Command]:
    switch = rule.allowed == "true or false"
    return click.option(
        "--" + name.replace("_", "-"),
        name,
        metavar=(rule.unit or ("BOOLEAN" if switch else "TEXT")).upper(),
        help=f"{rule.meaning} Or {variable_of(name)}.",
        is_flag=False,
        # A switch may stand alone: --development means --development=true.
        flag_value="true" if switch else None,
    )
