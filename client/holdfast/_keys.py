"""Idempotency keys: UUIDv7, whose time lets the server prove freshness without a look-up."""

from __future__ import annotations

import os
import time

_RANDOM_BYTES = 10


def new_key() -> str:
    """A new key: 36 printable characters, unique, sortable by the millisecond it was made in."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(_RANDOM_BYTES))


def uuid7(now_ms: int, random: bytes) -> str:
    """RFC 9562 version 7 from milliseconds since the Unix epoch and ten random bytes."""
    value = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(random)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
