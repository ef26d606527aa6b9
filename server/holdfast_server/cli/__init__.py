"""The command line: arguments in, calls to the service or to `app`, tables and progress out.

Every command that shows something takes `--json`: then standard output carries one JSON object per
line and nothing else. An error is one line on standard error that says what to do; it ends with
status 1, a wrong use of the command with status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from holdfast_server.cli.errors import explain
from holdfast_server.cli.root import holdfast

#: Exit status after Ctrl-C, as shells expect it.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of the command line, and returns its exit status."""
    try:
        status = holdfast.main(arguments, prog_name="holdfast", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        return _complain(error)
    return status if isinstance(status, int) else 0


def _complain(error: Exception) -> int:
    message = explain(error)
    if message is None:
        raise error
    print(f"holdfast: {message}", file=sys.stderr)
    return 1
