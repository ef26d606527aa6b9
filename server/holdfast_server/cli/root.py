"""The tree of commands, each imported when it is used: most need neither driver nor store."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import click

from holdfast_server.app.problem import Problem

#: Exit status when the reader of our output went away, as if the signal had ended us.
PIPE_CLOSED = 141

#: Where each command is: module and name in it.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("local", "up"),
    "demo": ("local", "demo"),
    "replay": ("local", "replay"),
    "bench": ("bench", "bench"),
    "chaos": ("chaos", "chaos"),
    "serve": ("service", "serve"),
    "worker": ("service", "worker"),
    "flush": ("service", "flush"),
    "sweep": ("service", "sweep"),
    "migrate": ("service", "migrate"),
    "settings": ("service", "settings"),
    "doctor": ("doctor", "doctor"),
    "kill": ("kill", "kill"),
    "mode": ("modes", "mode"),
    "fleet": ("modes", "fleet"),
    "account": ("accounts", "account"),
    "credit-type": ("accounts", "credit_type"),
    "grant": ("grants", "grant"),
    "balance": ("balances", "balance"),
    "hold": ("holds", "hold"),
    "burn": ("holds", "burn"),
    "refund": ("holds", "refund"),
    "ledger": ("ledger", "ledger"),
    "recovery": ("recovery", "recovery"),
    "verify": ("ledger", "verify"),
    "reconcile": ("reconcile", "reconcile"),
    "checkpoint": ("checkpoints", "checkpoint"),
}


def _give_up_output() -> None:
    """The interpreter flushes standard output once more when it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command. To click itself a reader who went away would be an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _give_up_output()
            raise click.exceptions.Exit(PIPE_CLOSED) from None
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            _give_up_output()
            raise Problem(f"{error.strerror}: make some and run it again") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: Any = getattr(importlib.import_module(f"holdfast_server.cli.{module}"), name)
        assert isinstance(command, click.Command), cmd_name
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("holdfast"), message="%(version)s")
def holdfast() -> None:
    """Enforces prepaid credit balances: ask before the work, settle after.

    `holdfast up` starts everything on this machine; `holdfast demo` shows what it can do.
    """
