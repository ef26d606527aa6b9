"""Idempotency keys: UUIDv7, whose time lets the server prove freshness without a look-up.

What is by chance in them is made for many at a time: one by one it costs more than to say the time.
"""

from __future__ import annotations

import os
import time

_RANDOM_BYTES = 10
_TIME_MAX = (1 << 48) - 1
#: A key behind its time: by which standard it is, and zeros in the place of what is by chance.
_TAIL = "-7000-8000-000000000000"
#: The digits of the random bytes of a key, and where they go. The first has no place.
_DIGITS = 2 * _RANDOM_BYTES
_PLACES = (2, 3, 4, 6, 7, 8, 9, *range(11, len(_TAIL)))
#: The digit that says the variant: two bits of it are random.
_VARIANT, _VARIANTS = 4, bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)
#: How many keys are prepared at a time, in less than a tenth of a millisecond.
_PREPARED = 128

#: Tails that no key has yet. A process that is forked must not use those of its parent.
_tails: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tails.clear)


def new_key() -> str:
    """A new key: 36 printable characters, unique, sortable by the millisecond it was made in."""
    while True:
        try:
            return uuid7(time.time_ns() // 1_000_000, _tails.pop())
        except IndexError:
            # Other threads may take what is new before this one looks again.
            _tails.extend(tails(os.urandom(_PREPARED * _RANDOM_BYTES)))


def uuid7(now_ms: int, tail: str) -> str:
    """RFC 9562 version 7 from milliseconds since the Unix epoch and one of `tails`."""
    time = (now_ms & _TIME_MAX).to_bytes(6, "big").hex()
    return f"{time[:8]}-{time[8:]}{tail}"


def tails(random: bytes) -> list[str]:
    """A tail for each ten random bytes."""
    digits = bytearray(random.hex(), "ascii")
    digits[_VARIANT::_DIGITS] = digits[_VARIANT::_DIGITS].translate(_VARIANTS)
    written = bytearray(_TAIL * (len(random) // _RANDOM_BYTES), "ascii")
    for digit, place in enumerate(_PLACES, 1):
        written[place :: len(_TAIL)] = digits[digit::_DIGITS]
    text = written.decode()
    return [text[at : at + len(_TAIL)] for at in range(0, len(text), len(_TAIL))]
