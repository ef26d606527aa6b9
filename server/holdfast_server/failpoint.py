"""Points in the code at which a test can let this process die or fail.

With `HOLDFAST_FAILPOINTS="flusher.after_commit=kill:3,flusher.after_read=error"` this process kills
itself (SIGKILL) the third time it passes the first point, and raises `FailpointError` the first
time it passes the second. Only where `HOLDFAST_ENV=test`: `check_allowed` refuses it anywhere else.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "HOLDFAST_FAILPOINTS"
ENVIRONMENT_VARIABLE: Final = "HOLDFAST_ENV"
ENVIRONMENT: Final = "test"

_ITEM = re.compile(r"([a-z_.]+)=(kill|error)(?::([1-9][0-9]{0,5}))?")


class FailpointError(Exception):
    """A failpoint fired, or the variable that sets them is wrong or not allowed here."""


@dataclass(slots=True)
class _Failpoint:
    action: str
    hits_left: int


def check_allowed() -> None:
    """Raises FailpointError when failpoints are set outside the test environment."""
    if os.environ.get(VARIABLE) and os.environ.get(ENVIRONMENT_VARIABLE) != ENVIRONMENT:
        raise FailpointError(f"{VARIABLE} is set, but {ENVIRONMENT_VARIABLE} is not {ENVIRONMENT}")


def parse(text: str) -> dict[str, _Failpoint]:
    """What a value of the variable says. Raises FailpointError for anything else."""
    points = {}
    for item in filter(None, text.split(",")):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise FailpointError(f"{item!r} is not NAME=kill[:N] or NAME=error[:N]")
        points[match[1]] = _Failpoint(match[2], int(match[3] or 1))
    return points


def hit(name: str) -> None:
    """Passes the point `name`: nothing happens unless this is the hit that was asked for."""
    if _points and (point := _points.get(name)):
        point.hits_left -= 1
        if point.hits_left == 0:
            _fire(name, point.action)


def _fire(name: str, action: str) -> None:
    if action == "error":
        raise FailpointError(name)
    os.kill(os.getpid(), signal.SIGKILL)


def _configured() -> dict[str, _Failpoint]:
    if os.environ.get(ENVIRONMENT_VARIABLE) != ENVIRONMENT:
        return {}
    return parse(os.environ.get(VARIABLE, ""))


_points = _configured()
