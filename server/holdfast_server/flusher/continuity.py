"""Whether each entry goes on where the one before it of the same credits ended (I2, I10).

Postgres checks that the buckets of a row add up. That they are those of the row before, changed by
what the row says, no constraint can see; neither can it see a version that was left out. What
somebody did to the hot store by hand would be recorded without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast_server.domain.packed import (
    AFTER_AT,
    BUCKETS_END,
    DELTA_AT,
    PackedEntry,
    buckets_at,
)

#: Credits that are remembered; when there are more, all are forgotten.
CREDITS_MAX: Final = 20_000

# The sign of each of eight figures in one number of 512 bits.
_SIGNS: Final = int.from_bytes(b"\x80\0\0\0\0\0\0\0" * 8, "big")


class Continuity:
    """Remembers where credits were. What it does not know, such as after a start, it believes: it
    is made anew before what was read once is read again.

    Eight buckets are added at once, as the digits of one number to the base 2^64. Two such numbers
    are equal only if all eight digits are, where the buckets are what Postgres lets be recorded:
    from 0 to 2^53.
    """

    def __init__(self) -> None:
        #: By tenant, account and credit type: the version that comes next, and the buckets.
        self._known: dict[tuple[bytes, bytes, bytes], tuple[int, int]] = {}

    def first_flaw(self, entries: Sequence[PackedEntry]) -> tuple[int, str] | None:
        """Where the first of these entries stands that is wrong, and why; None where all go on."""
        for place, entry in enumerate(entries):
            if flaw := self._flaw(entry):
                return place, flaw
        return None

    def _flaw(self, entry: PackedEntry) -> str:
        credit = (entry.tenant, entry.account, entry.credit_type)
        version, raw = entry.version, entry.raw
        after = int.from_bytes(raw[AFTER_AT:BUCKETS_END], "big")
        known = self._known.get(credit)
        if known is None:
            if len(self._known) >= CREDITS_MAX:
                self._known.clear()
        elif version != known[0]:
            return f"version {version} follows {known[0] - 1}"
        elif known[1] + _change(raw) != after:
            before = known[1].to_bytes(BUCKETS_END - AFTER_AT, "big")
            change, given = buckets_at(raw, DELTA_AT), buckets_at(raw, AFTER_AT)
            return f"buckets {buckets_at(before, 0)} and change {change} do not give {given}"
        self._known[credit] = version + 1, after
        return ""


def _change(raw: bytes) -> int:
    """The eight changes as one number: each negative one is read as 2^64 too much."""
    change = int.from_bytes(raw[DELTA_AT:AFTER_AT], "big")
    return change - ((change & _SIGNS) << 1)
