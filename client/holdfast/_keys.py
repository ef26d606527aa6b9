"""Idempotency keys: UUIDv7, whose time lets the server prove freshness without a look-up."""

from __future__ import annotations

import os
import time

_RANDOM_BYTES = 10
_TIME_MAX = (1 << 48) - 1
#: The digit that says by which standard: two bits of it are random.
_VARIANTS = "89ab"


def new_key() -> str:
    """A new key: 36 printable characters, unique, sortable by the millisecond it was made in."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(_RANDOM_BYTES))


def uuid7(now_ms: int, random: bytes) -> str:
    """RFC 9562 version 7 from milliseconds since the Unix epoch and ten random bytes."""
    time, chance = f"{now_ms & _TIME_MAX:012x}", random.hex()
    variant = _VARIANTS[random[2] >> 4 & 3]
    return f"{time[:8]}-{time[8:]}-7{chance[1:4]}-{variant}{chance[5:8]}-{chance[8:]}"
