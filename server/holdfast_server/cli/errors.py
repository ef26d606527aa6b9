"""What went wrong, in one line for the person at the terminal."""

from __future__ import annotations

from holdfast import Denied, Unreachable
from holdfast import HoldfastError as ClientError
from holdfast_server.app.problem import Problem
from holdfast_server.errors import HoldfastError
from holdfast_server.failpoint import FailpointError
from holdfast_server.ledger.migrate import MigrationError
from holdfast_server.settings import SettingsError

#: Errors whose text says what to do.
_FORESEEN = (Problem, SettingsError, MigrationError, FailpointError, HoldfastError, ClientError)


def explain(error: Exception) -> str | None:
    """The line to print, or None for an error that nobody foresaw: that one deserves its trace."""
    if isinstance(error, Denied):
        return f"denied: {error}"
    if isinstance(error, Unreachable):
        return f"no service answers; start one with `holdfast up`, or set --target ({error})"
    if isinstance(error, _FORESEEN):
        return " ".join(str(error).split())
    # A place that was named to us: that it cannot be used says all there is to say.
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None
