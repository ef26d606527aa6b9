"""Time zones as the scripts need them: when the offset from UTC changes, for years ahead."""

from __future__ import annotations

import errno
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from holdfast_server.errors import HoldfastError, Reason

#: How far ahead offsets are known. A change of an account's terms computes them anew.
YEARS_AHEAD = 10
#: A zone changes at most a few times a year; this bounds what an account carries.
OFFSETS_MAX = 64
#: Errors of opening a file that say nothing about its name: there is no file descriptor left.
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
#: What callers are told to wait then.
RETRY_AFTER_MS = 250


def offsets_of(zone: str, now_ms: int | None = None) -> tuple[tuple[int, int], ...]:
    """(from_ms, offset_ms) pairs, rising, from a day ago to `YEARS_AHEAD`; empty for UTC.

    Raises OVERLOADED where the zone's file cannot be opened for now.
    """
    if not zone:
        return ()
    instant = time.time() if now_ms is None else now_ms / 1_000
    return _offsets(zone, int(instant // 86_400))


@lru_cache(maxsize=1_024)
def _offsets(zone: str, day: int) -> tuple[tuple[int, int], ...]:
    info = _info(zone)
    start = datetime.fromtimestamp((day - 1) * 86_400, UTC)
    pairs = [(0, _offset_ms(info, start))]
    for days in range(1, YEARS_AHEAD * 366):
        instant = start + timedelta(days=days)
        if _offset_ms(info, instant) != pairs[-1][1] and len(pairs) < OFFSETS_MAX:
            change = _bisect(info, instant - timedelta(days=1), instant)
            pairs.append((int(change.timestamp() * 1_000), _offset_ms(info, change)))
    return tuple(pairs)


def _info(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except OSError as error:
        if error.errno not in _NO_DESCRIPTOR:
            raise
        message = "The server has no file descriptor left to look a time zone up; call again later."
        raise HoldfastError(Reason.OVERLOADED, message, retry_after_ms=RETRY_AFTER_MS) from error


def _bisect(info: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first second at which the offset is the one that holds at `after`."""
    low, high = int(before.timestamp()), int(after.timestamp())
    target = _offset_ms(info, after)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_ms(info, datetime.fromtimestamp(middle, UTC)) == target:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)


def _offset_ms(info: ZoneInfo, instant: datetime) -> int:
    offset = instant.astimezone(info).utcoffset()
    return int((offset or timedelta()).total_seconds() * 1_000)
